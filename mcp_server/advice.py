"""What to do next, said in tools: the core says it as commands of the shell, which an agent in a host cannot run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# The fields of an answer in which oxRL itself speaks. What a log, a dataset or a model wrote stands in others.
OWN_WORDS = frozenset(
    {"next", "what", "fix", "why", "risk", "message", "summary", "headline", "reason", "reasons", "note", "notes"}
)
NO_TOOL = "(in a shell)"  # said after a command that no tool stands for


@dataclass(frozen=True)
class Call:
    """The tool that stands for a command."""

    tool: str
    takes: str = ""
    """The argument that the command's own word goes into."""
    fixed: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Arguments that the values of the command's options go into; of a flag, the argument whole."""
    numbers: tuple[str, ...] = ()
    """Arguments that are numbers."""


_DRY = {"dry-run": "dry_run=true"}
_STEP = {"step": "step"}
_ROLLOUTS = {"step": "step", "where": "where", "sort": "sort", "show": "sample", "columns": "columns", "limit": "limit"}
COMMANDS: dict[str, Call] = {
    "agent-docs": Call("oxrl://docs/workflow"),
    "bug-report": Call("draft_bug_report", "run_id"),
    "algorithms": Call("list_registry", fixed="kind='algorithms'"),
    "rewards": Call("list_registry", fixed="kind='rewards'"),
    "datasets": Call("list_registry", fixed="kind='datasets'"),
    "examples": Call("list_registry", fixed="kind='recipes'"),
    "diagnose": Call("diagnose_run", "run_id"),
    "doctor": Call("check_environment", options={"deep": "detail='deep'"}),
    "evaluate": Call("evaluate_run", "target", options=_STEP, numbers=("step",)),
    "compare": Call("compare_runs"),
    "rollouts": Call("query_rollouts", "run_id", options=_ROLLOUTS, numbers=("limit",)),
    "score": Call("score_completions"),
    "scout": Call("inspect_model", "model"),
    "scout --search": Call("scout_models", "query"),
    "config generate": Call("generate_config", "model"),
    "config validate": Call("validate_config", "config"),
    "onboard": Call("onboard_model", "model"),
    "steer": Call("steer_onboarding", "run_id"),
    "fork": Call("rerun", "run_id", "mode='fork'", _STEP, ("step",)),
    "replay": Call("rerun", "run_id", "mode='replay'", _STEP, ("step",)),
    "train": Call("launch_run", "config", options=_DRY),
    "run launch": Call("launch_run", "config", options=_DRY),
    "run list": Call("list_runs"),
    "run show": Call("get_run", "run_id"),
    "run watch": Call("watch_run", "run_id"),
    "run stop": Call("stop_run", "run_id"),
    "run logs": Call("read_logs", "run_id"),
    "run metrics": Call("get_metrics", "run_id"),
    "run resume": Call("rerun", "run_id", "mode='resume'"),
    "run adopt": Call("rerun", "run_id", "mode='resume'"),
}
# `oxrl merge` and the like: what a tool cannot do, a person can.
SHELL_ONLY = (
    "onboard --queue", "doctor --fix", "data inspect", "data validate", "data prepare", "sweep show", "sweep list",
    "sweep run", "sweep", "registry verify", "verify", "report", "merge", "push", "bench", "mcp",
)  # fmt: skip

_VALUE = r"[^\s;()'\"`]*[^\s,;:.()'\"`]"
# A word that follows a command belongs to it where it is a name with a digit, a slash or a colon in it, a place to fill
# in (RUN), or the recipe that every text names; the rest of a sentence has none of these.
_NAME = rf"(?=[^\s]*[\d/:~])(?!\d+\s){_VALUE}|[A-Z][A-Z_]+\b|demo\b"
_WITH_VALUE = ("step", "where", "sort", "show", "columns", "limit", "color")
_OPTION = rf"--(?:{'|'.join(_WITH_VALUE)})[ =](?!--){_VALUE}|--[a-z-]+"
_CHANGE = rf"[a-z_]+(?:\.[a-z_0-9]+)+={_VALUE}"
_COMMAND = re.compile(
    r"\boxrl (?P<name>"
    + "|".join(sorted((re.escape(name) for name in (*COMMANDS, *SHELL_ONLY)), key=len, reverse=True))
    + rf")(?![\w-])(?P<rest>(?: (?:{_CHANGE}|{_OPTION}|{_NAME}))*)"
)
_PLACE = re.compile(r"^[A-Z][A-Z_]*$")  # RUN, N: the reader fills it in


def in_tools(text: str) -> str:
    """The text with calls of this server's tools in place of commands of the shell."""
    if text == "resume_run":  # an operation of the core that is one way of a tool here
        return "rerun"
    return _COMMAND.sub(_called, text) if "oxrl " in text else text


def _called(match: re.Match[str]) -> str:
    name, rest = match["name"], match["rest"]
    if name not in COMMANDS:
        return f"{match[0]} {NO_TOOL}"
    call, arguments, changes, own = COMMANDS[name], list[str](), list[str](), ""
    words = iter(rest.split())
    for word in words:
        if word.startswith("--"):
            option, _, value = word[2:].partition("=")
            if option in _WITH_VALUE:
                value = value or next(words, "")
            if option in call.options and bool(value) == (option in _WITH_VALUE):
                arguments.append(_argument(call.options[option], value, call.numbers))
        elif re.fullmatch(_CHANGE, word):
            changes.append(word)
        else:
            own = own or word
    # A configuration is named here, or given whole; its file is not.
    if own and call.takes and not _PLACE.match(own) and not (call.takes == "config" and "/" in own):
        arguments.insert(0, f"{call.takes}='{own}'")
    if call.fixed:
        arguments.append(call.fixed)
    if changes:
        arguments.append(f"overrides={changes}")
    return f"{call.tool}({', '.join(arguments)})" if arguments else call.tool


def _argument(name: str, value: str, numbers: tuple[str, ...]) -> str:
    if not value:  # a flag
        return name
    if name == "columns":
        return f"columns={value.split(',')}"
    return f"{name}={value}" if name in numbers or _PLACE.match(value) else f"{name}='{value}'"
