"""Many onboardings: a queue on disk that several workers empty. A worker has an item for as long as he lives.

<home>/onboarding-queues/<name>/items.json    what there is to do, in the order of its priority
<home>/onboarding-queues/<name>/<slug>.lock   held by the worker that does it; the kernel frees it when he dies
<home>/onboarding-queues/<name>/<slug>.json   what came of it; written once
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import Field

from oxrl_core.errors import ConfigError, DeadlineError
from oxrl_core.runs.records import file_lock, read_json, write_json
from oxrl_core.runs.views import View
from swarm.onboard.archive import slug_of

WAIT_SECONDS = 1.0


class Item(View):
    """One model of a queue."""

    model: str
    task: str = ""
    priority: int = 0
    """Higher ones are taken first."""

    @property
    def name(self) -> str:
        digest = hashlib.sha256(f"{self.model}/{self.task}".encode()).hexdigest()[:8]
        return f"{slug_of(self.model)}-{digest}"


class Result(View):
    """What came of an item."""

    model: str
    state: str
    run_id: str = ""
    level: str = ""
    error: str = ""
    seconds: float = 0.0


class QueueView(View):
    """A queue now."""

    name: str
    waiting: list[str] = Field(default_factory=list[str])
    running: list[str] = Field(default_factory=list[str])
    results: list[Result] = Field(default_factory=list[Result])
    next: str = ""


class Queue:
    """A queue on disk. Any number of workers and readers."""

    def __init__(self, home: Path, name: str) -> None:
        self.folder = home / "onboarding-queues" / name
        self.name = name

    def add(self, items: Sequence[Item]) -> None:
        """Adds items; one that is there already is not added twice."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / ".lock", 10.0):
            known = {item.name: item for item in self.items()}
            known |= {item.name: item for item in items if item.name not in known}
            write_json(self.folder / "items.json", {"items": [i.model_dump() for i in known.values()]}, durable=True)

    def items(self) -> list[Item]:
        """All items, those of the highest priority first, else in the order in which they came."""
        record = read_json(self.folder / "items.json") or {"items": []}
        return sorted((Item.model_validate(item) for item in record["items"]), key=lambda item: -item.priority)

    def result(self, item: Item) -> Result | None:
        record = read_json(self.folder / f"{item.name}.json")
        return None if record is None else Result.model_validate(record)

    def work(self, do: Callable[[Item], Result]) -> int:
        """Does items until every one has a result; how many this worker did. One whose worker died is done again."""
        done = 0
        while True:
            taken = self._take(do)
            done += int(taken)
            if taken:
                continue
            if all(self.result(item) is not None for item in self.items()):
                return done
            time.sleep(WAIT_SECONDS)

    def _take(self, do: Callable[[Item], Result]) -> bool:
        """Whether an item was free, and was done."""
        for item in self.items():
            if self.result(item) is not None:
                continue
            with ExitStack() as held:
                try:
                    held.enter_context(file_lock(self.folder / f"{item.name}.lock", 0.0))
                except DeadlineError:
                    continue  # another worker has it
                if self.result(item) is not None:  # he ended between our two looks
                    continue
                result = do(item)
                write_json(self.folder / f"{item.name}.json", result.model_dump(mode="json"), durable=True)
                return True
        return False

    def view(self) -> QueueView:
        """What waits, runs and has ended."""
        view = QueueView(name=self.name)
        for item in self.items():
            result = self.result(item)
            if result is not None:
                view.results.append(result)
            elif self._is_taken(item):
                view.running.append(item.model)
            else:
                view.waiting.append(item.model)
        return view

    def _is_taken(self, item: Item) -> bool:
        try:
            with file_lock(self.folder / f"{item.name}.lock", 0.0):
                return False
        except DeadlineError:
            return True


def read_items(path: Path) -> list[Item]:
    """Items of a file: YAML list of names or of mappings {model, task, priority}; or one name a line."""
    import yaml

    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"the queue cannot be read: {error}", str(path), "a YAML list of models") from None
    if isinstance(raw, str):
        raw = raw.split()
    if not isinstance(raw, list) or not raw:
        raise ConfigError("it is no list of models", str(path), "one `- model` a line")
    found: list[Item] = []
    for entry in list[Any](raw):  # pyright: ignore[reportUnknownArgumentType]
        try:
            found.append(Item.model_validate({"model": entry} if isinstance(entry, str) else entry))
        except ValueError as error:
            raise ConfigError(f"{entry!r}: {error}", str(path), "a name, or {model, task, priority}") from None
    return found


def registry_items() -> list[Item]:
    """Every model of the registry, the smallest first."""
    from oxrl_core.config.registry import entry_of_slug, model_slugs

    sizes = [(int((entry_of_slug(slug) or {}).get("parameters") or 0), slug) for slug in model_slugs()]
    return [Item(model=f"miniature:{slug}") for _, slug in sorted(sizes)]
