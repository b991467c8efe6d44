"""Conditions on recorded rows: `reward = 0 and (length > 20 or finish_reason = length)`. Parsed, never evaluated.

    condition := one ("or" one)*          "and" binds tighter than "or", "not" tighter than both
    one       := NAME OP VALUE | "not" one | "(" condition ")"
    OP        := = | != | < | <= | > | >= | ~ (contains) | !~
    VALUE     := a number, true, false, null, a 'text' or "text" in quotes, or a plain word

A value that a row does not have is equal to null and to nothing else; every other comparison with it is false.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from oxrl_core.errors import ConfigError
from oxrl_core.suggest import did_you_mean

Row = Mapping[str, Any]
Condition = Callable[[Row], bool]

TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<op>!=|!~|<=|>=|==|=|<|>|~)
    | (?P<paren>[()])
    | (?P<word>[^\s()=<>!~'"]+)
    )""",
    re.VERBOSE,
)
MAX_DEPTH = 50  # of parentheses and "not": Python's own stack is no limit to be met
LANGUAGE = "conditions are like: reward=0 and (length>20 or finish_reason=length); text with blanks in quotes"


@dataclass(frozen=True)
class Part:
    """A word, text, operator or parenthesis of a condition."""

    kind: str
    value: str
    at: int


def parse(text: str, columns: Sequence[str], open_prefix: str = "part.") -> Condition:
    """The condition that the text says, over these columns and all whose names begin with the open prefix."""
    return _Parser(text, columns, open_prefix).whole()


def names_in(text: str) -> list[str]:
    """The columns that a condition looks at."""
    parts = _split(text)
    return [part.value for part, after in pairwise(parts) if after.kind == "op"]


def check_column(name: str, columns: Sequence[str], open_prefix: str = "part.") -> str:
    """The name, where there is such a column; raises with the nearest one where there is none."""
    if name in columns or (name.startswith(open_prefix) and name != open_prefix):
        return name
    raise ConfigError(
        f"no column {name!r}.{did_you_mean(name, columns)}", "rollouts", f"columns: {', '.join(columns)}, part.NAME"
    )


def sort_key(value: Any) -> tuple[int, float | str]:
    """A key under which values of one column have an order: missing ones first, NaN above every number."""
    if value is None:
        return (0, 0.0)
    if isinstance(value, (bool, int, float)):
        return (1, _size(value))
    return (2, str(value))


class _Parser:
    def __init__(self, text: str, columns: Sequence[str], open_prefix: str) -> None:
        self.text = text
        self.columns = columns
        self.open_prefix = open_prefix
        self.parts = _split(text)
        self.next = 0
        self.depth = 0

    def whole(self) -> Condition:
        condition = self._either()
        if self.next < len(self.parts):
            raise _wrong(self.text, self.parts[self.next].at, "expected `and` or `or`")
        return condition

    def _either(self) -> Condition:
        choices = [self._all()]
        while self._take_word("or"):
            choices.append(self._all())
        return choices[0] if len(choices) == 1 else lambda row: any(choice(row) for choice in choices)

    def _all(self) -> Condition:
        needed = [self._one()]
        while self._take_word("and"):
            needed.append(self._one())
        return needed[0] if len(needed) == 1 else lambda row: all(condition(row) for condition in needed)

    def _one(self) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _wrong(self.text, self._at(), f"more than {MAX_DEPTH} parentheses deep")
        try:
            if self._take_word("not"):
                inner = self._one()
                return lambda row: not inner(row)
            if self._take("paren", "("):
                inner = self._either()
                if not self._take("paren", ")"):
                    raise _wrong(self.text, self._at(), "expected )")
                return inner
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Condition:
        name = self._need("word", "a column")
        check_column(name.value, self.columns, self.open_prefix)
        operator = self._need("op", "one of = != < <= > >= ~ !~")
        if self.next < len(self.parts) and self.parts[self.next].kind == "text":
            value: Any = _unquoted(self.parts[self.next].value)
            self.next += 1
        else:
            value = _literal(self._need("word", "a value").value)
        if operator.value in ("<", "<=", ">", ">=") and not isinstance(value, float):
            raise _wrong(self.text, operator.at, f"{operator.value} compares numbers, not {value!r}")
        return _comparing(name.value, operator.value, value)

    def _at(self) -> int:
        return self.parts[self.next].at if self.next < len(self.parts) else len(self.text)

    def _take(self, kind: str, value: str) -> bool:
        if self.next < len(self.parts) and (self.parts[self.next].kind, self.parts[self.next].value) == (kind, value):
            self.next += 1
            return True
        return False

    def _take_word(self, word: str) -> bool:
        # A column may be called `and`: it is one where an operator follows.
        follows = self.next + 1 < len(self.parts) and self.parts[self.next + 1].kind == "op"
        return not follows and self._take("word", word)

    def _need(self, kind: str, what: str) -> Part:
        if self.next >= len(self.parts) or self.parts[self.next].kind != kind:
            raise _wrong(self.text, self._at(), f"expected {what}")
        self.next += 1
        return self.parts[self.next - 1]


def _split(text: str) -> list[Part]:
    parts: list[Part] = []
    end = len(text.rstrip())
    at = 0
    while at < end:
        found = TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise _wrong(text, at, "a character that says nothing here")
        parts.append(Part(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
        at = found.end()
    return parts


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def _literal(word: str) -> Any:
    """The value of a plain word: a number, a truth, nothing, or the word itself."""
    if word in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[word]
    try:
        return float(word)
    except ValueError:
        return word


def _comparing(name: str, operator: str, wanted: Any) -> Condition:
    if operator in ("=", "=="):
        return lambda row: _equal(row.get(name), wanted)
    if operator == "!=":
        if wanted is None:
            return lambda row: row.get(name) is not None
        return lambda row: row.get(name) is not None and not _equal(row[name], wanted)
    if operator in ("~", "!~"):
        text = "" if wanted is None else _said(wanted)
        wants = operator == "~"
        return lambda row: row.get(name) is not None and (text in _said(row[name])) == wants
    number = float(wanted)
    tests: dict[str, Callable[[float], bool]] = {
        "<": lambda value: value < number,
        "<=": lambda value: value <= number,
        ">": lambda value: value > number,
        ">=": lambda value: value >= number,
    }
    test = tests[operator]
    return lambda row: isinstance(row.get(name), (bool, int, float)) and test(_size(row[name]))


def _equal(value: Any, wanted: Any) -> bool:
    if value is None or wanted is None:
        return value is wanted
    if isinstance(value, str):
        return value == wanted if isinstance(wanted, str) else value == _said(wanted)
    if isinstance(wanted, str):
        return _said(value) == wanted
    if isinstance(value, float) and math.isnan(value):
        return math.isnan(wanted)
    return value == wanted


def _said(value: Any) -> str:
    """A value as a person would type it: 5 and not 5.0, true and not True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _size(value: float) -> float:
    """The number to compare by: a NaN is worse than any number, and must not hide."""
    return math.inf if math.isnan(value) else float(value)


def _wrong(text: str, at: int, what: str) -> ConfigError:
    return ConfigError(f"{what} at character {at + 1} of: {text}", "--where", LANGUAGE)
