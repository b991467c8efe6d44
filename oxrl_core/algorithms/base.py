"""The catalogue of losses. A loss function's signature says everything: its first argument's type names the signals
that it sees (and so the data and models it needs), its keyword-only arguments are its YAML keys with their defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from oxrl_core.discover import Catalogue, summary_of
from oxrl_core.errors import ConfigError
from oxrl_core.parameters import AboveOne as AboveOne
from oxrl_core.parameters import AtLeastOne as AtLeastOne
from oxrl_core.parameters import Fraction as Fraction
from oxrl_core.parameters import NonNegative as NonNegative
from oxrl_core.parameters import Parameters, parameters_of
from oxrl_core.parameters import Positive as Positive

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["rl", "sl"]
Lesson = Literal[
    "examples",  # rows with a completion
    "documents",  # rows of text, all of which is learned from
    "pairs",  # rows with a chosen and a rejected completion
    "labeled",  # rows with a completion and whether it is desirable
    "advantages",  # drawn completions, each judged and compared with others
    "kept",  # drawn completions whose reward is high enough (rejection sampling)
    "best_and_worst",  # drawn completions, two of each prompt that the reward tells apart
    "self_play",  # the row's completion against one that the policy drew
    "mixed",  # drawn completions beside those of the rows, none of them judged
]
LESSON_OF_SIGNALS: dict[str, Lesson] = {
    "Tokens": "examples",
    "Distributions": "examples",
    "Pairs": "pairs",
    "ReferencedPairs": "pairs",
    "StepPairs": "pairs",
    "ScoredPairs": "pairs",
    "Labeled": "labeled",
    "Rollouts": "advantages",
}
LESSONS_OF_ROWS = ("examples", "documents", "pairs", "labeled")  # the others need a sampler
JUDGED_LESSONS = ("advantages", "kept", "best_and_worst")  # these need a reward
COMPLETION_LESSONS = ("examples", "self_play", "mixed")  # rows need a completion
REFERENCED_SIGNALS = ("ReferencedPairs", "StepPairs", "Labeled")  # these need a reference policy

# What a loss remembers from step to step: `running(signals of the whole step, what it said before, the loss's params)`
# gives numbers that every micro-batch of the step sees as `signals.running` and every checkpoint keeps. Its signals are
# StepPairs or Labeled, of which it reads the fields of the whole step (`step_...`) only. Before step 1 it is {}.
Running = Callable[[Any, Mapping[str, float], Mapping[str, Any]], dict[str, float]]

LossFunction = TypeVar("LossFunction", bound=Callable[..., "Tensor"])


@dataclass(frozen=True)
class Algorithm:
    """One loss and what its signature says about it."""

    name: str
    loss: Callable[..., Tensor]
    kind: Kind
    signals: str  # the type of the loss's first argument, one of LESSON_OF_SIGNALS
    lesson: Lesson  # what it learns from
    params: dict[str, Any]  # default of every keyword-only argument
    paper: str = ""
    summary: str = ""
    running: Running | None = field(default=None, repr=False)
    param_types: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)


def describe(
    name: str,
    loss: Callable[..., Tensor],
    paper: str = "",
    lesson: Lesson | None = None,
    running: Running | None = None,
) -> Algorithm:
    """The algorithm that a loss function's signature describes."""
    where = f"{loss.__module__}.{getattr(loss, '__qualname__', name)}"
    arguments = list(inspect.signature(loss).parameters.values())
    if not arguments:
        raise ConfigError("a loss takes its signals as first argument", where, "see oxrl_core/algorithms/supervised.py")
    annotation = arguments[0].annotation
    signals = str(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", annotation))
    signals = signals.rsplit(".", 1)[-1]
    if signals not in LESSON_OF_SIGNALS:
        raise ConfigError(
            f"the first argument of a loss is annotated with the signals it sees, not with {signals!r}",
            where,
            f"annotate it with one of: {', '.join(LESSON_OF_SIGNALS)}",
        )
    parameters = parameters_of(loss, "a loss")
    lesson = lesson or LESSON_OF_SIGNALS[signals]
    return Algorithm(
        name=name,
        loss=loss,
        kind="sl" if lesson in LESSONS_OF_ROWS else "rl",
        signals=signals,
        lesson=lesson,
        running=running,
        params=parameters.defaults,
        paper=paper,
        summary=summary_of(loss),
        param_types=parameters.types,
    )


_catalogue: Catalogue[Algorithm] = Catalogue("algorithm", "oxrl_core.algorithms", describe)


def algorithm(
    name: str, paper: str = "", *, lesson: Lesson | None = None, running: Running | None = None, summary: str = ""
) -> Callable[[LossFunction], LossFunction]:
    """A decorator that registers a loss function under a name and returns it unchanged.

    `lesson` says what it learns from, where its signals do not say it already; `running` what it remembers; `summary`
    what it is, where a loss has a second name.
    """

    def register(loss: LossFunction) -> LossFunction:
        entry = describe(name, loss, paper, lesson, running)
        _catalogue.add(name, loss, replace(entry, summary=summary) if summary else entry)
        return loss

    return register


def get_algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or of your own loss at `package.module:function`."""
    return _catalogue.get(name)


def all_algorithms() -> dict[str, Algorithm]:
    """Every built-in algorithm, by name."""
    return _catalogue.all()


def check_params(algorithm: Algorithm, params: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the loss with its value: the given ones, checked, and the defaults of the others."""
    parameters = Parameters(algorithm.params, algorithm.param_types)
    return parameters.fill(params, section="algorithm", owner=algorithm.name)
