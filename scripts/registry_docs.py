"""Writes registry/README.md from the entries and their evidence; --check finds out whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.pages import write_or_check  # noqa: E402
from swarm.registry.table import page  # noqa: E402

if __name__ == "__main__":
    path = ROOT / "registry" / "README.md"
    sys.exit(write_or_check(path, page(), check="--check" in sys.argv, command="python scripts/registry_docs.py"))
