"""Exact values of answers that need no computer algebra: rational numbers, and collections of them.

A text that holds anything else has no value here (None), and is left to others. No float takes part: 0.1 is 1/10.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt

MOST_TOKENS = 120
MOST_DIGITS = 300
MOST_BITS = 4096  # of a power
DEEPEST = 12
ROUNDED_PLACES = 6  # a decimal with so many places may stand for what it was rounded from

TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\\frac|\\sqrt|[-+*/^(){}]))")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
SCIENTIFIC = re.compile(r"([-+]?\d{1,20}(?:\.\d{1,20})?)[eE]([-+]?\d{1,3})")
DECIMAL = re.compile(r"[-+]?\d*\.(\d+)")
MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
MIXED = re.compile(r"([-+]?)(\d{1,9}) ?(?:\\frac\{(\d{1,9})\}\{(\d{1,9})\}|(?<= )(\d{1,9})/(\d{1,9}))")
PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Value:
    """An exact value: a number, or items between brackets."""

    number: Fraction | None = None
    places: int = 0  # of a decimal; 0 for other numbers
    brackets: str = ""  # "()", "[)", ...; "{}" a set or a list without brackets; "|" a row of a matrix; "oo" infinity
    items: tuple[Value, ...] = ()


class _NoValueError(Exception):
    """The text needs more than this file."""


@lru_cache(maxsize=4096)
def value_of(text: str) -> Value | None:
    """The exact value of a normalised text, or None where it takes computer algebra to say."""
    try:
        return _value(text, 0)
    except (_NoValueError, ZeroDivisionError):
        return None


def equal(wanted: Value, given: Value) -> bool:
    """Whether two values are the same; sets without regard to order, decimals of 6 places and more as rounded."""
    if wanted.number is not None and given.number is not None:
        distance = abs(wanted.number - given.number)
        places = max(wanted.places, given.places)
        return distance == 0 or (places >= ROUNDED_PLACES and 2 * distance * 10**places <= 1)
    if wanted.brackets != given.brackets or len(wanted.items) != len(given.items):
        return False
    if wanted.brackets != "{}":
        return all(map(equal, wanted.items, given.items))
    left = list(given.items)
    for item in wanted.items:
        match = next((index for index, other in enumerate(left) if equal(item, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _value(text: str, depth: int) -> Value:
    text = text.strip()
    if depth > DEEPEST or not text:
        raise _NoValueError
    if text in (r"\infty", r"+\infty", r"-\infty"):
        return Value(brackets="-oo" if text[0] == "-" else "oo")
    if text.startswith(r"\pm"):
        number = _value(text[3:], depth + 1)
        if number.number is None:
            raise _NoValueError
        return Value(brackets="{}", items=(number, Value(-number.number, number.places)))
    matrix = MATRIX.fullmatch(text)
    if matrix:
        rows = [row for row in matrix[2].split(r"\\") if row.strip()]
        cells = [tuple(_value(cell, depth + 1) for cell in row.split("&")) for row in rows]
        return Value(brackets="matrix" if matrix[1] != "vmatrix" else "det", items=tuple(Value(brackets="|", items=row) for row in cells))  # fmt: skip # noqa: E501
    if depth == 0:
        text = THOUSANDS.sub(lambda run: run.group().replace(",", ""), text)
    parts = _split(text)
    if len(parts) > 1:
        return _set(tuple(_value(part, depth + 1) for part in parts))
    inner = _inside(text)
    if inner is not None:
        opening, content, closing = inner
        items = tuple(_value(part, depth + 1) for part in _split(content))
        if opening == closing == "{}":
            return _set(items)
        if len(items) > 1:
            return Value(brackets=opening + closing, items=items)
    return _number(text)


def _set(items: tuple[Value, ...]) -> Value:
    """The items as a set: what is named twice is there once."""
    different: list[Value] = []
    for item in items:
        if not any(equal(item, other) for other in different):
            different.append(item)
    return Value(brackets="{}", items=tuple(different))


def _split(text: str) -> list[str]:
    """The text cut at the commas that stand in no bracket."""
    if "," not in text and ";" not in text:
        return [text]
    parts, depth, start = list[str](), 0, 0
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in ",;" and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _inside(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, content and closing bracket, where one pair holds the whole text."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{}", text[2:-2], "{}"
    if text[0] not in "([" or text[-1] not in ")]":
        return None
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and place < len(text) - 1:
            return None
    return text[0], text[1:-1], text[-1]


def _number(text: str) -> Value:
    scientific = SCIENTIFIC.fullmatch(text)
    if scientific:
        return Value(Fraction(scientific[1]) * Fraction(10) ** int(scientific[2]))
    mixed = MIXED.fullmatch(text)
    if mixed:
        above, below = mixed[3] or mixed[5], mixed[4] or mixed[6]
        size = int(mixed[2]) + Fraction(int(above), int(below))
        return Value(-size if mixed[1] == "-" else size)
    decimal = DECIMAL.fullmatch(text)
    return Value(_Arithmetic(text).result(), len(decimal[1]) if decimal else 0)


class _Arithmetic:
    """Numbers, + - * / ^, brackets, \\frac and the roots of squares, by descent."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        place = 0
        while place < len(text):
            match = TOKEN.match(text, place)
            if match is None or len(self.tokens) > MOST_TOKENS or len(match[1] or "") > MOST_DIGITS:
                raise _NoValueError
            self.tokens.append(match[1] or match[2])
            place = match.end()
        self.place = 0
        self.depth = 0

    def result(self) -> Fraction:
        value = self.sum()
        if self.place < len(self.tokens):
            raise _NoValueError
        return value

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise _NoValueError
        self.place += 1
        return token

    def sum(self) -> Fraction:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _NoValueError
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        self.depth -= 1
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while self.peek() in ("*", "/", "("):
            if self.peek() == "(":
                value *= self.power()
            else:
                value = value * self.signed() if self.take() == "*" else value / self.signed()
            if value.numerator.bit_length() > MOST_BITS or value.denominator.bit_length() > MOST_BITS:
                raise _NoValueError
        return value

    def signed(self) -> Fraction:
        sign = 1
        if self.peek() in ("-", "+"):
            sign = -1 if self.take() == "-" else 1
        return sign * self.power()

    def power(self) -> Fraction:
        base = self.atom()
        if self.peek() != "^":
            return base
        self.take()
        if self.peek() == "{":
            exponent = self.group("{", "}")
        else:
            token = self.take()
            exponent = Fraction(token[0] if len(token) == 1 and token.isdigit() else self.fail())
        if self.peek() == "^" or exponent.denominator != 1:
            raise _NoValueError
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * size > MOST_BITS:
            raise _NoValueError
        return base**exponent.numerator

    def atom(self) -> Fraction:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            if self.peek() in ("\\frac", "\\sqrt") or self.peek()[:1].isdigit():
                raise _NoValueError  # a product, or a mixed number? alone it was read as the latter
            return Fraction(token if token[0] != "." else "0" + token)
        self.place -= 1
        if token == "\\frac":
            self.take()
            above = self.group("{", "}")
            return above / self.group("{", "}")
        if token == "\\sqrt":
            self.take()
            return self.root(self.group("{", "}"))
        return self.group("(", ")") if token == "(" else self.group("{", "}")

    def group(self, opening: str, closing: str) -> Fraction:
        self.take(opening)
        value = self.sum()
        self.take(closing)
        return value

    def root(self, square: Fraction) -> Fraction:
        if square < 0:
            raise _NoValueError
        above, below = isqrt(square.numerator), isqrt(square.denominator)
        if above * above != square.numerator or below * below != square.denominator:
            raise _NoValueError
        return Fraction(above, below)

    def fail(self) -> str:
        raise _NoValueError
