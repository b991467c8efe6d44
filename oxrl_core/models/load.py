"""Where a model comes from and how it is loaded: safetensors only, no remote code, no weight left random in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from oxrl_core.errors import ModelError
from oxrl_core.models.heads import use_scalar_score
from oxrl_core.models.miniature import make_miniature
from oxrl_core.models.multimodal import is_multimodal

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    from oxrl_core.config.schema import ModelConfig

RUN_MODEL_FOLDER = "model"  # the miniature that a run started from, inside its run directory
FINAL_MODEL_FOLDER = "final"  # the trained model of a run, inside its run directory; what `run:<id>` names
# Weights as safetensors, tokenizer and configuration as data. Python files and pickles are never fetched.
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$|^[\w-][\w.-]*$")


def resolve_model(path: str, *, run_folder: Path, home: Path, seed: int, revision: str | None = None) -> Path:
    """The local folder that holds the model which `path` names; a miniature is made and a hub model fetched for it.

    `home` is the folder whose runs/<id> are the runs; `run_folder` belongs to the run that asks.
    """
    if path.startswith("miniature:"):
        folder = run_folder / RUN_MODEL_FOLDER
        if not (folder / "config.json").is_file():
            make_miniature(path.removeprefix("miniature:"), folder, seed)
        return folder
    if path.startswith("run:"):
        return _check_folder(home / "runs" / path.removeprefix("run:") / FINAL_MODEL_FOLDER, path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _check_folder(folder.resolve(), path)
    if path.startswith(("/", ".", "~")) or not HUB_ID.match(path):
        raise ModelError(
            "the model folder does not exist", f"model.path: {path}", "give a folder, a hub id, or miniature:chars"
        )
    return _check_folder(_fetch(path, revision), path)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a pad token that is not trained on by mistake."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the tokenizer cannot be loaded: {_first_line(error)}", str(folder), "copy the tokenizer files beside it"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no EOS token", str(folder), "set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks decide what is trained on, never the token id
    return tokenizer


def load_policy(folder: Path, model: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The causal model on the CPU in `dtype`, ready to train: no cache, gradient checkpointing as configured."""
    return _load(causal_class(folder), folder, model, dtype)


def causal_class(folder: Path) -> type[_BaseAutoModelClass]:
    """What loads the folder's model with its output head, and with its towers where it sees or hears."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError):
        return AutoModelForCausalLM  # whose own loading says what is wrong
    return AutoModelForMultimodalLM if is_multimodal(config) else AutoModelForCausalLM


def load_backbone(folder: Path, model: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """As load_policy, without the output head; the folder may hold a causal model, a reward model or a backbone."""
    return _load(AutoModel, folder, model, dtype)


def load_scorer(folder: Path, model: ModelConfig, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """As load_policy, with one score in place of the output head: from a reward model's folder or a causal one.

    Only a causal model may lack the score head; then it starts from the seed. config.pad_token_id is a token that no
    row ends with: by it transformers finds the end of a row.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the model cannot be loaded: {_first_line(error)}", str(folder), "the folder needs a config.json"
        ) from error
    if is_multimodal(config):
        raise ModelError(
            f"a {config.model_type} model reads pictures or sounds, and reward models here read text alone",
            str(folder),
            "take a text model; or judge pictures by reward.name: judge, multimodal or a function of your own",
        )
    has_score = any("SequenceClassification" in name for name in config.architectures or [])
    if has_score and config.num_labels != 1:
        raise ModelError(f"the model gives {config.num_labels} labels", str(folder), "a reward model gives one score")
    config.num_labels = 1
    config.get_text_config().pad_token_id = config.pad_token_id = _padding_of_rows(config, load_tokenizer(folder))
    with torch.random.fork_rng(devices=[]):  # transformers draws a head that is missing
        may_lack = () if has_score else ("score.weight",)
        scorer = _load(AutoModelForSequenceClassification, folder, model, dtype, may_lack, config=config)
    use_scalar_score(scorer)
    if not has_score:
        scorer.score.reset(seed)
    return scorer


def _padding_of_rows(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """A token that stands at no row's end, so that the last other token is the end."""
    ends = {tokenizer.eos_token_id}
    for part in (config, config.get_text_config()):
        ends.update(part.eos_token_id if isinstance(part.eos_token_id, list) else [part.eos_token_id])
    written = config.get_text_config().pad_token_id
    for token in (written, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id):
        if token is not None and token not in ends:
            return int(token)
    raise ModelError(
        "no token can pad the rows of a reward model: pad, bos and unk are missing or end a text",
        str(tokenizer.name_or_path),
        "set pad_token in tokenizer_config.json to a token of the vocabulary that no text uses",
    )


def _load(
    auto_class: type[_BaseAutoModelClass],
    folder: Path,
    model: ModelConfig,
    dtype: torch.dtype,
    may_lack: Sequence[str] = (),
    **options: Any,
) -> PreTrainedModel:
    report = logging.getLogger("transformers.modeling_utils")
    level = report.level
    report.setLevel(logging.ERROR)  # its table of missing weights: what matters of it is raised below
    try:
        loaded, info = auto_class.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=model.attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"the model cannot be loaded: {_first_line(error)}",
            str(folder),
            "the folder needs config.json and safetensors weights of a causal language model; "
            "model.attention: eager works everywhere",
        ) from error
    finally:
        report.setLevel(level)
    # A head that is not in the files would be trained from random weights, and nobody would see why it is so bad.
    wrong = [*info["missing_keys"], *(str(entry[0]) for entry in info.get("mismatched_keys") or [])]
    wrong = [name for name in wrong if name not in may_lack]
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights of the model are not in its files: {', '.join(sorted(map(str, wrong))[:5])}",
            str(folder),
            "take a complete checkpoint of this architecture",
        )
    loaded.config.use_cache = False
    if model.gradient_checkpointing:
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return loaded


def _fetch(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = f"model.path: {hub_id}"
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=HUB_FILES))
    except GatedRepoError as error:
        raise ModelError(
            "the model is gated", where, f"accept its licence on https://huggingface.co/{hub_id} and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "neither a folder nor a model of the hub has this name", where, "check the spelling; private: set HF_TOKEN"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            "neither a folder nor a cached model has this name, and the hub cannot be reached",
            where,
            "check the spelling and the network, or give a local folder",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"the hub did not give the model: {_first_line(error)}", where, "try again later") from error


def _check_folder(folder: Path, path: str) -> Path:
    where = f"model.path: {path}"
    if not (folder / "config.json").is_file():
        raise ModelError(f"no model in {folder}: config.json is missing", where, "give a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"no safetensors weights in {folder}", where, "convert the weights; pickled weights are never loaded"
        )
    return folder


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
