"""A generated page of the documentation: written, or compared with what would be written."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_or_check(page: Path, text: str, *, check: bool, command: str) -> int:
    """The exit code: 0 where the page is written or current, 1 where `check` finds it stale."""
    name = page.relative_to(ROOT)
    if not check:
        page.write_text(text, encoding="utf-8")
        print(f"wrote {name}")
        return 0
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        print(f"{name} is stale: run {command}", file=sys.stderr)
        return 1
    return 0
