"""The case in which the parts of a check meet: what is asked of which machine, and what was found."""

from __future__ import annotations

from pathlib import Path

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.config.beside import models_beside
from oxrl_core.config.machine import Machine
from oxrl_core.config.requirements import Problem
from oxrl_core.config.schema import Config
from oxrl_core.errors import OxrlError


class Case:
    """One check in progress."""

    def __init__(self, config: Config, home: Path, machine: Machine) -> None:
        self.config = config
        self.home = home
        self.machine = machine
        self.problems: list[Problem] = []
        self.downloads: list[str] = []
        self.algorithm = get_algorithm(config.algorithm.name)
        self.kind = self.algorithm.kind
        self.beside = models_beside(config, self.algorithm)
        self.on_cluster = config.run.backend == "ray" and config.run.ray_address is not None
        self.num_samplers = config.rollout.num_workers if self.kind == "rl" else 0
        self.num_scorers = 1 if self.beside.reward_model else 0

    def error(self, code: str, where: str, what: str, next_step: str) -> None:
        self.problems.append(Problem(code=code, where=where, what=what, next=next_step))

    def warning(self, code: str, where: str, what: str, next_step: str) -> None:
        self.problems.append(Problem(code=code, where=where, what=what, next=next_step, severity="warning"))

    def caught(self, error: OxrlError, where: str) -> None:
        self.error(type(error).__name__, error.where or where, error.what, error.next_step)
