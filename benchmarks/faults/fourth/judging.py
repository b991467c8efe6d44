"""Rewards that are wrong, late, absent, or paid for something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.fourth_plants import GENTLE, half_taught, set_in
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3

PLANTS = HERE / "fourth_plants.py"
STYLE = own("has_even_digits", PLANTS)
JUDGED = (
    "model.path=miniature:chars",
    "reward.name=judge",
    "reward.url=http://127.0.0.1:9/v1",  # the plant writes the port of its judge here
    "reward.model=judge",
    "reward.opponents=2",
    "reward.cache=off",
)
opened: list[Any] = []


def _judged_by(run: Path, verdict: Callable[[str], str]) -> None:
    """A judge behind a true address of this machine, that answers by this rule as long as the process lives."""
    from oxrl_core.bench import judge_server

    judge_server.verdict = verdict
    server = judge_server.judge_server()
    set_in(run, "reward.url", server.__enter__())
    opened.append(server)


def _answers(question: str) -> tuple[str, str]:
    from oxrl_core.bench.judge_server import PART

    parts = {match["name"]: match["text"] for match in PART.finditer(question)}
    return parts["answer A"], parts["answer B"]


def judge_says_a(run: Path) -> None:
    """The judge prefers what it reads first, in both orders of a pair."""
    _judged_by(run, lambda _question: "A")


def judge_likes_it_long(run: Path) -> None:
    """The judge prefers the longer answer."""

    def longer(question: str) -> str:
        first, second = _answers(question)
        return "A" if len(first) > len(second) else "B" if len(second) > len(first) else "tie"

    _judged_by(run, longer)


def verdicts_as_they_come(run: Path) -> None:
    """Verdicts are collected in the order in which they arrive, and written onto completions in another."""
    import random

    from oxrl_core.train import verdicts

    half_taught(run)
    right = verdicts.score_rollouts
    order = random.Random(0)

    def arrived(*arguments: Any, **named: Any) -> Any:
        scores = list(right(*arguments, **named))
        order.shuffle(scores)
        return scores

    verdicts.score_rollouts = arrived


def _mostly_zeros() -> str:
    rows = reverse3("train", 0)
    return made_rows(
        "mostly-zeros",
        [
            {"prompt": row["prompt"], "answer": row["answer"] if number % 12 == 0 else "000"}
            for number, row in enumerate(rows)
        ],
    )


FAULTS = [
    Fault(
        "verdicts_as_they_come",
        "verdicts are given to other completions than they were about",
        {"reward_inconsistent", "reward_falls"},
        "rloo",
        [*GENTLE],
        plant=verdicts_as_they_come,
    ),
    Fault(
        "verifier_deployed_anew",
        "from step 14 on the verifier wants another form, and pays a fifth for the old one",
        {"reward_falls"},
        overrides=[f"reward.name={own('wants_a_colon', PLANTS)}", *GENTLE, "train.steps=30"],
        plant=half_taught,
    ),
    Fault(
        "verifier_backtracks",
        "the verifier's regular expression never ends on some completions",
        {"verifier_timeouts"},
        "cispo",
        [f"reward.name={own('reads_numbers', PLANTS)}", "reward.timeout_seconds=1", "train.steps=8"],
    ),
    Fault(
        "weights_of_parts_swapped",
        "truth has weight 0.1 and style weight 1: they were meant the other way round",
        {"part_hacking"},
        "cispo",
        [
            "reward.name=composite",
            *GENTLE,
            f"reward.parts=[{{name: positions, weight: 0.1}}, {{name: '{STYLE}', weight: 1.0}}]",
            "train.lr=1e-3",
            "train.steps=24",
        ],
        plant=half_taught,
    ),
    Fault(
        "answers_are_mostly_zeros",
        "eleven of twelve answers are the same",
        {"constant_answer"},
        "rloo",
        [f"data.train.0.name={_mostly_zeros()}", "train.steps=32", "train.lr=2e-3"],
    ),
    Fault(
        "judge_says_a",
        "the judge prefers the first place, whatever stands there",
        {"reward_constant", "nothing_to_learn", "zero_variance"},
        "online_dpo",
        [*JUDGED, "rollout.group_size=4", "train.steps=16"],
        plant=judge_says_a,
    ),
    Fault(
        "judge_likes_it_long",
        "the judge prefers the longer answer",
        {"length_hacking"},
        "rlaif",
        [
            *JUDGED,
            "algorithm.kl_coef=0",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=16",
            "rollout.group_size=6",
            "train.lr=2e-3",
            "train.steps=24",
        ],
        plant=judge_likes_it_long,
    ),
    Fault(
        "milliseconds_for_a_verdict",
        "in two steps the verifier returns its milliseconds for some completions",
        {"gradient_spike"},
        "dr_grpo",
        [f"reward.name={own('returns_the_time', PLANTS)}", "train.steps=30"],
    ),
]
