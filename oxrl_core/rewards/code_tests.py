"""The tests of a row, in the forms that datasets of programs have:

tests                calls: {"function": "f", "args": [...], "kwargs": {...}, "expected": ...}, or programs:
                     {"input": "...", "output": "..."}; a list, or its JSON
test_list            MBPP: assert statements; test_imports and test_setup_code (or setup_code) stand before them
test + entry_point   HumanEval: code that defines check(candidate); where it only asserts results of calls, those calls
inputs + outputs     standard input and output of a program, one text each; with fn_name: arguments and results of calls
"""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast


@dataclass(frozen=True)
class Call:
    """A call of the solution, and the value that it must return."""

    function: str
    arguments: list[Any]
    keywords: dict[str, Any]
    expected: Any
    from_json: bool = True  # JSON has no tuples: (1, 2) is as good as [1, 2]


@dataclass(frozen=True)
class Program:
    """A run of the solution as a program: standard input, and what it must print."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class Script:
    """Test code that cannot be taken apart into calls. It runs in a child of its own."""

    sources: list[str]
    functions: list[str]  # the names that mean the solution's functions
    prelude: str = ""  # what the row itself says before the tests: imports, and functions that the tests use


@dataclass(frozen=True)
class Tests:
    """All tests of a row. One of calls, programs and script is there."""

    calls: list[Call] = field(default_factory=list[Call])
    programs: list[Program] = field(default_factory=list[Program])
    script: Script | None = None
    prelude: str = ""  # what the solution may rely on: the imports and functions of a HumanEval prompt
    entry_point: str = ""

    def __len__(self) -> int:
        return len(self.calls) + len(self.programs) + (len(self.script.sources) if self.script else 0)


def read_tests(row: Mapping[str, Any]) -> Tests:
    """The tests of a row; ValueError where it has none, or none that can be read."""
    if _has(row, "tests"):
        return _plain(_as_list(row["tests"], "tests"))
    if _has(row, "test_list"):
        return _asserts(row, [str(line) for line in _as_list(row["test_list"], "test_list")])
    if _has(row, "test") and _has(row, "entry_point"):
        return _check(row)
    if _has(row, "input_output"):
        row = _as_mapping(row["input_output"], "input_output")
    if _has(row, "inputs") and _has(row, "outputs"):
        return _inputs(row)
    raise ValueError("the row has no tests: one of tests, test_list, test with entry_point, inputs with outputs")


def _has(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None and len(row[key]) > 0


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} is no list of tests")
    return list(cast("list[Any]", value))


def _as_mapping(value: Any, name: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is no mapping")
    return cast("Mapping[str, Any]", value)


def _plain(entries: list[Any]) -> Tests:
    tests = [_as_mapping(entry, "a test") for entry in entries]
    if all("input" in test and "output" in test for test in tests):
        return Tests(programs=[Program(str(test["input"]), str(test["output"])) for test in tests])
    missing = sorted({key for test in tests for key in ("function", "expected") if key not in test})
    if missing:
        raise ValueError(f"a test has no {' and no '.join(missing)}")
    return Tests(
        calls=[
            Call(test["function"], list(test.get("args") or []), dict(test.get("kwargs") or {}), test["expected"])
            for test in tests
        ]
    )


def _inputs(row: Mapping[str, Any]) -> Tests:
    inputs, outputs = _as_list(row["inputs"], "inputs"), _as_list(row["outputs"], "outputs")
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    name = row.get("fn_name")
    if name:
        return Tests(calls=[Call(name, list(given), {}, out) for given, out in zip(inputs, outputs, strict=True)])
    return Tests(programs=[Program(_text(given), _text(out)) for given, out in zip(inputs, outputs, strict=True)])


def _text(value: Any) -> str:
    if isinstance(value, list):  # lines
        return "\n".join(str(line) for line in cast("list[Any]", value))
    return str(value)


# ---- code that tests -------------------------------------------------------------------------------------------------


def _asserts(row: Mapping[str, Any], lines: list[str]) -> Tests:
    imports: Any = row.get("test_imports") or []
    setup = [str(row.get("test_setup_code") or row.get("setup_code") or "")]
    before = [imports] if isinstance(imports, str) else [str(line) for line in cast("list[Any]", imports)]
    prelude = "\n".join(before + setup).strip()
    trees = [_parse(line, "test_list") for line in lines]
    calls = [_call_of(tree) for tree in trees]
    if not prelude and all(call is not None for call in calls):
        return Tests(calls=[call for call in calls if call is not None])
    given = _parse(prelude, "test_setup_code")
    wanted = sorted({name for tree in trees for name in _free_names(tree, given)})
    return Tests(script=Script(lines, wanted, prelude))


def _check(row: Mapping[str, Any]) -> Tests:
    name, test = str(row["entry_point"]), str(row["test"])
    calls = _calls_of_check(_parse(test, "test"), name)
    prelude = _before(str(row.get("prompt") or ""), name)
    if calls:
        return Tests(calls=calls, prelude=prelude, entry_point=name)
    return Tests(
        script=Script([f"{test}\n\ncheck({name})"], [name], prelude),
        prelude=prelude,
        entry_point=name,
    )


def _parse(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the row's {name} is no Python: {error}") from error


def _before(prompt: str, entry_point: str) -> str:
    """What a HumanEval prompt defines besides the function that is asked for. Nothing where the prompt is no code."""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kept = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign)]
    kept = [node for node in kept if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)]
    return "\n".join(ast.unparse(node) for node in kept)


def _call_of(tree: ast.Module) -> Call | None:
    """The call that `assert f(1, x=2) == 3` is, where its arguments and its result are literals."""
    match tree.body:
        case [ast.Assert(test=ast.Compare(left=ast.Call(func=ast.Name(id=name)) as call, ops=[ast.Eq()]) as compare)]:
            if hasattr(builtins, name) or any(keyword.arg is None for keyword in call.keywords):
                return None
            try:
                arguments: list[Any] = [ast.literal_eval(argument) for argument in call.args]
                keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
                expected: Any = ast.literal_eval(compare.comparators[0])
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return None
            return Call(name, arguments, keywords, expected, from_json=False)
        case _:
            return None


def _calls_of_check(tree: ast.Module, name: str) -> list[Call]:
    """The calls that `def check(candidate)` makes, where all that the code does is to assert their results.

    Most of HumanEval is so. Calls need no process for test code beside the solution's, and the fast tier knows them.
    """
    match [node for node in tree.body if not _does_nothing(node)]:
        case [
            ast.FunctionDef(name="check", args=ast.arguments(args=[ast.arg(arg=candidate)]), decorator_list=[]) as check
        ]:
            asserts = [node for node in check.body if not _does_nothing(node)]
        case _:
            return []
    calls = [_call_of(ast.Module([node], [])) for node in asserts]
    if not all(call is not None and call.function == candidate for call in calls):
        return []
    return [replace(call, function=name) for call in calls if call is not None]


def _does_nothing(node: ast.stmt) -> bool:
    """Whether it is a text, `pass`, `assert True`, or the METADATA that no test reads."""
    match node:
        case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Assert(test=ast.Constant(value=True)):
            return True
        case ast.Assign(targets=[ast.Name(id="METADATA")], value=ast.Dict()):
            return True
        case _:
            return False


def _free_names(tree: ast.Module, before: ast.Module) -> set[str]:
    """The names that a test calls, and that neither it nor what stands before it defines: the solution's functions."""
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    # A function may also be passed on, as in all(map(is_even, [2, 4])).
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return (called | loaded) - set(dir(builtins)) - set(_bound(tree)) - set(_bound(before))


def _bound(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.alias(name=name, asname=asname):
                yield asname or name.partition(".")[0]
            case _:
                pass
