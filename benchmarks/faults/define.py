"""What a planted fault is, and the settings that keep its run short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oxrl_core.runs.rundir import RunDir

HERE = Path(__file__).parent
PLANTS = HERE / "plants.py"

# Of every run: one process, and nothing beside its own record.
FIXED = ("run.backend=local", "rollout.engine=transformers", "report.sinks=[]")
SHORT_RL = ("train.steps=24", "train.prompts_per_step=8", "rollout.group_size=8", "train.eval_every=12")
SHORT_SL = ("train.steps=40", "train.eval_every=10")


@dataclass(frozen=True)
class Fault:
    """Something wrong in an otherwise healthy run; without `expected` it is a clean run."""

    name: str
    planted: str
    expected: frozenset[str] | set[str]
    recipe: str = "sgrpo"
    overrides: Sequence[str] = ()
    plant: Callable[[Path], None] | None = None
    supervised: bool = False
    starts: bool = True  # False: the run is made, and nobody starts it
    during: Callable[[RunDir], None] | None = None
    after: Callable[[RunDir], None] | None = None
    seconds: float = 600.0  # deadline of the run; a busy machine takes its time
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not self.expected

    def all_overrides(self) -> list[str]:
        """The overrides of the run: the fixed ones, the short ones of its kind, and its own."""
        from oxrl_core.config.load import load_config

        rl = _kind(str(load_config(self.recipe).config.algorithm.name)) == "rl"
        short = SHORT_RL if rl else SHORT_SL
        own = {text.partition("=")[0] for text in self.overrides}
        kept = [text for text in (*FIXED, *short) if text.partition("=")[0] not in own]
        return [*kept, *self.overrides]


def own(function: str, file: Path = PLANTS) -> str:
    """The path of a reward or loss in plants.py, or in another file, as a configuration names it."""
    return f"{file}:{function}"


def _kind(name: str) -> str:
    from oxrl_core.algorithms.base import get_algorithm

    return get_algorithm(name).kind
