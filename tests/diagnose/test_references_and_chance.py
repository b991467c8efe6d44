"""Verdicts on references, and by chance: what a run says before it starts, and completions that never repeat."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]
Recorded = Callable[..., dict[str, Any]]
Score = Callable[[str, str, Any], float]  # of a completion, its reference and chance
NOTHING = "the reward mine pays nothing for any reference of 8 rows (mean 0): it may want them in another form"
LESS = "the reward mine pays the references of 8 of 8 rows (mean 0.1, of others 0.9) less than those of other rows"


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


def doubt(message: str) -> list[dict[str, Any]]:
    return [{"level": "warning", "code": "verifier_rejects_references", "message": message}]


def answered(folder: Path, count: int = 400) -> list[str]:
    """Overrides that name a file of questions with four letters as answer."""
    letters = random.Random(3)
    rows = [
        {"id": f"q/{number}", "prompt": f"{number}?", "answer": "".join(letters.choices("abcdefgh", k=4))}
        for number in range(count)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.train.0.name={path}", "data.train.0.answer_column=answer"]


def ids_of(run: RunDir) -> dict[str, str]:
    from oxrl_core.diagnose.facts import RunFacts
    from oxrl_core.diagnose.rows import rows_of

    return {row.id: row.answer for row in rows_of(RunFacts(run), "train")}


def played(
    make: Make, folder: Path, metrics: list[dict[str, Any]], recorded: Recorded, score: Score,
    exact: float = 0.2, events: list[dict[str, Any]] | None = None, edit: Callable[[str, Any], str] | None = None,
) -> RunDir:  # fmt: skip
    """A run of twenty steps with forty completions each, every one of another row, judged by `score`."""
    overrides = answered(folder)
    answers = list(ids_of(make(overrides=overrides)).items())
    chance = random.Random(7)
    rollouts: dict[int, list[dict[str, Any]]] = {}
    for step in range(1, 21):
        rollouts[step] = []
        for place in range(40):
            name, answer = answers[(step * 40 + place) % len(answers)]
            text = answer if chance.random() < exact else "".join(
                letter if chance.random() < 0.5 else chance.choice("abcdefgh") for letter in answer
            )  # fmt: skip
            text = edit(text, chance) if edit else text
            tokens = [ord(letter) for letter in text] + [1]
            rollouts[step].append(
                recorded(step, 0, place % 8, prompt_id=name, prompt_text=f"{name}?", completion_text=text,
                         completion_token_ids=tokens, score=score(text, answer, chance))
            )  # fmt: skip
    return make(overrides=overrides, metrics=metrics, rollouts=rollouts, events=events)


def places(text: str, answer: str, _chance: Any) -> float:
    return sum(one == two for one, two in zip(text, answer, strict=False)) / 4


def test_a_doubt_is_a_finding_where_the_rewards_are_bad_too(hand_made: Make, rl_rows: Rows) -> None:
    bad = rl_rows(reward__mean=lambda step: 0.2 + 0.01 * (step % 3))
    seen = found(hand_made(metrics=bad, events=doubt(LESS)))["verifier_rejects_references"]
    assert seen.severity == "error" and seen.confidence > 0.85


def test_a_doubt_about_the_form_is_forgotten_where_the_reward_is_earned(
    hand_made: Make, rl_rows: Rows, recorded: Recorded, tmp_path: Path
) -> None:
    def judged(text: str, answer: str, _chance: Any) -> float:
        return float(text == f"<{answer}>")

    def tagged(text: str, _chance: Any) -> str:
        return f"<{text}>"

    metrics = rl_rows(reward__mean=0.2)
    legit = played(hand_made, tmp_path, metrics, recorded, judged, exact=0.4, events=doubt(NOTHING), edit=tagged)
    assert "verifier_rejects_references" not in found(legit)
    high = rl_rows(reward__mean=lambda step: min(0.95, 0.1 * step))
    assert "verifier_rejects_references" not in found(hand_made(metrics=high, events=doubt(NOTHING)))


def test_a_doubt_about_references_that_nobody_is_ever_paid_for(
    hand_made: Make, rl_rows: Rows, recorded: Recorded, tmp_path: Path
) -> None:
    def boxed(text: str, _answer: str, _chance: Any) -> float:
        return 0.25 * text.count("h")

    run = played(hand_made, tmp_path, rl_rows(reward__mean=0.2), recorded, boxed, exact=0.3, events=doubt(NOTHING))
    seen = found(run)["verifier_rejects_references"]
    assert seen.severity == "warning" and "nothing for any reference" in seen.summary


def test_lost_rows_of_metrics_are_a_gap(hand_made: Make, rl_rows: Rows) -> None:
    event = {"level": "warning", "code": "metrics_lost", "steps": list(range(1, 10))}
    event["message"] = "metrics.jsonl has no row of 9 of the steps up to 9"
    seen = found(hand_made(metrics=rl_rows()[9:], events=[event]))
    assert seen["resume_gap"].severity == "warning" and seen["resume_gap"].confidence >= 0.9
    assert seen["resume_gap"].summary.startswith("metrics.jsonl has no row of 9")


def test_a_checkpoint_of_another_run_is_a_bad_one(hand_made: Make, rl_rows: Rows) -> None:
    event = {"level": "warning", "code": "foreign_checkpoint", "message": "step_00000012 was saved by another run, b-1"}
    seen = found(hand_made(metrics=rl_rows()[12:], events=[event]))
    assert seen["bad_checkpoint"].confidence >= 0.9 and "by another run, b-1" in seen["bad_checkpoint"].summary


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_half_of_the_verdicts_are_dice(
    share: float, hand_made: Make, rl_rows: Rows, recorded: Recorded, tmp_path: Path
) -> None:
    def dice(text: str, answer: str, chance: Any) -> float:
        return chance.random() if chance.random() < share else places(text, answer, chance)

    seen = found(played(hand_made, tmp_path, rl_rows(), recorded, dice))
    assert seen["reward_inconsistent"].severity == "error"
    never_right = found(played(hand_made, tmp_path, rl_rows(), recorded, dice, exact=0.0))
    assert "reward_inconsistent" in never_right


def test_verdicts_with_a_reason_are_no_chance(
    hand_made: Make, rl_rows: Rows, recorded: Recorded, tmp_path: Path
) -> None:
    def styled(text: str, answer: str, chance: Any) -> float:
        return 0.7 * places(text, answer, chance) + 0.3 * ("a" in text)

    def late(text: str, answer: str, chance: Any) -> float:
        return places(text, answer, chance)

    for score in (places, styled, late):
        run = played(hand_made, tmp_path, rl_rows(), recorded, score)
        assert "reward_inconsistent" not in found(run), score.__name__
