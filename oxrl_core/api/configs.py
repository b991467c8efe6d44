"""Configurations: checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.errors import ConfigError, UserError
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.views import ConfigReport, NeedsView

if TYPE_CHECKING:
    from oxrl_core.config.load import LoadedConfig
    from oxrl_core.config.requirements import Problem

_MAX_CONFIG_CHARACTERS = 256 * 1024


def validate_config(config: str | Path, overrides: Sequence[str] = (), *, home: Path | None = None) -> ConfigReport:
    """Whether a configuration (YAML text, a recipe's name or a path) can run here, what it takes, and every problem.

    A configuration that cannot be read at all is a report with that problem, not an exception.
    """
    try:
        loaded = load_checked(config, overrides)
    except UserError as error:
        return ConfigReport(ok=False, problems=[_as_problem(error)])
    return report_of(loaded, home or oxrl_home())


def load_checked(config: str | Path, overrides: Sequence[str]) -> LoadedConfig:
    from oxrl_core.config.load import load_config

    if isinstance(config, str) and len(config) > _MAX_CONFIG_CHARACTERS:
        raise ConfigError(f"it has {len(config)} characters", "config", f"keep it below {_MAX_CONFIG_CHARACTERS}")
    return load_config(config, overrides)


def report_of(loaded: LoadedConfig, home: Path) -> ConfigReport:
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.check import check_config
    from oxrl_core.config.explain import explain
    from oxrl_core.config.load import config_hash, config_to_yaml

    config = loaded.config
    needs = check_config(config, home=home)
    return ConfigReport(
        ok=needs.ok,
        name=config.run.name,
        kind=get_algorithm(config.algorithm.name).kind,
        config_hash=config_hash(config),
        needs=NeedsView(
            gpus=needs.gpus,
            cpu_workers=needs.cpu_workers,
            memory_gib=needs.memory_gib,
            disk_gib=needs.disk_gib,
            num_rows=needs.num_rows or 0,
            steps=needs.steps or 0,
        ),
        problems=needs.problems,
        notes=list(loaded.notes),
        arithmetic=list(explain(loaded, num_rows=needs.num_rows or None).arithmetic),
        config_yaml=config_to_yaml(config),
    )


def _as_problem(error: UserError) -> Problem:
    from oxrl_core.config.requirements import Problem

    return Problem(code=type(error).__name__, what=error.what, where=error.where, next=error.next_step)
