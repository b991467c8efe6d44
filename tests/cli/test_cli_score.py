"""`oxrl score`: rows in, verdicts out, in a pipe, from a file, and with lines that are no rows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxrl_core.rewards.base import close_workers, get_reward
from oxrl_core.types import Prompt, Rollout

Call = Callable[..., tuple[int, str, str]]
ROWS = [
    {"id": "a", "completion": r"\boxed{42}", "answer": "42"},
    {"completion": r"\boxed{41}", "answer": 42},
    {"completion": "no idea", "answer": "42"},
]


@pytest.fixture(autouse=True)
def workers_end() -> Iterator[None]:
    yield
    close_workers()


def write(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_a_line_for_every_line(oxrl: Call, tmp_path: Path) -> None:
    code, out, err = oxrl("score", write(tmp_path / "rows.jsonl", *ROWS), "--reward", "math")
    assert code == 0
    first, second, third = map(json.loads, out.splitlines())
    assert first == {"line": 1, "id": "a", "score": 1.0, "status": "ok", "parts": {"algebra": 0.0}}
    assert (second["line"], second["score"], second["status"]) == (2, 0.0, "ok")
    assert (third["score"], third["status"]) == (0.0, "no_answer") and third["detail"]
    assert "3 lines, mean 0.3333 of 3" in err


def test_it_is_the_verdict_of_training(oxrl: Call, tmp_path: Path) -> None:
    texts = [r"\boxed{1/2}", "<think>a</think><answer>0.5</answer>", "x", ""]
    rows = [{"completion": text, "answer": "0.5"} for text in texts]
    _, out, _ = oxrl("score", write(tmp_path / "rows.jsonl", *rows), "--reward", "reasoning", "--json")
    reward = get_reward("reasoning")
    for line, text in zip(out.splitlines(), texts, strict=True):
        score = reward(Rollout(Prompt("t/0", [1], "", "0.5"), 0, [1], [0.0], "stop", 0, 0, text=text))
        said = json.loads(line)
        assert (said["score"], said["status"], said["parts"]) == (score.value, score.status, score.parts)


def test_lines_without_a_verdict_are_named_by_number_and_set_the_exit_code(oxrl: Call, tmp_path: Path) -> None:
    lines = [ROWS[0], "{broken", "", [1], {"text": "x"}, {"completion": "x"}, ROWS[1]]
    code, out, err = oxrl("score", write(tmp_path / "rows.jsonl", *lines), "--reward", "gsm8k")
    said = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["line"] for line in said] == [1, 2, 4, 5, 6, 7]  # an empty line is no row
    assert [line["status"] for line in said] == ["ok", "error", "error", "error", "error", "ok"]
    assert [line["score"] for line in said[1:5]] == [None] * 4
    for text in ("line 2: error: no JSON", "line 4: error: a list", "no text under 'completion'; the row has: text"):
        assert text in err
    assert "no reference answer" in err and "4 without a verdict" in err


def test_columns_parameters_and_prompts(oxrl: Call, tmp_path: Path) -> None:
    rows = [
        {"reply": "The answer is (E)", "target": "E"},
        {"reply": "a</think>Answer: E", "target": "E", "prompt": [{"role": "user", "content": "?<think>"}]},
        {"reply": "Answer: E", "target": "E", "prompt": "?<think>"},
    ]
    arguments = ["--reward", "mcqa", "--answer-key", "target", "--completion-key", "reply", "--param", "letters=ABCDE"]
    code, out, _ = oxrl("score", write(tmp_path / "rows.jsonl", *rows), *arguments)
    assert code == 0
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["ok", "ok", "no_answer"]


def test_completions_of_one_prompt_are_a_group_for_a_reward_that_compares(oxrl: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def count(completions, **kwargs):\n    return [len(completions)] * len(completions)\n"
    )
    rows = [{"prompt": prompt, "completion": "x"} for prompt in ("p", "p", "q", "", "")]
    _, out, _ = oxrl("score", write(tmp_path / "r.jsonl", *rows), "--reward", f"{tmp_path}/mine.py:count")
    assert [json.loads(line)["score"] for line in out.splitlines()] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward", "maths"], "Did you mean 'math'"),
        ([], "which reward?"),
        (["--reward", "mcqa", "--param", "letters"], "is no parameter"),
        (["--reward", "mcqa", "--param", "letter=AB"], "Did you mean 'letters'"),
        (["--reward", "math", "nowhere.jsonl"], "cannot be read"),
        (["--reward", "math", "."], "a folder holds no lines"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    oxrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = oxrl("score", *arguments)
    assert (code, out) == (2, "") and message in err


def test_people_and_scripts_get_their_own_form(oxrl: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS, "{")
    _, out, _ = oxrl("score", path, "--reward", "math", "--format", "human")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["a", "1", "ok"], ["2", "0", "ok"], ["3", "0", "no_answer"], ["4", "-", "error"],
    ]  # fmt: skip
    assert max(map(len, out.splitlines())) <= 80
    _, out, err = oxrl("score", path, "--reward", "math", "--format", "quiet")
    assert (out, err) == ("1\n0\n0\nnone\n", "")


PROGRAM = "import sys; from oxrl_core.cli import main; sys.exit(main())"
SCORE = [sys.executable, "-c", PROGRAM, "score", "--reward", "gsm8k"]


def started() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        SCORE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_row_is_answered_before_the_next_one_comes() -> None:
    with started() as process:
        assert process.stdin is not None and process.stdout is not None
        for answer in ("42", "43"):
            process.stdin.write(json.dumps({"completion": "42", "answer": answer}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["score"] == float(answer == "42")
        process.stdin.write(json.dumps({"completion": "42", "answer": "42"}))  # the last line has no end
        process.stdin.close()
        assert json.loads(process.stdout.readline())["line"] == 3
        assert process.wait(timeout=30) == 0


def test_a_reader_that_leaves_ends_it_without_a_complaint() -> None:
    with started() as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        line = json.dumps({"completion": "42", "answer": "42"}) + "\n"
        process.stdin.write(line * 64)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        deadline = time.monotonic() + 60
        while process.poll() is None:
            assert time.monotonic() < deadline
            try:
                process.stdin.write(line * 64)
                process.stdin.flush()
            except BrokenPipeError:
                break
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
        with contextlib.suppress(BrokenPipeError):  # what was still unwritten has no reader
            process.stdin.close()
