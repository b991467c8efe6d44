"""What can be known about a model without loading it: from its JSON, the headers of its weights, the registry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.beside import reward_model_params
from oxrl_core.config.case import Case
from oxrl_core.config.machine import is_offline
from oxrl_core.config.registry import model_entry, model_slugs
from oxrl_core.config.shape import Shape, shape_of
from oxrl_core.suggest import did_you_mean

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$|^[\w-][\w.-]*$")
# `miniature:chars` reads one character per token; the other miniatures have byte tokens and merges of two bytes.
CHARS_CONTEXT = 64
CHARS_PARAMETERS = 400_000


@dataclass
class ModelFacts:
    """What is known about a model without loading it."""

    num_parameters: int | None = None
    context: int | None = None  # positions that it can read
    layers: int | None = None
    hidden: int | None = None
    shape: Shape | None = None
    least_tokens: Callable[[str], int] | None = None  # at least so many tokens is a text
    download_bytes: float = 0.0
    vocabulary: dict[str, int] = field(default_factory=dict[str, int])  # empty where it is not known


def look_at_model(case: Case) -> ModelFacts:
    """The facts about the policy's model."""
    path = case.config.model.path
    return _look_at(case, path, f"model.path = {path}", case.config.model.revision)


def look_at_models_beside(case: Case, policy: ModelFacts) -> dict[str, ModelFacts]:
    """The facts about `teacher` and `reward_model`, where there are such; complains where a teacher cannot teach."""
    found: dict[str, ModelFacts] = {}
    if case.beside.reward_model:
        path, revision = case.beside.reward_model, (reward_model_params(case.config) or {}).get("revision")
        found["reward_model"] = _look_at(case, path, f"reward.path = {path}", revision)
    if case.beside.teacher:
        where = f"algorithm.teacher = {case.beside.teacher}"
        teacher = found["teacher"] = _look_at(case, case.beside.teacher, where, None)
        if policy.vocabulary and teacher.vocabulary and policy.vocabulary != teacher.vocabulary:
            shared = len(policy.vocabulary.items() & teacher.vocabulary.items())
            case.error(
                "ModelError",
                where,
                f"its vocabulary is not the student's: of {len(teacher.vocabulary):,} tokens {shared:,} are the same, "
                f"the student has {len(policy.vocabulary):,}",
                "take a teacher of the student's family, with the same tokenizer",
            )
    return found


def _look_at(case: Case, path: str, where: str, revision: str | None) -> ModelFacts:
    entry = model_entry(path)
    if path == "miniature:chars":
        return ModelFacts(CHARS_PARAMETERS, CHARS_CONTEXT, 2, 128, least_tokens=len)
    if path.startswith("miniature:"):
        if entry is None:
            names = ["chars", *model_slugs()]
            slug = path.removeprefix("miniature:")
            what = f"there is no miniature of that name.{did_you_mean(slug, names)}"
            case.error("ModelError", where, what, f"take one of: {', '.join(names)}")
            return ModelFacts()
        context = _context(cast("dict[str, Any]", entry[1].get("architecture") or {}))
        return ModelFacts(250_000, context, 2, 64, least_tokens=lambda text: len(text.encode()) // 2)
    if path.startswith("run:"):
        return _model_of_run(case, path.removeprefix("run:"), where)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _model_folder(case, folder, where)
    if path.startswith(("/", ".", "~")) or not HUB_ID.match(path):
        parent = folder.parent
        near = did_you_mean(folder.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else ""
        case.error("ModelError", where, f"the model folder does not exist.{near}", "give a folder or a hub id")
        return ModelFacts()
    return _hub_model(case, path, entry[1] if entry else None, where, revision)


def _model_of_run(case: Case, run_id: str, where: str) -> ModelFacts:
    runs = case.home / "runs"
    final = runs / run_id / "final"
    if run_id and final.is_dir():
        return _model_folder(case, final, where)
    if run_id and (runs / run_id).is_dir():
        case.error("ModelError", where, "that run has no final weights yet", f"wait for it: oxrl run watch {run_id}")
    else:
        known = [folder.name for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
        near = did_you_mean(run_id, known)
        case.error("ModelError", where, f"there is no run of that id.{near}", "oxrl run list names them")
    return ModelFacts()


def _model_folder(case: Case, folder: Path, where: str) -> ModelFacts:
    """A local model, read from its JSON and the headers of its weights."""
    try:
        facts = cast("dict[str, Any]", json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        case.error("ModelError", where, "the folder has no config.json", "give the folder of a Hugging Face model")
        return ModelFacts()
    except (OSError, ValueError) as error:
        case.error("ModelError", where, f"its config.json cannot be read: {error}", "download the model again")
        return ModelFacts()
    text = cast("dict[str, Any]", facts.get("text_config") or facts)
    weights = sorted(folder.glob("*.safetensors"))
    count: int | None = None
    if not weights:
        case.error(
            "ModelError", where, "the folder has no safetensors weights", "convert them: no pickle is ever loaded"
        )
    else:
        try:
            count = sum(count_parameters(file) for file in weights)
        except (OSError, ValueError) as error:
            case.error("ModelError", where, f"its weights are torn: {error}", "download or export them again")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() and not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json")):
        case.error("ModelError", where, "the folder has no tokenizer", "copy tokenizer.json and its config beside it")
    counter: Callable[[str], int] | None = None
    try:
        counter = _token_counter(tokenizer)
    except ValueError as error:
        case.error("ModelError", where, str(error), "download or export the model again")
    return ModelFacts(
        num_parameters=count,
        context=_context(text),
        layers=text.get("num_hidden_layers"),
        hidden=text.get("hidden_size"),
        shape=shape_of(facts, count),
        least_tokens=counter,
        vocabulary=read_vocabulary(tokenizer),
    )


def _hub_model(case: Case, hub_id: str, entry: dict[str, Any] | None, where: str, revision: str | None) -> ModelFacts:
    """A model of the hub: from the cache where it is there, else from the registry's facts."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    if isinstance(cached, str):
        folder = Path(cached).parent
        if any(folder.glob("*.safetensors")):
            return _model_folder(case, folder, where)
    case.downloads.append(hub_id)
    if is_offline():
        case.error(
            "ModelError",
            where,
            "neither a folder nor in the cache, and HF_HUB_OFFLINE forbids to download it",
            "unset HF_HUB_OFFLINE, or give a local folder",
        )
    if entry is None:
        case.warning(
            "unknown-model",
            where,
            "no folder of that name: it will be looked up on the hub; its size is not known before",
            "check the spelling, or give a local folder",
        )
        return ModelFacts()
    facts = cast("dict[str, Any]", entry.get("architecture") or {})
    text = cast("dict[str, Any]", facts.get("text_config") or facts)
    count = cast("int | None", entry.get("parameters"))
    return ModelFacts(
        num_parameters=count,
        context=_context(text),
        layers=text.get("num_hidden_layers"),
        hidden=text.get("hidden_size"),
        shape=shape_of(facts, count),
        download_bytes=2.0 * (count or 0),
    )


def count_parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < 100_000_000:
            raise ValueError(f"{file.name} is no safetensors file")
        header = cast("dict[str, Any]", json.loads(stream.read(length)))
    end, total = 0, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        size = 1
        for dimension in cast("list[int]", entry["shape"]):
            size *= dimension
        total += size
        end = max(end, cast("list[int]", entry["data_offsets"])[1])
    if file.stat().st_size < 8 + length + end:
        raise ValueError(f"{file.name} ends after {file.stat().st_size:,} of {8 + length + end:,} bytes")
    return total


def read_vocabulary(tokenizer_file: Path) -> dict[str, int]:
    """Every token with its id, from tokenizer.json alone; empty where there is none that can be read."""
    try:
        facts = cast("dict[str, Any]", json.loads(tokenizer_file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # said by whoever counts tokens with it
    vocabulary = cast("dict[str, Any]", facts.get("model") or {}).get("vocab")
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score, in the order of the ids
        pairs = cast("list[list[Any]]", vocabulary)
        tokens = {str(pair[0]): index for index, pair in enumerate(pairs)}
    else:
        tokens = dict(cast("dict[str, int]", vocabulary or {}))
    added = cast("list[dict[str, Any]]", facts.get("added_tokens") or [])
    return tokens | {str(token["content"]): int(token["id"]) for token in added if "content" in token}


def _context(architecture: dict[str, Any]) -> int | None:
    value = architecture.get("max_position_embeddings")
    return value if isinstance(value, int) else None


def _token_counter(tokenizer_file: Path) -> Callable[[str], int] | None:
    """Counts a text's tokens without a chat template, so at least so many come; None where that is not possible."""
    if not tokenizer_file.is_file() or find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer

    # Its type stubs leave the encoder untyped.
    load = cast("Callable[[str], Any]", Tokenizer.from_file)  # pyright: ignore[reportUnknownMemberType]
    try:
        tokenizer = load(str(tokenizer_file))
    except Exception as error:  # the Rust parser raises nothing narrower
        raise ValueError(f"{tokenizer_file.name} is no tokenizer: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
