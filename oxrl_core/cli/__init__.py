"""The command line: `oxrl ...`. Only what parses arguments is imported before a command is known."""

from __future__ import annotations

from oxrl_core.cli.app import main

__all__ = ["main"]
