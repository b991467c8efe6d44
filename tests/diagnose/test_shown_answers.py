"""Answers that stand in their prompts, completions that name them all, and words that cut them off."""

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


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


def rows_file(path: Path, prompt: str, seed: int) -> str:
    """A file of 40 sums; `prompt` is what is asked, with {question} and {answer} in it."""
    chance = random.Random(seed)
    lines: list[str] = []
    for _ in range(40):
        one, two = chance.randint(500, 999), chance.randint(500, 999)
        asked = prompt.format(question=f"What is {one} + {two}?", answer=one + two)
        lines.append(json.dumps({"prompt": asked, "answer": str(one + two)}))
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("train", "held_out", "is_told"),
    [
        ("{question} Solution: {answer}", "{question}", True),
        ("{question}", "{question}", False),
        ("{question} One of: {answer}, 7, 13.", "{question} One of: {answer}, 5, 11.", False),  # a choice, in both
        ("{question}", "{question} Solution: {answer}", False),  # that flatters the held-out reward alone
    ],
)
def test_training_prompts_that_hold_their_answer(
    train: str, held_out: str, is_told: bool, tmp_path: Path, hand_made: Make, rl_rows: Rows
) -> None:
    files = rows_file(tmp_path / "train.jsonl", train, 1), rows_file(tmp_path / "eval.jsonl", held_out, 2)
    overrides = [f"data.train.0.name={files[0]}", f"data.eval.0.name={files[1]}"]
    seen = found(hand_made(overrides=overrides, metrics=rl_rows()))
    assert ("answer_is_prompt" in seen) is is_told
    if is_told:
        assert (
            "100% of the training prompts hold their answer, and 0% of the held-out" in seen["answer_is_prompt"].summary
        )


def choices_run(make: Make, path: Path, rows: list[dict[str, Any]], recorded: Recorded, late: str) -> RunDir:
    """Twelve steps of answers to questions of three choices: at first one of them, later `late`."""
    path.write_text("\n".join(json.dumps({"prompt": f"{n}?", "answer": "ABC"[n % 3]}) for n in range(30)))
    overrides = [f"data.train.0.name={path}", "data.eval=[]"]
    probe = make(overrides=overrides)
    from oxrl_core.diagnose.facts import RunFacts
    from oxrl_core.diagnose.rows import rows_of

    known = rows_of(RunFacts(probe), "train")
    chance = random.Random(5)
    rollouts: dict[int, list[dict[str, Any]]] = {}
    for step in range(1, 13):
        rollouts[step] = []
        for place, row in enumerate(known):
            text = chance.choice("ABC") if step < 5 else late.format(own=row.answer, noise=chance.choice("xyz"))
            rollouts[step].append(
                recorded(step, place, prompt_id=row.id, completion_text=text, score=float(row.answer in text))
            )
    return make(overrides=overrides, metrics=rows, rollouts=rollouts)


def test_completions_that_come_to_name_every_choice(
    tmp_path: Path, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    path = tmp_path / "rows.jsonl"
    seen = found(choices_run(hand_made, path, rl_rows(), recorded, "A B C {noise}"))["constant_answer"]
    assert "several of the 3 answers" in seen.summary
    assert "constant_answer" not in found(choices_run(hand_made, path, rl_rows(), recorded, "{own} {noise}"))
    reasons = "A or B or C may be it {noise}; but of all of these the last is the best, as was said before: {own}"
    assert "constant_answer" not in found(choices_run(hand_made, path, rl_rows(), recorded, reasons))


@pytest.mark.parametrize(("last", "is_told"), [(1, False), (5, True)])
def test_completions_that_a_word_has_cut(
    last: int, is_told: bool, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rollouts = {
        step: [recorded(step, place, completion_token_ids=[4, last], completion_text=f"{place}") for place in range(16)]
        for step in range(1, 13)
    }
    run = hand_made(overrides=["rollout.stop_at_eos=true"], metrics=rl_rows(), rollouts=rollouts)
    words = {"model": {"vocab": {"2": 4, "3": 5}}, "added_tokens": [{"id": 1, "content": "<eos>", "special": True}]}
    (run.rollouts / "tokenizer.json").write_text(json.dumps(words))
    seen = found(run)
    assert ("truncation" in seen) is is_told
    if is_told:
        assert "100% of the completions that ended before their limit" in seen["truncation"].summary


def test_a_held_out_reward_that_is_left_behind(hand_made: Make, rl_rows: Rows) -> None:
    def rows(held_out: Callable[[int], float]) -> list[dict[str, Any]]:
        return rl_rows(
            reward__mean=lambda s: 0.9 * (s / 30) ** 2, eval__reward=lambda s: held_out(s) if s % 6 == 0 else None
        )

    seen = found(hand_made(metrics=rows(lambda s: min(0.3, 0.1 + 0.02 * s))))["eval_falls"]
    assert "is left behind at 0.3" in seen.summary
    assert "eval_falls" not in found(hand_made(metrics=rows(lambda s: 0.9 * (s / 30) ** 2)))
