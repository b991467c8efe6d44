"""Makes known failures happen on the installed versions: `provoke.py GROUP`, one JSON line {id, text} for each.

A provocation is a true call of the library that fails truly; its text is what a log would show, the traceback.
Nothing is quoted: where a new version words a failure otherwise, the table of signatures has to learn it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GROUPS: dict[str, dict[str, Callable[[], object]]] = {}


def provokes(group: str, name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def register(function: Callable[[], object]) -> Callable[[], object]:
        GROUPS.setdefault(group, {})[name] = function
        return function

    return register


def folder(**files: object) -> Path:
    """A folder of JSON files, or of texts."""
    path = Path(tempfile.mkdtemp())
    for name, content in files.items():
        name = name.replace("__", ".")
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---------------------------------------------------------------------------------------------------------- torch


@provokes("torch", "index_range")
def _():
    import torch

    torch.nn.Embedding(4, 2)(torch.tensor([7]))


@provokes("torch", "nan_probs")
def _():
    import torch

    torch.multinomial(torch.tensor([float("nan"), 1.0]), 1)


@provokes("torch", "no_grad_fn")
def _():
    import torch

    torch.ones(2).sum().backward()


@provokes("torch", "eaddrinuse")
def _():
    import socket

    from torch.distributed import TCPStore

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    TCPStore("127.0.0.1", taken.getsockname()[1], is_master=True, wait_for_workers=False)


@provokes("torch", "store_timeout")
def _():
    import socket
    from datetime import timedelta

    from torch.distributed import TCPStore

    free = socket.socket()
    free.bind(("127.0.0.1", 0))  # bound and deaf: nobody accepts
    TCPStore("127.0.0.1", free.getsockname()[1], is_master=False, timeout=timedelta(seconds=1))


@provokes("torch", "no_cuda")
def _():
    import torch

    torch.zeros(1, device="cuda")


@provokes("torch", "weights_only")
def _():
    import pickle

    import torch

    path = folder() / "model.bin"
    path.write_bytes(pickle.dumps(Path("/")))
    torch.load(path)


@provokes("torch", "ckpt_torn")
def _():
    import torch

    path = folder() / "model.pt"
    torch.save(torch.zeros(1000), path)
    path.write_bytes(path.read_bytes()[:2000])
    torch.load(path)


@provokes("torch", "size_mismatch")
def _():
    import torch

    torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())


@provokes("torch", "tied")
def _():
    import torch
    from safetensors.torch import save_file

    weight = torch.zeros(4, 4)
    save_file({"embed": weight, "head": weight}, folder() / "model.safetensors")


@provokes("torch", "dl_shm")
def _():
    import torch

    class Dies(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            os._exit(1)

    next(iter(torch.utils.data.DataLoader(Dies(), num_workers=1)))


@provokes("torch", "too_many_files")
def _():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            os.close(one)


@provokes("torch", "disk_full")
def _():
    with Path("/dev/full").open("w") as full:
        full.write("x")
        full.flush()


@provokes("torch", "ds_2d")
def _():
    import torch

    torch.nn.functional.embedding(torch.tensor([0]), torch.zeros(0))  # a weight that ZeRO 3 has sharded away


@provokes("torch", "pyd")
def _():
    import pydantic

    pydantic.create_model("Settings", lr=(float, ...))(lr="fast")


# --------------------------------------------------------------------------------------------------- transformers

TINY = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip


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


def answer_of_hub(status: int) -> None:
    """What the hub's client says about a hub that answers so."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_HUB_OFFLINE"] = "0"  # read when the library is imported
    from huggingface_hub import HfApi

    HfApi(endpoint=f"http://127.0.0.1:{server.server_port}").model_info("some/model", timeout=5)


@provokes("hub", "gated")
def _():
    answer_of_hub(403)


@provokes("hub", "rate_limit")
def _():
    answer_of_hub(429)


# ------------------------------------------------------------------------------------------------------- datasets


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


# ------------------------------------------------------------------------------------------------------ deepspeed


@provokes("deepspeed", "ds_batch")
def _():
    from deepspeed.runtime.config import DeepSpeedConfig

    sizes = {"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}
    DeepSpeedConfig(sizes)


@provokes("deepspeed", "loss_scale")
def _():
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(
        init_scale=1, scale_window=1, min_scale=1, delayed_shift=1, consecutive_hysteresis=False,
        raise_error_at_min_scale=True,
    )  # fmt: skip
    scaler.update_scale(True)


@provokes("deepspeed", "ds_cuda_home")
def _():
    from deepspeed.ops.op_builder.builder import installed_cuda_version

    installed_cuda_version()


# ----------------------------------------------------------------------------------------------------------- vllm


@provokes("vllm", "vllm_kv_none")
def _():
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    _check_enough_kv_cache_memory(0, lambda: 1, 16, lambda room: 0)


@provokes("vllm", "vllm_kv_small")
def _():
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    _check_enough_kv_cache_memory(2**20, lambda: 2**30, 4096, lambda room: 128)


def vllm_model(**more: object):
    from vllm.config import ModelConfig

    facts = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, **TINY}
    return ModelConfig(model=str(folder(config__json=facts)), skip_tokenizer_init=True, dtype="float32", **more)


@provokes("vllm", "vllm_len_derived")
def _():
    vllm_model(max_model_len=100_000)


@provokes("vllm", "vllm_tp_heads")
def _():
    from types import SimpleNamespace

    sizes = SimpleNamespace(
        tensor_parallel_size=3, pipeline_parallel_size=1, enable_expert_parallel=False, enable_hc_sp=False,
        distributed_executor_backend="mp", decode_context_parallel_size=1,
    )  # fmt: skip
    vllm_model().verify_with_parallel_config(sizes)


@provokes("vllm", "vllm_lora_rank")
def _():
    from types import SimpleNamespace

    from vllm.lora.peft_helper import PEFTHelper

    helper = PEFTHelper.from_dict({"r": 64, "lora_alpha": 8, "target_modules": ["q_proj"]})
    helper.validate_legal(SimpleNamespace(max_lora_rank=16))


@provokes("vllm", "vllm_arch")
def _():
    from vllm.config import ModelConfig

    facts = {"model_type": "llama", "architectures": ["NonesuchForCausalLM"], "max_position_embeddings": 64, **TINY}
    path = folder(config__json=facts)
    ModelConfig(model=str(path), skip_tokenizer_init=True, dtype="float32", model_impl="vllm")


# ------------------------------------------------------------------------------------------------------------ ray


def with_ray():
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 _node_ip_address="127.0.0.1")  # fmt: skip
    return ray


@provokes("ray", "ray_get_timeout")
def _():
    ray = with_ray()
    ray.get(ray.remote(num_gpus=7)(lambda: 1).remote(), timeout=0.5)


@provokes("ray", "ray_init_cause")
def _():
    ray = with_ray()

    class Broken:
        def __init__(self):
            raise RuntimeError("its own fault")

        def ready(self):
            return True

    ray.get(ray.remote(Broken).remote().ready.remote(), timeout=60)


@provokes("ray", "ray_sigkill")
def _():
    ray = with_ray()

    class Killed:
        def leave(self):
            os.kill(os.getpid(), 9)

    ray.get(ray.remote(Killed).remote().leave.remote(), timeout=60)


def main(group: str) -> None:
    """Every provocation of the group; one that does not fail has an empty text."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs to the log
    for name, provoke in GROUPS[group].items():
        try:
            provoke()
            text = ""
        except BaseException:
            text = traceback.format_exc()
        print(json.dumps({"id": name, "text": text}), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # Ray's own end takes seconds, and its processes leave with this one
