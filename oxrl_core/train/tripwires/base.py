"""What a tripwire is: it looks at each step's report and says what is wrong, or nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.report import StepReport
    from oxrl_core.types import Rollout

NAMED = 5  # samples or parameters that an alert names
QUIET_STEPS = 5  # without a finding, after which the next one is news; twice as many after the second alert, and so on
WORSE = 2.0  # times as bad as when it was last said, and it is said again


@dataclass(frozen=True)
class Finding:
    """What a tripwire has to say about a step."""

    message: str
    next_step: str
    level: Literal["warning", "error"] = "warning"
    metric: str = ""
    value: float | None = None
    limit: float | None = None
    samples: Sequence[str] = ()  # "step/prompt_id/sample_index"
    parameters: Sequence[str] = ()
    badness: float = 1.0  # grows as it gets worse


@dataclass(frozen=True)
class Facts:
    """What tripwires know of the run beside its reports."""

    config: Config
    total_steps: int
    lesson: str  # of the algorithm
    bos_token_id: int | None = None
    adapted_modules: int = 0
    has_adapters: bool = False
    # Names, asked of the ranks only where there is something to name.
    dead_parameters: Callable[[], Sequence[str]] = field(default=tuple)
    largest_gradients: Callable[[], Sequence[str]] = field(default=tuple)


class Wire(ABC):
    """One tripwire. `memory` holds plain numbers, is kept in checkpoints and goes on with the run."""

    code = ""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.config = facts.config
        self.memory: dict[str, Any] = {}

    @abstractmethod
    def look(self, report: StepReport) -> Finding | None:
        """What is wrong at this step; None where nothing is."""

    def window(self, name: str, value: float, length: int) -> list[float]:
        """The last values under this name, with this one."""
        values = [*self.memory.get(name, []), value][-length:]
        self.memory[name] = values
        return values


class Bell:
    """Whether a finding is said: once, and again where it got worse or came back after a while of quiet."""

    def __init__(self, state: dict[str, float] | None = None) -> None:
        state = state or {}
        self.rung = int(state.get("rung", 0))  # times
        self.badness = float(state.get("badness", 0.0))  # when it was last said; 0 where it may be said at once
        self.quiet = int(state.get("quiet", 0))  # steps without a finding

    def hears(self, finding: Finding | None) -> bool:
        """Whether this is to be said."""
        if finding is None:
            self.quiet += 1
            if self.quiet >= QUIET_STEPS * 2 ** max(0, min(self.rung, 8) - 1):
                self.badness = 0.0
            return False
        self.quiet = 0
        if self.badness and finding.badness < WORSE * self.badness:
            return False
        self.badness = max(finding.badness, 1e-12)
        self.rung += 1
        return True

    def state(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"rung": self.rung, "badness": min(self.badness, 1e300), "quiet": self.quiet}


def sample_name(step: int, rollout: Rollout) -> str:
    """How alerts, `oxrl rollouts --show` and the report name a rollout."""
    return f"{step}/{rollout.prompt.id}/{rollout.sample_index}"


def sample_names(step: int, rollouts: Sequence[Rollout]) -> list[str]:
    """The names of the first few."""
    return [sample_name(step, rollout) for rollout in rollouts[:NAMED]]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
