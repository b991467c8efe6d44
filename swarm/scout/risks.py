"""What in a repository could harm whoever loads it. Looked at by name and as data; nothing is loaded."""

from __future__ import annotations

from typing import Any

from oxrl_core.config.mappings import integer_at, mapping_at
from swarm.scout.documents import plain, walk
from swarm.scout.source import Repository
from swarm.scout.views import Risk

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".msgpack", ".h5")
CODE = (".py", ".so", ".pyd", ".sh", ".pyc")
# A key of config.json through which older transformers fetched and ran kernels (CVE-2026-4372).
RUNNING_KEYS = ("_attn_implementation_internal", "_experts_implementation_internal")
LIMITS = {
    "num_hidden_layers": 1_000,
    "hidden_size": 200_000,
    "intermediate_size": 2_000_000,
    "num_attention_heads": 4_096,
    "vocab_size": 4_000_000,
    "max_position_embeddings": 100_000_000,
    "num_experts": 10_000,
}


def of_files(repository: Repository, has_weights: bool) -> list[Risk]:
    """Risks that the names of the files show."""
    risks: list[Risk] = []
    for links in [repository.links] if repository.links else []:
        what = f"{len(links)} symbolic links lead out of the folder, or are no plain files; they are not followed"
        risks.append(Risk(code="symlink", level="block", where=plain(links[0]), what=what))
    code = [name for name in repository.sizes if name.lower().endswith(CODE)]
    if code:
        what = f"{len(code)} files of code; oxRL never runs them"
        risks.append(Risk(code="remote_code", level="warning", where=plain(code[0]), what=what))
    pickles = [name for name in repository.sizes if name.lower().endswith(PICKLES)]
    if pickles:
        level = "warning" if has_weights else "block"
        what = f"{len(pickles)} pickled files, which can run code when loaded; oxRL reads safetensors only"
        risks.append(Risk(code="weights_only", level=level, where=plain(pickles[0]), what=what))
    return risks


def of_documents(documents: dict[str, dict[str, Any]], is_native: bool) -> list[Risk]:
    """Risks that the JSON files show. Custom code is a lesser one where the installed transformers has its own."""
    risks: list[Risk] = []
    for name, document in documents.items():
        for path, key, value in walk(document):
            if key == "auto_map":
                what = "names code of the repository to be run" + (
                    "; the installed transformers has this architecture itself, and takes that" if is_native else ""
                )
                level = "warning" if is_native else "block"
                risks.append(Risk(code="remote_code", level=level, where=f"{name}: {plain(path)}", what=what))
            elif key == "trust_remote_code":
                what = "tells the loader to trust the repository's code (CVE-2026-5241)"
                risks.append(Risk(code="trust_remote_code", level="block", where=f"{name}: {plain(path)}", what=what))
            elif key in RUNNING_KEYS and value is not None:
                what = "names a kernel that older transformers fetched and ran (CVE-2026-4372)"
                risks.append(Risk(code="hidden_kernel", level="block", where=f"{name}: {plain(path)}", what=what))
    return risks[:12]


def of_sizes(config: dict[str, Any]) -> list[Risk]:
    """Numbers of config.json that no model has."""
    risks: list[Risk] = []
    for label, part in (("", config), ("text_config.", mapping_at(config, "text_config"))):
        for key, most in LIMITS.items():
            value = part.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
                shown = f"{value:.3g}" if isinstance(value, int | float) else "no number"
                what = f"is {shown}; models have 1 to {most:,}"
                risks.append(Risk(code="absurd_config", level="block", where=f"config.json: {label}{key}", what=what))
        heads, kv = integer_at(part, "num_attention_heads"), integer_at(part, "num_key_value_heads")
        if heads and kv and heads > 0 and kv > 0 and heads % kv:
            where = f"config.json: {label}num_key_value_heads"
            what = f"{kv} does not divide {heads} heads"
            risks.append(Risk(code="absurd_config", level="block", where=where, what=what))
    return risks
