"""Everything that the command line says: one result object, four renderings.

human: tables and colours, for a terminal. agent: dense plain text, for a pipe or a coding agent. json: the object
itself. quiet: identifiers only. How a person's screen is drawn: tables.py; what plain text looks like: text.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from oxrl_core.cli.tables import draw_anything, drawn
from oxrl_core.cli.text import agent_text, command_after, identifiers
from oxrl_core.errors import OxrlError

if TYPE_CHECKING:
    from pydantic import BaseModel

# Set by coding agents in the shells they open.
AGENT_VARIABLES = ("CLAUDECODE", "GEMINI_CLI", "CODEX_SANDBOX", "AI_AGENT")

Draw = Callable[[Any], Iterable[Any]]  # a result -> what rich prints


class Format(StrEnum):
    auto = "auto"
    human = "human"
    agent = "agent"
    json = "json"
    quiet = "quiet"


def is_terminal() -> bool:
    """Whether a person sees standard output."""
    return sys.stdout.isatty()


def resolve_format(asked: Format, environment: Mapping[str, str] | None = None) -> Format:
    """The rendering that `auto` stands for: human on a person's terminal, agent anywhere else."""
    if asked is not Format.auto:
        return asked
    environment = os.environ if environment is None else environment
    by_agent = any(environment.get(name) for name in AGENT_VARIABLES)
    return Format.human if is_terminal() and not by_agent else Format.agent


@dataclass(frozen=True)
class Output:
    """Where a command's results go, and how they look."""

    format: Format = Format.agent

    def show(self, result: BaseModel, draw: Draw | None = None) -> None:
        """Prints a result in the chosen rendering."""
        if self.format is Format.json:
            self.write(json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False))
            return
        value = result.model_dump(mode="json", exclude_none=True)
        if "next" in value:
            value["next"] = command_after(value)
        if self.format is Format.quiet:
            self.write("\n".join(identifiers(value)))
        elif self.format is Format.human:
            self.write(drawn(draw(result) if draw else draw_anything(value)))
        else:
            self.write(agent_text(value))

    def json(self, document: Mapping[str, Any]) -> None:
        """Prints a JSON document."""
        self.write(json.dumps(document, indent=2, ensure_ascii=False))

    def text(self, text: str) -> None:
        """Prints prose or a document; in JSON it is {"text": ...}."""
        self.write(json.dumps({"text": text}, ensure_ascii=False) if self.format is Format.json else text)

    def note(self, text: str) -> None:
        """Says something beside the result, on standard error, where it disturbs no pipe."""
        if self.format not in (Format.quiet, Format.json):
            _write(sys.stderr, text)

    def error(self, error: OxrlError) -> None:
        """Says what went wrong, where, and what to do next, in one screen on standard error."""
        if self.format is Format.json:
            _write(sys.stderr, json.dumps({"error": error.as_dict()}, ensure_ascii=False))
            return
        head = f"{error.where}: {error.what}" if error.where else error.what
        if self.format is Format.human and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            from rich.text import Text

            lines: list[Any] = [Text.assemble(("error ", "bold red"), _screen(head))]
            if error.next_step:
                lines.append(Text.assemble(("next  ", "bold"), error.next_step))
            _write(sys.stderr, drawn(lines, color=True))
            return
        _write(sys.stderr, f"error: {_screen(head)}" + (f"\nnext: {error.next_step}" if error.next_step else ""))

    def write(self, text: str) -> None:
        """Prints text; a reader that has left (`| head`) ends the command without a complaint."""
        _write(sys.stdout, text)


def _write(stream: Any, text: str) -> None:
    if not text:
        return
    try:
        stream.write(text if text.endswith("\n") else text + "\n")
        stream.flush()
    except BrokenPipeError:
        # The interpreter flushes once more while it ends; give it a place where that cannot fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(0) from None


def _screen(text: str, lines: int = 16) -> str:
    """At most one screen of a message."""
    rows = text.splitlines()
    return text if len(rows) <= lines else "\n".join([*rows[:lines], f"... ({len(rows) - lines} more lines)"])
