"""The code reward: honest programs are paid in every form of tests, and each status says what happened."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from oxrl_core.rewards.base import close_workers, get_reward, score_rollouts
from oxrl_core.rewards.code import code, gold_program, program_of
from oxrl_core.rewards.code_tests import read_tests
from oxrl_core.types import Prompt, Rollout

PROBLEMS = {entry["name"]: entry for entry in yaml.safe_load((Path(__file__).parent / "problems.yaml").read_text())}
ROW = {"tests": [{"function": "f", "args": [n], "expected": n * n} for n in (1, 2, 3)]}
GOOD = "```python\ndef f(n):\n    return n * n\n```"


def drawn(text: str, row: dict) -> Rollout:
    return Rollout(Prompt("t/train/0", [], "", row=row), 0, [], [], "stop", 0, 0, text)


def row_of(problem: dict) -> dict:
    row = {key: value for key, value in problem.items() if key not in ("name", "solution", "body", "repeat")}
    for key in ("inputs", "outputs"):
        if "repeat" in problem:
            row[key] = [text * problem["repeat"] for text in row[key]]
    return row


def test_there_are_thirty_problems():
    assert len(PROBLEMS) >= 30


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_reference_solution_passes(name):
    problem = PROBLEMS[name]
    text = problem.get("body") or f"I would do it so:\n\n```python\n{problem['solution']}\n```\nThat is all."
    verdict = code(drawn(text, row_of(problem)))
    assert (verdict.value, verdict.status, verdict.parts) == (1.0, "ok", {"tests": 1.0}), verdict.detail


@pytest.mark.parametrize("body", ["return None", "return True", "return 0", "return []", "return a[0]"])
@pytest.mark.parametrize("name", [name for name in PROBLEMS if "solution" in PROBLEMS[name]])
def test_a_constant_does_not_pass(name, body):
    row = row_of(PROBLEMS[name])
    names = {call.function for call in read_tests(row).calls} | set(getattr(read_tests(row).script, "functions", ()))
    program = "\n".join(f"def {function}(*a, **k):\n    {body}" for function in names if "." not in function)
    verdict = code(drawn(f"```python\n{program}\n```", row))
    assert (verdict.value, verdict.status) == (0.0, "ok")


def test_partial_pays_the_share_of_tests_passed():
    text = "```python\ndef f(n):\n    return 1 if n == 1 else 4\n```"
    assert code(drawn(text, ROW)).value == 0.0
    verdict = code(drawn(text, ROW), partial=True)
    assert verdict.value == pytest.approx(2 / 3) and verdict.parts == {"tests": pytest.approx(2 / 3)}
    dies = "```python\nimport os\ndef f(n):\n    return 1 if n == 1 else os._exit(0)\n```"
    assert code(drawn(dies, ROW), partial=True).value == pytest.approx(1 / 3)


def test_the_verdict_says_how_the_program_was_held(sandbox):
    assert code(drawn(GOOD, ROW), interpreter=False).detail == f"3 of 3 tests passed; sandbox: {sandbox.level.name}"


@pytest.mark.parametrize(
    "text", ["", "  \n", "Use ```a``` here", "```bash\nls\n```", "<think>```python\nx\n```", "```python\nx = 1"]
)
def test_a_completion_without_a_program_is_no_answer(text):
    assert code(drawn(text, ROW)).status == "no_answer"
    assert code(drawn(text, ROW)).value == 0.0


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```\nbetter:\n```py\nb\n```", "b"),
        ("```python\na\n```\nit prints\n```\nout\n```", "a"),
        ("```\na\n```", "a"),
        ("<think>\n```python\na\n```\n</think>\n```python\nb\n```", "b"),
        ("```Python title=x\n  a\n```", "  a"),
        ("def f(): pass", "def f(): pass"),
    ],
)
def test_the_program_is_the_last_python_block(text, program):
    assert program_of(text) == program


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"tests": []},
        {"tests": [{"function": "f"}]},
        {"test_list": ["assert f(1 =="]},
        {"test": "def check(candidate): pass"},
        {"inputs": ["1"], "outputs": []},
        {"test_list": ["assert f(object()) == 1"]},
        {"test_list": ["assert f(1) == 1", "assert f(lambda: 1) == 1"]},
        {"test_imports": ["import no_such_module"], "test_list": ["assert f(1) == 1"]},
    ],
)
def test_a_row_without_usable_tests_is_an_error_and_no_zero(row):
    verdict = get_reward("code")(drawn(GOOD, row))
    assert verdict.status == "error" and math.isnan(verdict.value)


def test_an_endless_program_is_wrong_and_late():
    verdict = code(drawn("```python\ndef f(n):\n    while True: pass\n```", ROW), seconds=0.5)
    assert (verdict.status, verdict.value, verdict.parts["late"]) == ("ok", 0.0, 1.0)


def test_the_deadline_is_that_of_all_tests_together():
    row = {"tests": [{"function": "f", "args": [n], "expected": n} for n in range(10)]}
    slow = "```python\nimport time\ndef f(n):\n    time.sleep(0.2)\n    return n\n```"
    assert code(drawn(slow, row), seconds=0.7).parts["late"] == 1.0
    assert code(drawn(slow, row), seconds=20.0).value == 1.0


def test_nothing_is_left_for_the_next_program():
    writes = "import os\nopen('/tmp/left', 'w').write('x')\ndef f(n):\n    return n * n"
    reads = "import os\ndef f(n):\n    return n * n if os.listdir('/tmp') == [] else 0"
    assert code(drawn(f"```python\n{writes}\n```", ROW)).value == 1.0
    assert code(drawn(f"```python\n{reads}\n```", ROW)).value == 1.0


def test_memory_is_limited():
    text = "```python\ndef f(n):\n    return len(bytearray(200 << 20)) and n * n\n```"
    assert code(drawn(text, ROW), memory_mib=100).value == 0.0
    assert code(drawn(text, ROW), memory_mib=512, seconds=60.0).value == 1.0


def test_it_works_in_the_reward_processes_of_a_run():
    bomb = "```python\nimport os\nos.kill(os.getppid(), 9)\nwhile True: pass\n```"
    rollouts = [drawn(text, ROW) for text in (GOOD, bomb, GOOD.replace("n * n", "n"), GOOD)]
    try:
        verdicts = score_rollouts(get_reward("code", {"seconds": 1.0}), rollouts, 120.0)
    finally:
        close_workers()
    assert [verdict.status for verdict in verdicts] == ["ok", "ok", "ok", "ok"]
    assert [verdict.value for verdict in verdicts] == [1.0, 0.0, 0.0, 1.0]


def test_tests_may_be_json():
    assert code(drawn(GOOD, {"tests": json.dumps(ROW["tests"])})).value == 1.0


def test_the_gold_program_of_a_row_passes():
    human_eval = {**PROBLEMS["check, only a body"], "canonical_solution": "    return xs[-1]\n"}
    for row in (human_eval, {**ROW, "completion": GOOD}, {**ROW, "code": "def f(n): return n * n"}):
        text = gold_program(Prompt("t/train/0", [], "", row=row))
        assert text is not None and code(drawn(text, row)).value == 1.0
    assert gold_program(Prompt("t/train/0", [], "", row=ROW)) is None
