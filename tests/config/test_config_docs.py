"""docs/config.md says what the schema says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from oxrl_core.config.keys import all_keys

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "config_docs.py"


def test_the_page_is_current_and_names_every_key():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert all(f"`{key.rpartition('*.')[2]}`" in page for key in all_keys())
