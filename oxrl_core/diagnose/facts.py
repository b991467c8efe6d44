"""What a run left behind, read lazily. Nothing here raises: what is missing or unreadable is noted and said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from oxrl_core.diagnose.samples import Samples
from oxrl_core.diagnose.trends import Point, Trend, trend
from oxrl_core.errors import OxrlError
from oxrl_core.runs.records import read_json, read_lines
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config


class RunFacts:
    """The run directory as detectors look at it."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.missing: list[str] = []

    @cached_property
    def samples(self) -> Samples:
        """Recorded rollouts; of a supervised run none, for what it records was drawn by nobody."""
        return Samples(self.run.rollouts if self.is_rl else None)

    @cached_property
    def spec(self) -> dict[str, Any]:
        return read_json(self.run.path / "spec.json") or {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration as it stands on disk, whatever version wrote it."""
        from oxrl_core.config.yaml_text import read_mapping

        path = self.run.path / "config.yaml"
        try:
            return dict(read_mapping(path.read_text(), path.name).mapping)
        except (OSError, UnicodeDecodeError, OxrlError) as error:
            self.missing.append(f"config.yaml: {_first_line(error)}")
            return {}

    @cached_property
    def config(self) -> Config | None:
        """The configuration; None where today's schema does not know it."""
        try:
            return self.run.config()
        except (OSError, OxrlError) as error:
            self.missing.append(f"config.yaml is of another version: {_first_line(error)}")
            return None

    def setting(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key of the configuration."""
        value: Any = self.settings
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]  # pyright: ignore[reportUnknownVariableType]
        return default if value is None else value  # pyright: ignore[reportUnknownVariableType]

    @cached_property
    def status(self) -> Status | None:
        try:
            return self.run.status()
        except (OSError, OxrlError, ValueError, KeyError, TypeError) as error:
            self.missing.append(f"status: {_first_line(error)}")
            return None

    @property
    def state(self) -> str:
        return self.status.state if self.status else ""

    @cached_property
    def error(self) -> dict[str, str]:
        """The last word of the driver or of its supervisor; empty where it did not fail."""
        if self.status and self.status.error:
            return {name: str(value) for name, value in self.status.error.items()}
        said = read_json(self.run.path / "error.json") if self.state not in ("finished", "running") else None
        return {name: str(value) for name, value in (said or {}).items()}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of metrics by step, the latest writing of a step winning."""
        rows = self.run.metrics()
        if not rows:
            self.missing.append("metrics.jsonl: no rows yet")
        return rows

    @cached_property
    def raw_steps(self) -> list[int]:
        """Steps in the order in which they were written, repeated ones as often as they stand there."""
        rows = read_lines(self.run.path / "metrics.jsonl")
        return [int(row["step"]) for row in rows if isinstance(row.get("step"), (int, float))]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return self.run.events()

    def series(self, name: str, from_step: int = 1) -> list[Point]:
        """Steps and values of a metric where it is a finite number."""
        found: list[Point] = []
        for row in self.rows:
            value = row.get(name)
            if isinstance(value, (int, float)) and math.isfinite(value) and row["step"] >= from_step:
                found.append((int(row["step"]), float(value)))
        return found

    def values(self, name: str) -> list[float]:
        return [value for _, value in self.series(name)]

    def trend(self, name: str) -> Trend | None:
        return trend(self.series(name))

    def not_finite(self) -> list[tuple[int, str]]:
        """Steps and metrics that were written as null: they were NaN or infinite."""
        return [(int(row["step"]), name) for row in self.rows for name, value in row.items() if value is None]

    @cached_property
    def names(self) -> set[str]:
        return {name for row in self.rows for name in row}

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else (self.status.step if self.status else 0)

    @cached_property
    def kind(self) -> str:
        """rl or sl."""
        from oxrl_core.algorithms.base import get_algorithm

        try:
            return get_algorithm(str(self.setting("algorithm.name", "sgrpo"))).kind
        except OxrlError:  # somebody's own loss, whose file is not here
            return "rl" if "reward/mean" in self.names else "sl"

    @property
    def is_rl(self) -> bool:
        return self.kind == "rl"

    @property
    def has_own_loss(self) -> bool:
        return ":" in str(self.setting("algorithm.name", ""))

    @property
    def stops_at_eos(self) -> bool:
        return bool(self.setting("rollout.stop_at_eos", True))

    def token_text(self, token: int) -> str:
        """A token in quotes as the run's tokenizer writes it; its number where that is not known."""
        model: Any = (read_json(self.run.rollouts / "tokenizer.json") or {}).get("model")
        words: Any = cast("dict[str, Any]", model).get("vocab") if isinstance(model, dict) else None
        if not isinstance(words, dict):  # of some kinds of tokenizer it is a list of pieces
            return f"token {token}"
        text = next((text for text, number in cast("dict[str, Any]", words).items() if number == token), None)
        return repr(text) if text is not None else f"token {token}"

    @cached_property
    def special_tokens(self) -> set[int]:
        """The ids of the tokens that stand for no text, as EOS; empty where the run's tokenizer is not known."""
        added: Any = (read_json(self.run.rollouts / "tokenizer.json") or {}).get("added_tokens")
        tokens = cast("list[Any]", added) if isinstance(added, list) else []
        return {int(token["id"]) for token in tokens if isinstance(token, dict) and token.get("special")}  # pyright: ignore

    @cached_property
    def checkpoint_steps(self) -> list[int]:
        names = [path.name for path in self.run.checkpoints.glob("step_*") if (path / "manifest.json").exists()]
        return sorted(int(name[5:]) for name in names if name[5:].isdigit())

    @cached_property
    def initial_model(self) -> Path | None:
        """The folder of the weights that it began with, where that is known without a network."""
        own = self.run.path / "model"
        if own.is_dir():
            return own
        path = str(self.setting("model.path", ""))
        if path.startswith("run:"):
            folder = self.run.path.parent / path[4:] / "final"
            return folder if folder.is_dir() else None
        return Path(path) if path and Path(path).is_dir() else None


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
