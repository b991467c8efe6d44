"""The fast tier: what passes there has passed, nothing else that happens there means anything, and no trick is paid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from oxrl_core.rewards.code import code, passes_in_interpreter, program_of
from oxrl_core.rewards.code_tests import read_tests
from oxrl_core.rewards.sandbox import wire
from oxrl_core.rewards.sandbox.fast import FastTier, interpreter_version
from oxrl_core.types import Prompt, Rollout

pytest.importorskip("pydantic_monty", reason="the extra oxrl[sandbox] is not installed")

FOLDER = Path(__file__).parent
TABLE = yaml.safe_load((FOLDER / "attack_table.yaml").read_text())
RED_TEAM = yaml.safe_load((FOLDER / "red_team.yaml").read_text())
PROBLEMS = yaml.safe_load((FOLDER / "problems.yaml").read_text())
TRICKS = [family["template"].replace("@", value) for family in RED_TEAM["families"] for value in family["values"]]
ROW = {"tests": [{"function": "f", "args": [n], "expected": n * n} for n in (1, 2, 3)]}
UNFOLDING = "a = [1] * 1000\nb = [a] * 1000\nc = [b] * 1000\nd = [c] * 1000\n"  # 10**12 references in a few kilobytes


@pytest.fixture(scope="module")
def fast():
    made = FastTier()
    assert made.describe().startswith(f"monty {interpreter_version()} first"), made.problem
    yield made
    made.close()


def drawn(program: str, row: dict) -> Rollout:
    return Rollout(Prompt("t/train/0", [], "", row=row), 0, [], [], "stop", 0, 0, f"```python\n{program}\n```")


def value_of(fast: FastTier, program: str, *arguments: object):
    call = ("f", wire.encode(list(arguments)), wire.encode({}))
    answers = fast.values(program, "", [call], memory_mib=512)
    return answers and answers[0]


def passes(fast: FastTier, program: str, row: dict) -> bool:
    return passes_in_interpreter(fast, program, read_tests(row), 512)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("def f(x): return x", [value])
        for value in (None, True, 3, -(2**70), 2**53, 0.1, -0.0, 1e300, float("inf"), "ä€\x00", b"\x00\xff",
                      [1, [2.5]], (1, (2,)), {1, 2}, {"a": {1: (2,)}}, [], (), {})
    ],
)  # fmt: skip
def test_a_value_comes_back_as_it_was(fast, program, arguments):
    answer = value_of(fast, program, *arguments)
    assert wire.matches(answer, arguments[0]) and wire.decode(answer) == arguments[0]
    assert type(wire.decode(answer)) is type(arguments[0])


def test_a_verdict_says_that_the_fast_tier_decided():
    assert code(drawn("def f(n): return n * n", ROW)).detail == "3 of 3 tests passed; sandbox: monty"
    row = {"inputs": ["3 1\n"], "outputs": ["1 3\n"]}
    assert code(drawn("print(*sorted(map(int, input().split())))", row)).detail.endswith("sandbox: monty")


@pytest.mark.parametrize(
    "program",
    [
        "import string\ndef f(n): return n * n + len(string.digits) - 10",
        "def f(n):\n    def g(): yield n * n\n    return next(g())",
        "class Square(int):\n    pass\ndef f(n): return Square(n * n)",
        "import sys\nsys.setrecursionlimit(5000)\ndef f(n): return n * n",
        "import time\ndef f(n):\n    time.sleep(0.05)\n    return n * n",
        "def f(n):\n    total = 0\n    for _ in range(3_000_000): total += 1\n    return n * n",
        "def f(n): return len(bytes(100 << 20)) and n * n",
        "import sys\ndef f(n):\n    print('note', file=sys.stderr)\n    return n * n",
        "def type(x): return None\ndef isinstance(x, y): return False\ndef f(n): return n * n",
    ],
)
def test_what_the_interpreter_cannot_do_is_decided_by_the_sandbox(fast, program):
    assert not passes(fast, program, ROW)
    verdict = code(drawn(program, ROW))
    assert verdict.value == 1.0 and "monty" not in verdict.detail


def test_a_wrong_program_is_judged_by_the_sandbox():
    verdict = code(drawn("def f(n): return 1 if n == 1 else 0", ROW), partial=True)
    assert verdict.value == pytest.approx(1 / 3) and "monty" not in verdict.detail


def test_a_prompt_that_a_program_prints_is_part_of_its_output(fast):
    row = {"inputs": ["3\n"], "outputs": ["3\n"]}
    assert passes(fast, "print(input())", row)
    assert not passes(fast, "print(input('n = '))", row)
    assert not passes(fast, "print(input())\nprint(input())", row)  # the second one has no line to read


def test_most_problems_are_decided_fast(fast):
    # Functions and programs; test code goes to the sandbox at once.
    rows = [{**problem, "text": program_of(f"```python\n{problem['solution']}\n```")} for problem in PROBLEMS
            if "solution" in problem and "test" not in problem and "repeat" not in problem]  # fmt: skip
    rows = [row for row in rows if not read_tests(row).script]
    assert sum(passes(fast, row["text"], row) for row in rows) >= 0.6 * len(rows)


@pytest.mark.parametrize("form", ["calls", "asserts", "program"])
@pytest.mark.parametrize("kind", ["verdict", "host"])
def test_no_attack_of_the_table_is_paid(fast, tasks, canaries, form, kind):
    tail = "\nprint(solve(1))" if form == "program" else ""
    for name, program in TABLE[kind].items():
        assert not passes(fast, canaries.fill(program) + tail, tasks[form]), name
    canaries.check()


@pytest.mark.parametrize("name", TABLE["host"])
def test_nothing_of_the_host_comes_out(fast, canaries, name):
    program = canaries.fill(TABLE["host"][name])
    printed = fast.prints(f"{program}\nprint(solve(1))", "", memory_mib=512) or ""
    assert canaries.secret not in printed and "LEAK" not in printed
    canaries.check()


def test_no_trick_is_paid(fast, tasks):
    for form in ("calls", "asserts", "program"):
        assert [trick for trick in [*TRICKS, *RED_TEAM["programs"]] if passes(fast, trick, tasks[form])] == []


@pytest.mark.parametrize("name", TABLE["resource"])
def test_a_bomb_is_over_soon_and_the_tier_goes_on(fast, tasks, name):
    program = TABLE["resource"][name] * (100_000 if name == "huge_source" else 1)
    started = time.monotonic()
    assert not passes(fast, program, tasks["calls"])
    assert time.monotonic() - started < 1.6
    assert value_of(fast, "def f(n): return n + 1", 1) == 2


@pytest.mark.parametrize(
    "bomb",
    [
        "d", "d;", "if 1: d", "def f(n): return d", "print(d)", "raise ValueError(d)", "x = repr(d)", "open(d)",
        "import asyncio\nawait asyncio.sleep(0, d)", "import os\nos.getenv('HOME', d)", "undefined(d)",
        "import asyncio\nawait asyncio.gather(asyncio.sleep(0, d))", "raise ValueError('x' * (60 << 20))",
        "from pathlib import Path\nPath('/x').write_text(d)", "def f(n): return 10 ** 10 ** 7",
        "class A: pass\nx = A()\nx.a = d\nx", "def f(n): return {1: d}", "d.append(d)\nd",
    ],
)  # fmt: skip
def test_what_unfolds_costs_the_judge_nothing(fast, bomb):
    peak = int(Path("/proc/self/statm").read_text().split()[1])
    started = time.monotonic()
    value_of(fast, UNFOLDING + bomb, 1)
    assert time.monotonic() - started < 1.6
    assert (int(Path("/proc/self/statm").read_text().split()[1]) - peak) * os.sysconf("SC_PAGE_SIZE") < 32 << 20
    assert value_of(fast, "def f(n): return n + 1", 1) == 2


def test_sleep_is_no_way_to_stay(fast):
    assert value_of(fast, "import time\ntime.sleep(9)\ndef f(n): return n", 1) is None
    assert value_of(fast, "import asyncio\nawait asyncio.sleep(9)\ndef f(n): return n", 1) is None


def test_a_session_knows_nothing_of_the_last_one(fast):
    assert value_of(fast, "kept = 1\ndef f(n): return n", 1) == 1
    assert value_of(fast, "def f(n): return kept", 1) is None


def test_its_process_has_no_environment_and_may_die():
    os.environ["CANARY_FAST"] = "x"
    tier = FastTier()
    try:
        assert value_of(tier, "def f(n): return n", 5) == 5
        assert tier.process is not None
        pids = [tier.process.pid]
        pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
        assert len(pids) == 2
        assert not any(b"CANARY_FAST" in Path(f"/proc/{pid}/environ").read_bytes() for pid in pids[1:])
        os.kill(pids[1], signal.SIGKILL)
        assert [value_of(tier, "def f(n): return n", 5) for _ in range(2)][1] == 5
        os.kill(tier.process.pid, signal.SIGKILL)
        assert [value_of(tier, "def f(n): return n", 5) for _ in range(2)][1] == 5
        last = tier.process.pid
    finally:
        tier.close()
        del os.environ["CANARY_FAST"]
    assert not Path(f"/proc/{last}").exists()


def test_it_ends_with_its_judge():
    program = (
        "from oxrl_core.rewards.sandbox.fast import *\n"
        "tier = FastTier(); tier.describe(); print(tier.process.pid, flush=True); import os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    pid, end = int(done.stdout), time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
            return
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_without_the_package_the_sandbox_decides(monkeypatch):
    monkeypatch.setattr("oxrl_core.rewards.sandbox.fast._binary", lambda: "")
    tier = FastTier()
    assert tier.describe() == "no interpreter (pydantic-monty is not installed)"
    assert value_of(tier, "def f(n): return n", 1) is None
