"""Failures of transformers, peft, TRL, datasets and the hub's client, made to happen."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from provocations import TINY, folder, provokes


def tokenizer(**more: object):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", **more)


@provokes("transformers", "fa_missing")
def _():
    from transformers import AutoModelForCausalLM, LlamaConfig

    AutoModelForCausalLM.from_config(LlamaConfig(**TINY), attn_implementation="flash_attention_2")


@provokes("transformers", "chat_template")
def _():
    tokenizer().apply_chat_template([{"role": "user", "content": "a"}])


@provokes("transformers", "system_role")
def _():
    # The line of Gemma's own template, raised by the sandbox of the library.
    text = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer().apply_chat_template([{"role": "system", "content": "a"}], chat_template=text)


@provokes("transformers", "roles_alternate")
def _():
    text = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
        "{% endif %}{% endfor %}"
    )
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    tokenizer().apply_chat_template(turns, chat_template=text)


@provokes("transformers", "pad_token")
def _():
    tokenizer()(["a", "a b"], padding=True)


@provokes("transformers", "ragged")
def _():
    tokenizer()(["a", "a b"], return_tensors="pt")


@provokes("transformers", "unknown_type")
def _():
    from transformers import AutoConfig

    AutoConfig.from_pretrained(folder(config__json={"model_type": "nonesuch"}))


@provokes("transformers", "vlm_class")
def _():
    from transformers import AutoModelForCausalLM, ViTConfig

    AutoModelForCausalLM.from_config(ViTConfig())


@provokes("transformers", "remote_code")
def _():
    from transformers import AutoConfig

    path = folder(config__json={"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, own__py="raise SystemExit")
    AutoConfig.from_pretrained(path, trust_remote_code=False)


@provokes("transformers", "hub_down")
def _():
    from transformers import AutoConfig

    AutoConfig.from_pretrained("nobody/nothing-at-all")  # HF_HUB_OFFLINE is set


@provokes("transformers", "lora_target")
def _():
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    get_peft_model(AutoModelForCausalLM.from_config(LlamaConfig(**TINY)), LoraConfig(target_modules=["query_key"]))


def served(data: bytes = b"", status: int = 200) -> str:
    """The address of a server that answers so to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, format, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_HUB_OFFLINE"] = "0"  # read when the library is imported
    return f"http://127.0.0.1:{server.server_port}"


def ask_hub(address: str) -> None:
    from huggingface_hub import HfApi

    HfApi(endpoint=address).model_info("some/model", timeout=5)


@provokes("hub", "gated")
def _():
    ask_hub(served(status=403))


@provokes("hub", "rate_limit")
def _():
    ask_hub(served(status=429))


@provokes("datasets", "ds_split")
def _():
    from datasets import load_dataset

    load_dataset("json", data_files=str(folder(a__jsonl='{"a": 1}\n') / "a.jsonl"), split="nope")


@provokes("datasets", "ds_column")
def _():
    from datasets import Dataset

    Dataset.from_dict({"a": [1]}).remove_columns(["nope"])


@provokes("datasets", "ds_file")
def _():
    from datasets import load_dataset

    load_dataset("json", data_files="/no/such/file.jsonl")


@provokes("datasets", "ds_gen")
def _():
    from datasets import load_dataset

    load_dataset("json", data_files=str(folder(a__jsonl='{"a": 1}\n{"a": \n') / "a.jsonl"))


@provokes("datasets", "ds_cast")
def _():
    import pyarrow as pa
    from datasets import Value
    from datasets.table import cast_array_to_feature

    cast_array_to_feature(pa.array([{"x": 1}]), Value("int64"))


@provokes("datasets", "ds_script")
def _():
    from datasets import load_dataset

    load_dataset(str(folder(own__py="raise SystemExit") / "own.py"))


@provokes("datasets", "ds_config")
def _():
    from datasets import load_dataset

    card = "---\nconfigs:\n- config_name: one\n  data_files: a.jsonl\n- config_name: two\n  data_files: a.jsonl\n---\n"
    load_dataset(str(folder(a__jsonl='{"a": 1}\n', README__md=card)))


@provokes("trl", "group_one")
def _():
    from trl import GRPOConfig

    GRPOConfig(output_dir="x", num_generations=1, use_cpu=True, bf16=False)


@provokes("trl", "group_div")
def _():
    from trl import GRPOConfig

    GRPOConfig(output_dir="x", per_device_train_batch_size=4, num_generations=3, use_cpu=True, bf16=False)


@provokes("trl", "fp16_bf16")
def _():
    from transformers import TrainingArguments

    TrainingArguments(output_dir="x", fp16=True, bf16=True, use_cpu=True)


@provokes("transformers", "slow_tok")
def _():
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast()


@provokes("hub", "hub_corrupt")
def _():
    import io

    address = served(b"half of it")
    from huggingface_hub.file_download import http_get

    http_get(address, io.BytesIO(), expected_size=1000, displayed_filename="model.safetensors")
