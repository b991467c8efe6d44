"""Lets these tests import the script that their rank processes run, and sets the environment that those run in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})
