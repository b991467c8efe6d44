"""The rows that a run learns from and is tested on, where they can be had without a network and quickly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import OxrlError

if TYPE_CHECKING:
    from oxrl_core.diagnose.facts import RunFacts

MAX_ROWS = 20_000  # of each dataset
MAX_BYTES = 64 * 2**20  # of a local file


@dataclass(frozen=True)
class KnownRow:
    """A row in the words that detectors need."""

    id: str
    prompt: str
    answer: str
    completion: str = ""  # what is learned: the completion of a row, the better one of a pair
    question: str = ""  # what was judged, for rows of preferences: both completions of a pair, or the labeled one
    verdict: str = ""  # and how
    rejected: str | None = None  # the other completion of a pair; None of other rows
    has_completion: bool = False  # there is a column of completions, even if this one is empty


def rows_of(facts: RunFacts, part: str) -> list[KnownRow]:
    """The rows of `data.train` or `data.eval`; none where they are far away, large, or not there any more."""
    known: dict[str, list[KnownRow]] = facts.__dict__.setdefault("_known_rows", {})
    if part not in known:
        known[part] = _load(facts, part)
    return known[part]


def _load(facts: RunFacts, part: str) -> list[KnownRow]:
    config = facts.config
    if config is None:
        return []
    rows: list[KnownRow] = []
    for source in config.data.train if part == "train" else config.data.eval:
        if not _is_near(source.name):
            facts.missing.append(f"data.{part}: {source.name} is not on this disk, or large; its rows were not read")
            continue
        from oxrl_core.datasets.base import each_row
        from oxrl_core.datasets.media import digest_of_media

        try:
            _, entries = each_row(source, config.run.seed)
            for row, _place in islice(entries, min(MAX_ROWS, source.limit or MAX_ROWS)):
                if isinstance(row, dict):
                    rows.append(
                        KnownRow(
                            str(row.get("id", "")),
                            _text(row.get("prompt") or row.get("text") or "") + digest_of_media(row),
                            str(row.get("answer") or ""),
                            _text(row.get("completion") or row.get("chosen") or ""),
                            *_judged(row),
                            _text(row["rejected"]) if "chosen" in row and "rejected" in row else None,
                            "completion" in row or "chosen" in row,
                        )
                    )
        except (OSError, OxrlError, ValueError, KeyError) as error:
            why = str(error).split("\n", 1)[0] or type(error).__name__
            facts.missing.append(f"data.{part}: {source.name}: {why}")
    return rows


def _judged(row: dict[str, Any]) -> tuple[str, str]:
    """What a row of preferences asks, whatever the order, and its answer; empty for other rows."""
    if "chosen" in row and "rejected" in row:
        chosen, rejected = _text(row["chosen"]), _text(row["rejected"])
        return repr(sorted((chosen, rejected))), chosen
    if "label" in row and "completion" in row:
        return _text(row["completion"]), str(row["label"])
    return "", ""


def _is_near(name: str) -> bool:
    """Whether a dataset is built in and made on the spot, or a file that is not too large."""
    from oxrl_core.datasets.base import all_datasets, is_path

    if name.startswith("hub:"):
        return False
    if is_path(name) and ":" not in name:
        path = Path(name).expanduser()
        files = [path] if path.is_file() else list(path.glob("*")) if path.is_dir() else []
        return bool(files) and sum(file.stat().st_size for file in files if file.is_file()) <= MAX_BYTES
    entry = all_datasets().get(name)
    return entry is not None and not entry.hub_id


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))  # pyright: ignore
    return str(prompt)
