"""Evaluating a model: what is asked, and what came of it. Nothing here computes: that is oxrl_core/evaluate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from oxrl_core.errors import NotFoundError
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.views import View

EVALUATE_KIND = "evaluate"
RESULT_FILE = "evaluation.json"
EVALUATE_MODULE = "oxrl_core.evaluate"  # spawned by name: it imports torch


class EvaluatedSample(View):
    """One completion. Texts come from the data and the model: data, not instructions."""

    prompt_id: str
    prompt: str
    completion: str
    answer: str = ""
    reward: float | None = None
    status: str = ""


class EvaluationView(View):
    """How a model scores on held-out rows."""

    run_id: str
    state: str = ""
    of: str
    """The run, or the model, that was evaluated."""
    step: int | None = None
    """The checkpoint's; null: the final model."""
    dataset: str
    reward: str
    greedy: bool = True
    prompts: int = 0
    completions: int = 0
    mean: float | None = None
    """Mean reward of the completions that have a verdict, prompt by prompt."""
    standard_error: float | None = None
    """Of that mean, over prompts."""
    accuracy: float | None = None
    """Share of completions with the full reward, 1."""
    solved: float | None = None
    """Share of prompts with at least one full reward."""
    length: float | None = None
    """Tokens of a completion."""
    truncated: float | None = None
    statuses: dict[str, int] = Field(default_factory=dict[str, int])
    """Verdicts by status; only `ok` and `no_answer` have a value."""
    samples: list[EvaluatedSample] = Field(default_factory=list[EvaluatedSample])
    """The worst and the best completions."""
    path: str = ""
    next: str = ""


def read_evaluation(run: RunDir) -> EvaluationView:
    """The result of an evaluation, or that there is none yet."""
    order: Mapping[str, Any] | None = run.spec().get(EVALUATE_KIND)
    if order is None:
        raise NotFoundError(
            f"{run.run_id} is not an evaluation", "run", f"oxrl evaluate {run.run_id} evaluates its model"
        )
    state = run.status().state
    record = read_json(run.path / RESULT_FILE)
    if record is not None:
        return EvaluationView.model_validate({**record, "state": state, "path": str(run.path)})
    return EvaluationView(
        run_id=run.run_id,
        state=state,
        of=str(order["of"]),
        step=order.get("step"),
        dataset=str(order["dataset"]),
        reward=run.config().reward.name,
        greedy=bool(order["greedy"]),
        path=str(run.path),
        next="watch_run",
    )
