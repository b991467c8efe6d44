"""What plants do to a run's process: change an engine once it stands, act before a step, end and begin it again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOPPED = 143  # exit code of a driver that saved and left


def after_building(change: Callable[[Any], None]) -> None:
    """Has `change` called with every engine (policy, critic, reward model) once it stands."""
    from oxrl_core.engine.policy import PolicyEngine

    build = PolicyEngine.__init__

    def built(self: PolicyEngine, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        change(self)

    PolicyEngine.__init__ = built  # type: ignore[method-assign]


def before_updates(act: Callable[[Any], None]) -> None:
    """Has `act` called with the engine before each of its updates; its `num_steps` says how many it has behind it."""
    from oxrl_core.engine.policy import PolicyEngine

    step = PolicyEngine.step

    def stepped(self: PolicyEngine) -> dict[str, float]:
        act(self)
        return step(self)

    PolicyEngine.step = stepped  # type: ignore[method-assign]


def without_gradient(names: Callable[[str], bool]) -> None:
    """Parameters with such a name get a gradient of 0."""

    def detach(engine: Any) -> None:
        for name, parameter in engine.policy.named_parameters():
            if names(name):
                parameter.register_hook(lambda gradient: gradient * 0)

    after_building(detach)


def trained_until(run: Path, steps: int) -> None:
    """Trains the run in a process of its own that is asked to stop after so many steps; it leaves a checkpoint."""
    from oxrl_core import driver

    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:

            def leave(engine: Any) -> None:
                if engine.num_steps == steps - 1:
                    os.kill(os.getpid(), signal.SIGTERM)

            before_updates(leave)
            code = driver.main(["--run-dir", str(run)])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == STOPPED, f"the first half of the run ended with exit code {code}"
