"""Lines of JSON are read at once where all are whole, and one by one where some are not: with the same result."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxrl_core.runs.records import read_lines

WHOLE = st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers(), st.text(max_size=4)), max_size=3)
ODD = st.sampled_from(
    [b'{"a": 1', b'"b": 2}', b"", b"[1]", b"7", b"null", b'{"a": "x', b"\xff", b"{}x", b'"b"}', b"{}, {}", b"]", b"["]
)
HALVES = st.sampled_from([b'{"a": [{}', b'{"b": 1}]}', b'{"a": {"b":', b"1}}", b"{}, null, {}"])  # like whole objects


@given(st.lists(st.one_of(WHOLE.map(lambda row: json.dumps(row).encode()), ODD, HALVES), max_size=12), st.booleans())
@example([b'{"a": 1', b'"b": 2}', b"{}, {}"], True)
@example([b'{"a": [{}', b'{"b": 1}]}', b"{}, {}"], True)
@example([b'{"a": [{}', b'{"b": 1}]}', b"{}, null, {}"], True)
@settings(max_examples=300, deadline=None)
def test_torn_lines_are_passed_by_and_never_joined(tmp_path_factory: object, lines: list[bytes], ends: bool) -> None:
    expected: list[dict[str, object]] = []
    for line in lines:
        try:
            row = json.loads(line.decode())
        except ValueError:
            continue
        if isinstance(row, dict):
            expected.append(row)
    file = Path(tmp_path_factory.mktemp("lines", numbered=True)) / "rows.jsonl"  # type: ignore[attr-defined]
    file.write_bytes(b"\n".join(lines) + (b"\n" if ends else b""))
    assert read_lines(file) == expected


def test_a_long_file_is_read_whole_whatever_one_of_its_lines_is(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"step": step, "loss": 1 / (step + 1)} for step in range(2500)]
    lines = [json.dumps(row) for row in rows]
    lines.insert(1500, '{"step": 15')
    file.write_text("\n".join(lines) + "\n")
    assert read_lines(file) == rows
