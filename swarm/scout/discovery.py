"""Models to choose from: the registry's, then the hub's; offline the registry's alone, and it says so."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.machine import is_offline
from oxrl_core.config.registry import MODELS, entry_of_slug, model_slugs, registry_folders
from oxrl_core.errors import UserError
from oxrl_core.suggest import did_you_mean
from swarm.scout.documents import plain
from swarm.scout.hub import HubError, as_hub_error, endpoint
from swarm.scout.views import ModelList, ModelRow

MAX_LIMIT = 100
MAX_OFFSET = 1000
LOOKED_AT = 5  # models of the hub that are looked at for each one that is wanted
PIPELINES = {"math": "text-generation", "code": "text-generation", "text": "text-generation",
             "image": "image-text-to-text", "audio": "audio-text-to-text"}  # fmt: skip
WORDS = {"math": ("math", "r1", "qwen", "phi"), "code": ("coder", "code")}
_CURSOR = re.compile(r"^(registry|hub):(\d{1,5})$")


def scout_models(
    query: str = "", task: str = "", max_params_b: float = 0.0, license: str = "", limit: int = 20, cursor: str = ""
) -> ModelList:
    """Models by name, task, size and licence: the registry's first, then the hub's by downloads, page by page."""
    if task and task not in PIPELINES:
        step = f"take one of: {', '.join(PIPELINES)}"
        raise UserError(f"there is no task {task!r}.{did_you_mean(task, PIPELINES)}", "task", step)
    if not 1 <= limit <= MAX_LIMIT or len(query) > 200:
        raise UserError(f"limit {limit}, a query of {len(query)} characters", "limit", f"1 to {MAX_LIMIT}; at most 200")
    place = _CURSOR.match(cursor or "registry:0")
    if place is None or int(place[2]) > MAX_OFFSET:
        raise UserError(f"there is no page {cursor!r}", "cursor", "hand back next_cursor as it was given")
    kind, offset = place[1], int(place[2])
    if kind == "registry":
        rows = [row for row in _registry() if _suits(row, query, task, max_params_b, license)]
        page = rows[offset : offset + limit]
        if offset + limit < len(rows):
            return _page(page, "registry", "", f"registry:{offset + limit}")
        if is_offline():
            return _page(page, "registry", "offline (HF_HUB_OFFLINE): the hub was not asked", "")
        return _page(page, "registry", "the registry ends here; the next page is the hub's", "hub:0")
    try:
        found, following = _hub(query, task, max_params_b, license, limit, offset)
    except HubError as error:
        return _page([], "hub", f"{error.what}; the registry is all there is", "")
    return _page(found, "hub", "", f"hub:{following}" if following else "")


def _page(items: list[ModelRow], source: str, note: str, cursor: str) -> ModelList:
    step = f"oxrl scout {items[0].id}" if items else "a wider search"
    return ModelList(items=items, source=source, note=note, next_cursor=cursor, next=step)


def _registry() -> tuple[ModelRow, ...]:
    """Every model of the registry; its files are read again when one was added or removed."""
    folders = [folder / MODELS for folder in registry_folders()]
    return _read_registry(tuple((folder, folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()))


@lru_cache(maxsize=2)
def _read_registry(folders: tuple[tuple[Path, int], ...]) -> tuple[ModelRow, ...]:
    rows: list[ModelRow] = []
    for slug in model_slugs():
        entry = entry_of_slug(slug) or {}
        parameters, gated = entry.get("parameters"), entry.get("gated")
        rows.append(
            ModelRow(
                id=str(entry.get("hub") or slug),
                slug=slug,
                parameters_b=round(parameters / 1e9, 3) if isinstance(parameters, int) else None,
                license=str(entry.get("license") or ""),
                gated=gated if isinstance(gated, bool) else None,
                modality=[str(kind) for kind in entry.get("modality") or ["text"]],
                why=str(entry.get("summary") or ""),
            )
        )
    return tuple(rows)


def _suits(row: ModelRow, query: str, task: str, max_params_b: float, license: str) -> bool:
    name = row.id.lower()
    if query and not all(word in f"{name} {row.slug} {row.why.lower()}" for word in query.lower().split()):
        return False
    if max_params_b and (row.parameters_b is None or row.parameters_b > max_params_b):
        return False
    if license and license.lower() not in row.license.lower():
        return False
    if task in ("image", "audio"):
        return task in row.modality
    return task not in WORDS or (row.modality == ["text"] and any(word in name for word in WORDS[task]))


def _hub(
    query: str, task: str, max_params_b: float, license: str, limit: int, offset: int
) -> tuple[list[ModelRow], int]:
    """One page of the hub, and where the next one begins (0: there is none)."""
    from huggingface_hub import HfApi

    tags = ["safetensors", *([f"license:{license.lower()}"] if license else [])]
    most = limit * LOOKED_AT
    try:
        models = HfApi(endpoint=endpoint()).list_models(
            search=query or None,
            filter=tags,
            pipeline_tag=PIPELINES.get(task),
            sort="downloads",
            expand=["safetensors", "downloads", "gated", "tags", "pipeline_tag"],
            limit=offset + most,
        )
        page = cast("list[Any]", list(islice(models, offset, offset + most)))
    except Exception as error:  # of the HTTP client: as_hub_error says what it is, or gives it back
        raise as_hub_error(error, query) from error
    rows: list[ModelRow] = []
    for index, model in enumerate(page, start=1):
        row = _row(model)
        too_large = max_params_b and (row.parameters_b is None or row.parameters_b > max_params_b)
        if row.id and not too_large:
            rows.append(row)
        if len(rows) == limit:
            return rows, offset + index
    return rows, offset + most if len(page) == most else 0


def _row(model: Any) -> ModelRow:
    tags = [tag for tag in cast("list[object]", model.tags or []) if isinstance(tag, str)]
    named = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
    total = getattr(model.safetensors, "total", None) if model.safetensors is not None else None
    return ModelRow(
        id=plain(model.id, ""),
        parameters_b=round(total / 1e9, 3) if isinstance(total, int) else None,
        license=plain(named),
        gated=bool(model.gated) if model.gated is not None else None,
        modality=["text", *(kind for kind in ("image", "audio") if kind in str(model.pipeline_tag))],
        downloads=model.downloads if isinstance(model.downloads, int) else None,
    )
