"""`python main_rl.py` and `python main_sl.py`: one run in the foreground, from a configuration file."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Literal

import typer

from oxrl_core.cli.command import with_one_screen_errors
from oxrl_core.cli.render import Format, Output, resolve_format
from oxrl_core.errors import ConfigError

KIND_IN_WORDS = {"rl": "reinforcement learning", "sl": "supervised training"}


def run_config_file(kind: Literal["rl", "sl"], argv: Sequence[str]) -> int:
    """The exit code of the run. The process is the run's foreground: when it is interrupted, the run stops cleanly."""
    parser = argparse.ArgumentParser(
        prog=f"main_{kind}.py", description=f"Runs {KIND_IN_WORDS[kind]} in the foreground."
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML file, or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that win over the file")
    arguments = parser.parse_args(argv)
    out = Output(resolve_format(Format.auto))
    codes: list[int] = []
    try:
        with_one_screen_errors(out, lambda: codes.append(_run(out, kind, arguments.config_file, arguments.overrides)))
    except typer.Exit as leaving:
        return leaving.exit_code
    return codes[0]


def _run(out: Output, kind: str, config_file: str, overrides: list[str]) -> int:
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_run
    from oxrl_core.cli.watch import exit_code_of, follow_run

    check_kind(kind, config_file, overrides)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        # torchrun has started every rank already. By name: training is below the torch line.
        driver = importlib.import_module("oxrl_core.driver")
        return int(driver.main(["--config-file", config_file, *overrides]))
    signal.signal(signal.SIGTERM, _interrupt)  # whoever ends the foreground process means the run
    launched = api.launch_run(config_file, overrides)
    out.note(f"run {launched.run_id} ({launched.path})")
    view = follow_run(out, launched.run_id, on_interrupt="stop")
    out.show(view, draw_run)
    return exit_code_of(view) if view.has_ended else 0


def check_kind(kind: str, config_file: str, overrides: Sequence[str]) -> None:
    """Refuses a configuration whose algorithm is of the other kind."""
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.load import load_config

    algorithm = get_algorithm(load_config(config_file, overrides).config.algorithm.name)
    if algorithm.kind != kind:
        raise ConfigError(
            f"{algorithm.name} is {KIND_IN_WORDS[algorithm.kind]}, and main_{kind}.py runs {KIND_IN_WORDS[kind]}",
            f"{config_file}: algorithm.name",
            f"python main_{algorithm.kind}.py --config-file {config_file}",
        )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
