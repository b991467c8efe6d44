"""What a child of the fork server does with a job, once it is locked down. Three kinds of job:

functions  runs a solution, then answers calls of its functions by message
program    runs a solution as a program: standard input is given, standard output goes to the judge
tests      runs a dataset's test code (trusted, and never in one process with a solution): the functions it calls are
           messages to the solution's child, which the judge passes on

The job is all that a child ever learns about its task. Expected values are never in a solution's job.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn, cast

from oxrl_core.rewards.sandbox import wire

CHANNEL = 3  # the only descriptor besides the standard ones
MAX_MESSAGE = 1 << 20  # of a reply; the judge stops reading there in any case
MAX_JOB = 16 << 20

# What the loops need is bound here: a solution may replace whatever a module holds.
_loads, _read, _write, _exit = json.loads, os.read, os.write, os._exit
_encode, _decode, _frame = wire.encode, wire.decode, wire.frame


def work(kind: str) -> NoReturn:
    """Says that this process is locked down, reads the job from the channel and does it."""
    _send(["locked"])
    job = _loads(_receive(MAX_JOB))
    if kind == "program":
        _run_program(job)
    elif kind == "functions":
        _serve_functions(job)
    else:
        _run_tests(job)
    _exit(0)


def _receive(limit: int = MAX_MESSAGE) -> bytes:
    size = int.from_bytes(_receive_exactly(wire.HEADER), "little")
    if size > limit:
        _exit(1)
    return _receive_exactly(size)


def _receive_exactly(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = _read(CHANNEL, min(1 << 16, size - len(data)))
        if not part:
            _exit(0)  # the judge has heard enough
        data += part
    return bytes(data)


def _send(message: Any) -> None:
    data = memoryview(_frame(message))
    if len(data) > MAX_MESSAGE:
        data = memoryview(_frame(["error", "OverflowError", "the result is larger than 1 MiB"]))
    while data:
        data = data[_write(CHANNEL, data) :]


def _run(source: str, file_name: str, module: types.ModuleType) -> None:
    exec(compile(source, file_name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what this process is for


def _new_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module  # dataclasses look their module up
    return module


# ---- functions -------------------------------------------------------------------------------------------------------


def _serve_functions(job: dict[str, Any]) -> None:
    try:
        module = _new_module("__solution__")
        _run(job["prelude"], "<prelude>", module)
        _run(job["code"], "<solution>", module)
    except BaseException as error:  # a solution may raise anything, SystemExit too: that is an answer, not an end
        _send(_describe(error))
        return
    _send(["ready"])
    while True:
        name, arguments, keywords = _loads(_receive())
        try:
            _send(["value", _encode(_function(module, name)(*_decode(arguments), **_decode(keywords)))])
        except BaseException as error:  # as above
            _send(_describe(error))


def _function(module: types.ModuleType, name: str) -> Callable[..., Any]:
    """The function of that name, or the method of a class that is made without arguments (`Solution.two_sum`)."""
    owner, _, method = name.rpartition(".")
    if owner:
        return cast("Callable[..., Any]", getattr(module.__dict__[owner](), method))
    if name not in module.__dict__:
        raise NameError(f"the solution defines no {name}")
    return module.__dict__[name]


def _describe(error: BaseException) -> list[str]:
    try:
        return ["error", type(error).__name__, str(error)[:200]]
    except BaseException:  # its __str__ is the solution's own
        return ["error", "Exception", ""]


# ---- program ---------------------------------------------------------------------------------------------------------


def _run_program(job: dict[str, Any]) -> NoReturn:
    """Ends with the program's own exit code; 1 where it raised."""
    data = memoryview(job["stdin"].encode())
    while data:  # descriptor 0 is an empty file in memory: made before the locks, because making one is locked too
        data = data[os.write(0, data) :]
    os.lseek(0, 0, os.SEEK_SET)
    os.dup2(CHANNEL, 1)
    os.close(CHANNEL)
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["program"]
    code = 0
    try:
        _run(job["code"], "<program>", _new_module("__main__"))
        for thread in threading.enumerate():  # programs that recurse deeply run in a thread with a larger stack
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit as error:
        code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
    except BaseException:  # whatever else it raises: an interpreter ends with 1 too
        code = 1
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    _exit(code & 0xFF)


# ---- tests -----------------------------------------------------------------------------------------------------------


class SolutionFailed(Exception):
    """The solution raised, gave no plain value, or answered nonsense."""


class CannotAsk(BaseException):
    """A test passes the solution a value that cannot be a message. Not an Exception: no test code catches it."""


# What a solution raises reaches the test code as itself where tests name such types. StopIteration is not among them:
# it would end a test's `map(candidate, inputs)` early, and `all()` of nothing is true.
EXCEPTIONS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        ArithmeticError, AssertionError, AttributeError, EOFError, Exception, FileNotFoundError, IndexError, KeyError,
        LookupError, NameError, NotImplementedError, OSError, OverflowError, RecursionError, RuntimeError, TypeError,
        ValueError, ZeroDivisionError,
    )
}  # fmt: skip


def _run_tests(job: dict[str, Any]) -> None:
    """Answers ["verdicts", one bool per test, what is wrong with the tests themselves or ""]."""
    module = _new_module("__tests__")
    try:
        _run(job["prelude"], "<prelude>", module)
    except Exception as error:
        _send(["verdicts", [], f"the code before the tests: {type(error).__name__}: {error}"[:300]])
        return
    for name in job["functions"]:
        module.__dict__[name] = _message_to(name)
    verdicts: list[bool] = []
    for source in job["tests"]:
        try:
            program = compile(source, "<test>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            _send(["verdicts", [], f"a test cannot be compiled: {error}"[:300]])
            return
        try:
            exec(program, module.__dict__)  # noqa: S102 - what this process is for
            verdicts.append(True)
        except CannotAsk as error:
            _send(["verdicts", [], f"a test passes a value that cannot be a message: {error}"])
            return
        except BaseException:  # failed, whatever it raised
            verdicts.append(False)
    _send(["verdicts", verdicts, ""])


def _message_to(name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            message = ["call", name, _encode(list(arguments), strict=True), _encode(keywords, strict=True)]
        except wire.NotPlain as error:
            raise CannotAsk(str(error)) from None
        except wire.TooDeep as error:  # only what a solution returned before is that deep
            raise SolutionFailed(str(error)) from None
        _send(message)
        try:
            answer = _loads(_receive())
            kind, content = answer[0], answer[1]
            if kind == "value":
                return _decode(content)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise SolutionFailed(f"no plain value: {error}") from None
        detail = str(answer[2]) if len(answer) > 2 else ""
        raise (EXCEPTIONS.get(content, SolutionFailed) if type(content) is str else SolutionFailed)(detail)

    call.__name__ = name
    return call
