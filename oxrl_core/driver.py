"""The driver process of a run: `python -m oxrl_core.driver --run-dir DIR`. It reads the resolved config of the run
directory, builds the parts, goes through the loop and writes everything down there.

Exit codes: 0 finished, 1 failed, 2 the configuration or this machine cannot do it, 143 stopped (after a checkpoint).
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.config.load import load_config
from oxrl_core.engine.environment import engine_environment
from oxrl_core.errors import OxrlError
from oxrl_core.runs.machine.disk import disk_refusals
from oxrl_core.runs.replay import REPLAY_KIND
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.types import Progress

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

STOPPED = 143  # 128 + SIGTERM, as a shell would say it


class StopRequest:
    """Remembers that somebody asked the run to leave. During start-up it leaves at once: there is nothing to save."""

    def __init__(self) -> None:
        self.asked = False
        self.loop_is_running = False

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT; called again after Ray has put its own handlers there."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if not self.loop_is_running:
            raise SystemExit(STOPPED)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the run."""
    parser = argparse.ArgumentParser(prog="python -m oxrl_core.driver", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run-dir", type=Path, help="run directory with the resolved config.yaml")
    source.add_argument("--config-file", help="under torchrun: a config; rank 0 makes the run directory")
    parser.add_argument("overrides", nargs="*", help="a.b=c, with --config-file")
    arguments = parser.parse_args(argv)
    os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})
    stop = StopRequest()
    stop.install()
    # Where this process hangs, the supervisor asks by this signal where its threads stand; the log then shows it.
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    run: RunDir | None = None
    try:
        run = (
            RunDir(arguments.run_dir) if arguments.run_dir else _shared_run(arguments.config_file, arguments.overrides)
        )
        with disk_refusals(run.path, "then start the run again: it goes on from its newest checkpoint"):
            return drive(run, run.config(), stop)
    except OxrlError as error:
        _record_error(run, {**error.as_dict(), "traceback": traceback.format_exc()})
        with suppress(OSError):  # the log may stand on the very disk that is full
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:  # the last frame of the process: it must leave word in the run directory
        traceback.print_exc()
        name = type(error).__name__
        _record_error(
            run,
            {"code": name, "what": f"{name}: {error}", "where": "driver", "next": "read logs/driver.log of the run"}
            | {"traceback": traceback.format_exc()},
        )
        return 1


def drive(run: RunDir, config: Config, stop: StopRequest) -> int:
    """Builds the parts, goes through the loop and leaves the final model behind."""
    from oxrl_core.build import build_rl, build_sl, is_first_rank
    from oxrl_core.train.journal import Journal
    from oxrl_core.train.phases import tell_phases
    from oxrl_core.train.placement import gpus_held
    from oxrl_core.train.rl import train_rl
    from oxrl_core.train.sl import train_sl

    if run.spec().get("kind") == REPLAY_KIND:
        return _replay(run, stop)
    is_fork = "parent" in run.spec()
    if is_fork:
        from oxrl_core.replay import begin_fork, bring_to_fork

        bring_to_fork(run, stop.install)
    progress = Progress()
    is_rl = get_algorithm(config.algorithm.name).kind == "rl"
    if is_first_rank():
        run.write_progress("starting", 0, 0)
    parts = build_rl(config, run, progress) if is_rl else build_sl(config, run, progress)
    journal: Journal | None = None
    try:
        stop.install()
        run.num_gpus = gpus_held(config, parts.cluster.plan if parts.cluster else None)
        journal = Journal(run, config, parts)
        tell_phases(run.enter_phase if journal.writes else None)
        journal.restore(progress)
        if is_fork:
            begin_fork(parts, progress, run)
        stop.loop_is_running = True
        for report in train_rl(parts, progress) if is_rl else train_sl(parts, progress):
            journal.write(report, progress)
            if is_spent(config, progress) and progress.step < parts.total_steps:
                run.stop_reason = f"its budget of {config.run.max_tokens} trained tokens (run.max_tokens) is spent"
            if parts.learner.share(stop.asked or bool(run.stop_reason)):
                journal.save(progress)
                journal.phase("stopped", progress)
                return STOPPED
        journal.save(progress)
        journal.export(progress)
        journal.phase("finished", progress)
        return 0
    except OxrlError as error:
        if journal is not None:
            journal.alarm(error, progress)
        raise
    finally:
        tell_phases(None)
        if journal is not None:
            journal.close()
        parts.close()


def is_spent(config: Config, progress: Progress) -> bool:
    """Whether the run has trained on as many tokens as it may."""
    return config.run.max_tokens is not None and progress.num_tokens >= config.run.max_tokens


def _replay(run: RunDir, stop: StopRequest) -> int:
    """Repeats a step of another run and leaves the comparison behind. Asked to stop, it leaves at once."""
    from oxrl_core.replay import replay

    run.write_progress("starting", 0, 0)
    num_steps = replay(run, stop.install).repeated_steps
    run.write_progress("finished", num_steps, num_steps)
    return 0


def _shared_run(config_file: str, overrides: Sequence[str]) -> RunDir:
    """The run directory that rank 0 makes and all ranks of torchrun use."""
    import torch.distributed as dist

    loaded = load_config(config_file, overrides)
    if "RANK" not in os.environ:
        return RunDir.create(oxrl_home(), loaded, kind=get_algorithm(loaded.config.algorithm.name).kind)
    import torch

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    path = [None]
    if dist.get_rank() == 0:
        run = RunDir.create(oxrl_home(), loaded, kind=get_algorithm(loaded.config.algorithm.name).kind)
        path = [str(run.path)]
    dist.broadcast_object_list(path)
    return RunDir(Path(str(path[0])))


def _record_error(run: RunDir | None, error: dict[str, str]) -> None:
    if run is None:
        return
    try:
        run.write_error(error)
    except OSError as second:  # on a full disk the log keeps the last word
        print(f"the error could not be written down: {second}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    code = main()
    gc.freeze()  # the interpreter's last collections walk every object of torch and Ray: seconds on a busy machine
    sys.exit(code)
