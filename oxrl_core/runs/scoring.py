"""Verdicts of a reward on single completions, computed in a process of their own: `python -m oxrl_core.runs.scoring`.

One JSON object on stdin, one line of JSON at the end of stdout. The process has the environment of a run, not that of
its caller, and ends at its deadline: a reward may be somebody's own code.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import Field

from oxrl_core.errors import ConfigError, OxrlError, RewardError
from oxrl_core.runs.launch import run_environment
from oxrl_core.runs.records import last_json_line
from oxrl_core.runs.views import View

START_SECONDS = 60.0  # for two interpreters to import the reward; not part of the deadline of a verdict
HAS_VERDICT = ("ok", "no_answer")


class ScoreView(View):
    """One verdict."""

    score: float | None
    """Null: the verifier came to none (status timeout or error)."""
    status: str
    parts: dict[str, float | None] = Field(default_factory=dict[str, "float | None"])
    detail: str = ""


class ScoresView(View):
    """Verdicts on completions, in their order."""

    reward: str
    mean: float | None
    """Of those that have a score."""
    scores: list[ScoreView]


def score(
    reward: str,
    completions: Sequence[str],
    answer: str,
    prompt: str,
    row: Mapping[str, Any],
    params: Mapping[str, Any],
    timeout_seconds: float,
) -> ScoresView:
    """The verdicts; the completions are those of one prompt."""
    from oxrl_core.rewards.base import get_reward

    entry = get_reward(reward, dict(params))  # what cannot be right is said at once
    if entry.name == "reward_model":
        raise ConfigError("a reward model needs an engine", "reward", "evaluate a model with it: oxrl evaluate")
    asked = {
        "reward": reward,
        "params": dict(params),
        "prompt": prompt,
        "answer": answer,
        "row": dict(row),
        "completions": list(completions),
        "timeout_seconds": timeout_seconds,
    }
    command = [sys.executable, "-m", "oxrl_core.runs.scoring"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=run_environment(os.environ),
        start_new_session=True,
    ) as child:
        try:
            output, errors = child.communicate(json.dumps(asked), timeout=timeout_seconds + START_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its own session: the reward's workers go with it
            raise RewardError(
                f"no verdict within {timeout_seconds + START_SECONDS:g} s", reward, "try fewer completions"
            ) from None
    said = last_json_line(output)
    if "error" in said:
        raise RewardError(said["error"]["what"], said["error"]["where"], said["error"]["next"])
    if "scores" not in said:
        last = (errors.strip().splitlines() or [f"it ended with exit code {child.returncode}"])[-1]
        raise RewardError(f"the reward cannot be computed: {last}", reward, "try it on one completion: oxrl score")
    scores = [ScoreView.model_validate(one) for one in said["scores"]]
    values = [one.score for one in scores if one.score is not None and one.status in HAS_VERDICT]
    return ScoresView(reward=reward, mean=sum(values) / len(values) if values else None, scores=scores)


def compute(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the child process."""
    from oxrl_core.rewards.base import close_workers, get_reward, score_rollouts
    from oxrl_core.types import Prompt, Rollout

    entry = get_reward(asked["reward"], asked["params"])
    if entry.service is not None:
        entry.service.ready()
    row = {**asked["row"], "answer": asked["answer"], "prompt": asked["prompt"]}
    prompt = Prompt(id="asked", token_ids=[], text=asked["prompt"], answer=asked["answer"], row=row)
    rollouts = [
        Rollout(
            prompt=prompt,
            sample_index=index if entry.scope == "group" else 0,
            token_ids=[],
            rollout_logprobs=[],
            finish_reason="stop",
            policy_version=0,
            seed=0,
            text=text,
        )
        for index, text in enumerate(asked["completions"])
    ]
    try:
        verdicts = score_rollouts(entry, rollouts, float(asked["timeout_seconds"]))
    finally:
        close_workers()
        if entry.service is not None:
            entry.service.close()
    return {
        "scores": [
            {
                "score": _finite(verdict.value),
                "status": verdict.status,
                "parts": {name: _finite(part) for name, part in verdict.parts.items()},
                "detail": verdict.detail,
            }
            for verdict in verdicts
        ]
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> int:
    """The exit code: 0, or that of the error."""
    try:
        answer = compute(json.load(sys.stdin))
    except OxrlError as error:
        print(json.dumps({"error": error.as_dict()}), flush=True)
        return error.exit_code
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
