"""What every command shares: --format and --json, and errors that fit one screen."""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from oxrl_core.cli.render import Format, Output, resolve_format
from oxrl_core.errors import OxrlError

FormatOption = Annotated[
    Format, typer.Option("--format", help="auto: human on a terminal, agent in a pipe or under a coding agent.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to the app as a command: its first parameter gets the Output that --format and --json ask for."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        first, *own = signature.parameters.values()

        @functools.wraps(function)
        def run(**values: Any) -> None:
            as_json, asked = values.pop("as_json"), values.pop("output_format")
            out = Output(resolve_format(Format.json if as_json else asked))
            with_one_screen_errors(out, lambda: function(**{first.name: out}, **values))

        extra = [
            inspect.Parameter(label, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for label, default, annotation in (
                ("output_format", Format.auto, FormatOption),
                ("as_json", False, JsonOption),
            )
        ]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + extra
        # typer reads both: the order and defaults from the one, the types from the other.
        run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__  # else the types of the wrapped function would be taken
        app.command(name)(run)
        return function

    return register


def with_one_screen_errors(out: Output, action: Callable[[], None]) -> None:
    """Runs the action; an error is said in one screen with its exit code. OXRL_DEBUG=1 shows the traceback."""
    try:
        action()
    except OxrlError as error:
        _debug(error)
        out.error(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        out.note("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, SystemExit):
        raise
    except Exception as error:  # a defect of ours: a person gets one screen, and a way to the rest
        _debug(error)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        out.error(
            OxrlError(
                f"{type(error).__name__}: {error}",
                f"{os.path.basename(frame.filename)}:{frame.lineno}",  # noqa: PTH119 - a plain name, no Path needed
                "this is a defect of oxRL: set OXRL_DEBUG=1 for the traceback and report it",
            )
        )
        raise typer.Exit(1) from None


def _debug(error: BaseException) -> None:
    if os.environ.get("OXRL_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
