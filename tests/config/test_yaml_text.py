"""YAML as people mean it, and errors with line and column."""

from __future__ import annotations

import pytest

from oxrl_core.config.yaml_text import read_mapping, read_value, write_mapping
from oxrl_core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("3E4", 3e4),
        ("1_000", 1000),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("2026-11-21", "2026-11-21"),
        ("1:30", "1:30"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("[a, 1]", ["a", 1]),
        ("{name: x}", {"name": "x"}),
        ("'1e-6'", "1e-6"),
        (r'"\ud83d\ude00"', "\N{GRINNING FACE}"),  # as JSON writes it
    ],
)
def test_a_plain_scalar_is_what_a_reader_takes_it_for(text, value):
    result = read_value(text, "here")
    assert result == value and type(result) is type(value)


def test_every_key_knows_its_line():
    assert read_mapping("a: 1\nb:\n  c: 2\n  d: [3, 4]\n", "f").lines == {
        "a": 1,
        "b": 2,
        "b.c": 3,
        "b.d": 4,
        "b.d.0": 4,
        "b.d.1": 4,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "f.yaml, line 4: 'b.c' stands twice: on line 3 and on line 4"),
        ("a: [1, 2\n", "f.yaml, line 2, column 1: not readable as YAML: expected ',' or ']'"),
        ("a:\n\tb: 1\n", "f.yaml, line 2, column 1: a tab stands where YAML wants spaces"),
        ("", "f.yaml: the file is empty"),
        ("# only a comment\n", "f.yaml: the file is empty"),
        ("- 1\n", "f.yaml: the file holds a list"),
        ("word\n", "f.yaml: the file holds a single value"),
        ("a: &x [*x]\n", "grows without end"),
        ("? [a]\n: 1\n", "f.yaml, line 1: a key must be a plain word"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError) as caught:
        read_mapping(text, "f.yaml")
    assert message in str(caught.value)


def test_aliases_that_would_fill_the_memory_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="grows without end"):
        read_mapping("\n".join(lines), "f.yaml")


def test_text_that_looks_like_something_else_survives_writing_and_reading():
    mapping = {"a": ["1e-6", "no", "null", "true", "1_0", "", "2026-11-21", "a: b", "ünï"], "b": None, "c": 1e-6}
    assert read_mapping(write_mapping(mapping), "f").mapping == mapping
