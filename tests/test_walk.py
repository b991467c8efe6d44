"""docs/walk.md leads to files and functions that exist, in the order in which a step goes through them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
WALK = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`([^`\n]+)`", WALK)


def test_every_file_of_the_walk_exists() -> None:
    files = [text for text in QUOTED if re.fullmatch(r"[\w/]+\.py", text)]
    assert len(files) > 25
    for file in files:
        assert (ROOT / file).is_file() or (ROOT / "oxrl_core" / file).is_file(), file


def test_every_function_and_class_of_the_walk_exists() -> None:
    known = {
        node.name
        for path in (ROOT / "oxrl_core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    names = {text for text in QUOTED if re.fullmatch(r"[A-Za-z]\w+", text)} - {"watch_run", "lesson"}
    assert {"draw", "make_lesson", "give_credit", "train_step", "gather_signals", "LearnerWorker"} <= names
    assert names <= known


def test_the_stops_are_numbered_as_the_first_line_says() -> None:
    assert WALK.splitlines()[2].startswith("Eight stops.")
    assert re.findall(r"^(\d)\. ", WALK, flags=re.MULTILINE) == list("12345678")
