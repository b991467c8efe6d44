"""The reward of programs: tests decide. A model's code runs in the sandbox; what it must give is known here alone."""

from __future__ import annotations

import re
from typing import Annotated, Any, cast

from pydantic import Field

from oxrl_core.parameters import Positive
from oxrl_core.rewards.base import reward
from oxrl_core.rewards.code_tests import Script, Tests, read_tests
from oxrl_core.rewards.sandbox import level, wire
from oxrl_core.rewards.sandbox.fast import FastTier, shared_interpreter
from oxrl_core.rewards.sandbox.pool import Deadline, Execution, Sandbox, Stopped, shared_sandbox
from oxrl_core.types import Prompt, Rollout, Score

PYTHON = frozenset({"python", "py", "python3"})
MAX_CODE = 1 << 20  # characters; no answer to a task of these datasets is a hundredth of that


def gold_program(prompt: Prompt, **parameters: Any) -> str | None:
    """The row's own solution, None where it has none."""
    row = prompt.row
    if row.get("canonical_solution"):  # HumanEval's goes on where the prompt ends
        return f"```python\n{row.get('prompt') or ''}{row['canonical_solution']}\n```"
    solution = row.get("completion") or row.get("code")
    if not isinstance(solution, str) or not solution.strip():
        return None
    return solution if "```" in solution else f"```python\n{solution}\n```"


def holds(*, interpreter: bool = True, **parameters: Any) -> str:
    """What holds the programs here, in words."""
    sandbox, fast = Sandbox(), FastTier()
    try:
        return f"{sandbox.level}; {fast.describe()}" if interpreter else str(sandbox.level)
    finally:
        sandbox.close()
        fast.close()


@reward("code", gold=gold_program, rests_on=holds)
def code(
    rollout: Rollout,
    *,
    partial: bool = False,
    seconds: Positive = 4.0,
    memory_mib: Annotated[int, Field(ge=64)] = 512,
    interpreter: bool = True,
) -> Score:
    """1 where the completion's program passes every test of its row, else 0; `partial`: the share that it passes.

    The program is the last fenced Python block after any thinking, else the whole text. All its tests together have
    `seconds`, and each of its processes `memory_mib`. A program past its deadline is a wrong one: 0, with the part
    "late" at 1. Left out of training, it would teach that never ending costs less than failing. A completion without a
    program has status "no_answer", a row without tests "error". Nothing runs where the kernel cannot hold it (`oxrl
    doctor`). `interpreter`: whether pydantic-monty is asked first, where it is installed: what passes there has passed,
    and whatever else comes of it, the sandbox decides.
    """
    tests = read_tests(rollout.prompt.row)
    program = program_of(rollout.text)
    if program is None:
        return Score(0.0, "no_answer", {"tests": 0.0}, "the completion holds no program")
    if tests.entry_point and not re.search(
        rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(tests.entry_point)}\b", program, re.M
    ):
        # A base model goes on where a HumanEval prompt ends.
        program = str(rollout.prompt.row.get("prompt") or "") + program
    if len(program) > MAX_CODE:
        return Score(0.0, "ok", {"tests": 0.0}, f"the program has {len(program)} characters")
    sandbox = shared_sandbox()
    level.require(sandbox.level)
    if interpreter and passes_in_interpreter(shared_interpreter(), program, tests, memory_mib):
        return Score(1.0, "ok", {"tests": 1.0}, f"{len(tests)} of {len(tests)} tests passed; sandbox: monty")
    deadline = Deadline(seconds)
    try:
        verdicts = run_tests(sandbox, program, tests, deadline, memory_mib)
    except Stopped as stopped:
        if stopped.why == "timeout":
            return Score(0.0, "ok", {"tests": 0.0, "late": 1.0}, f"the program was not done within {seconds:g} s")
        verdicts = [False] * len(tests)
    passed = sum(verdicts)
    share = passed / len(tests)
    value = share if partial else float(passed == len(tests))
    return Score(value, "ok", {"tests": share}, f"{passed} of {len(tests)} tests passed; sandbox: {sandbox.level.name}")


def program_of(text: str) -> str | None:
    """The last closed block that is fenced as Python, else the last without a language, else a text without fences."""
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    elif "<think>" in text:
        return None  # it never came to an answer
    python, plain, body = list[str](), list[str](), None
    language = ""
    for line in text.splitlines():
        mark = line.strip()
        if mark.startswith("```"):
            if body is None:
                words = mark.strip("`").split()
                body, language = list[str](), words[0].lower() if words else ""
            else:
                if language in PYTHON:
                    python.append("\n".join(body))
                elif not language:
                    plain.append("\n".join(body))
                body = None
        elif body is not None:
            body.append(line)
    if python or plain:
        return (python or plain)[-1]
    return text if text.strip() and "```" not in text else None


def passes_in_interpreter(fast: FastTier, program: str, tests: Tests, memory_mib: int) -> bool:
    """Whether the program passes every test in the fast tier. False says nothing: it speaks only a part of Python."""
    if tests.script:
        return False  # the tests themselves would need it to have the whole language
    if tests.programs:
        for test in tests.programs:
            printed = fast.prints(program, test.stdin, memory_mib=memory_mib)
            if printed is None or _lines(printed) != _lines(test.stdout):
                return False
        return True
    try:
        calls = [
            (call.function, wire.encode(call.arguments, strict=True), wire.encode(call.keywords, strict=True))
            for call in tests.calls
        ]
    except (wire.NotPlain, wire.TooDeep):
        return False
    answers = fast.values(program, tests.prelude, calls, memory_mib=memory_mib)
    return answers is not None and all(
        wire.matches(answer, call.expected, tuples_as_lists=call.from_json)
        for answer, call in zip(answers, tests.calls, strict=True)
    )


def run_tests(sandbox: Sandbox, program: str, tests: Tests, deadline: Deadline, memory_mib: int) -> list[bool]:
    """Whether each test passes."""
    if tests.programs:
        return [_prints(sandbox, program, test.stdin, test.stdout, deadline, memory_mib) for test in tests.programs]
    with sandbox.solution(program, deadline=deadline, prelude=tests.prelude, memory_mib=memory_mib) as (solution, said):
        if said[0] != "ready":
            return [False] * len(tests)
        if tests.script:
            return _run_script(sandbox, tests.script, solution, memory_mib)
        return _run_calls(tests, solution)


def _run_calls(tests: Tests, solution: Execution) -> list[bool]:
    verdicts: list[bool] = []
    for test in tests.calls:
        try:
            answer = solution.call(test.function, test.arguments, test.keywords)
        except Stopped as stopped:
            if stopped.why == "timeout":
                raise
            break  # what it answered before stands
        returned = len(answer) == 2 and answer[0] == "value"
        verdicts.append(returned and wire.matches(answer[1], test.expected, tuples_as_lists=test.from_json))
    return verdicts + [False] * (len(tests.calls) - len(verdicts))


def _run_script(sandbox: Sandbox, script: Script, solution: Execution, memory_mib: int) -> list[bool]:
    message = sandbox.run_tests(script.prelude, script.sources, script.functions, solution, memory_mib=memory_mib)
    if message[0] != "verdicts" or len(message) != 3:
        return [False] * len(script.sources)
    if message[2]:
        raise ValueError(f"the row's tests cannot be run: {message[2]}")
    verdicts = cast("list[Any]", message[1])
    return [verdict is True for verdict in verdicts]


def _prints(sandbox: Sandbox, program: str, stdin: str, stdout: str, deadline: Deadline, memory_mib: int) -> bool:
    try:
        result = sandbox.run_program(program, stdin, deadline=deadline, memory_mib=memory_mib)
    except Stopped as stopped:
        if stopped.why == "timeout":
            raise
        return False
    return result.exit_code == 0 and _lines(result.output.decode(errors="replace")) == _lines(stdout)


def _lines(text: str) -> list[str]:
    """The lines without white space at their ends, and without empty ones at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]
