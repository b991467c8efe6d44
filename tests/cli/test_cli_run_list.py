"""`oxrl run list` finds runs by the words that the tool list_runs has."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

Oxrl = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("words", "is_found"),
    [
        ((), True),
        (("--kind", "rl"), True),
        (("--kind", "sft"), False),
        (("--name", "HELL"), True),
        (("--name", "other"), False),
        (("--since", "1h"), True),
        (("--since", "2999-01-01"), False),
        (("--kind", "rl", "--name", "hello", "--since", "7d", "--state", "active"), True),
    ],
)
def test_runs_are_found_by_kind_name_and_time(
    oxrl: Oxrl, idle_run_id: str, words: tuple[str, ...], is_found: bool
) -> None:
    code, out, _ = oxrl("run", "list", *words, "--json")
    found = [run["run_id"] for run in json.loads(out)["runs"]]
    assert (code, found) == (0, [idle_run_id] if is_found else [])


def test_what_is_no_time_is_said(oxrl: Oxrl, idle_run_id: str) -> None:
    code, _, error = oxrl("run", "list", "--since", "yesterday")
    assert code == 2 and "yesterday" in error and "24h" in error
