"""SIGKILL at random moments over real runs on the CPU: nothing that was committed may be lost, and nothing may differ.

    python benchmarks/kills.py [--kills 200] [--ray 6] [--seed 0] [--report FILE]

SGRPO and DPO, with checkpoints that are waited for or written in the background. Each run is first gone through
undisturbed; then it is killed and started again until it has ended, as often as it takes. A third of the kills fall at
any moment, a third among the steps (generation, syncs, updates), a third while a save is written. A reader looks at the
run directories all the time. Counted are:
    lost        a step that was said to be saved and is not the newest valid checkpoint, or newer, after a kill
    torn        a file that a reader found half written
    different   a finished run whose weights, optimizer state or metrics are not, bit for bit, those of the undisturbed
    gaps        a finished run whose metrics.jsonl has a step twice, or not at all
The exit code is 0 where all four are 0.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fork_server import Fork, ForkServer

from oxrl_core.config.load import load_config
from oxrl_core.engine.checkpoint import CheckpointStore, hash_file, read_manifest, step_of
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs import process
from oxrl_core.runs.records import read_json, read_lines
from oxrl_core.runs.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
DRIVER = "oxrl_core.driver"
CLOCKS = ("time", "seconds", "tokens_per_second", "time/", "memory/")  # what differs from one run to the next
SMALL = ["train.save_every=1", "report.sinks=[]", "report.samples_every=0", "train.eval_rows=4"]
SGRPO = ["train.steps=5", "train.prompts_per_step=4", "rollout.group_size=4", "rollout.engine=transformers"]
DPO = ["train.steps=6", "train.rows_per_step=4"]
RUNS = {
    "sgrpo": ("sgrpo", SGRPO),
    "dpo": ("dpo", DPO),
    "sgrpo in the background": ("sgrpo", [*SGRPO, "train.async_save=true"]),
    "dpo in the background": ("dpo", [*DPO, "train.async_save=true"]),
}
ATTEMPT_SECONDS = 600.0


class Attempt:
    """One start of the driver, forked or (on Ray) as a fresh process."""

    def __init__(self, run: RunDir, server: ForkServer | None) -> None:
        self.run = run
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "OXRL_HOME": str(run.home),
            process.RUN_ID_VARIABLE: run.run_id,
        }
        argv = ["--run-dir", str(run.path)]
        self.started = time.monotonic()
        with (run.logs / "driver.log").open("ab") as log:
            if server is not None:
                script = str(ROOT / "oxrl_core" / "driver.py")
                self.fork: Fork | None = Fork(server.address, script, argv, log.fileno(), environment)
                self.pid = self.fork.pid
            else:
                self.fork = None
                command = [sys.executable, "-m", DRIVER, *argv]
                self.child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                self.pid = self.child.pid

    @property
    def is_over(self) -> bool:
        """Whether the driver has ended by itself."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    def kill(self, pid: int) -> None:
        """SIGKILL for one process of the run, and then for all that it left."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def end(self) -> int:
        """The exit code, once no process of the run is left."""
        code = self.fork.wait() if self.fork is not None else self.child.wait(timeout=ATTEMPT_SECONDS)
        process.end_processes(
            lambda: process.members_by_run().get(self.run.run_id, []), term_seconds=0.0, kill_seconds=30.0
        )
        return code


def create(home: Path, name: str, on_ray: bool) -> RunDir:
    """A new run directory of one of the RUNS."""
    recipe, settings = RUNS[name]
    backend = "ray" if on_ray else "local"
    loaded = load_config(recipe, [f"run.backend={backend}", *SMALL, *settings])
    return RunDir.create(home, loaded, kind="rl" if recipe == "sgrpo" else "sl")


def outcome(run: RunDir) -> dict[str, Any]:
    """What must be the same however often a run was killed."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith(CLOCKS)}
        for row in read_lines(run.path / "metrics.jsonl")
    ]
    newest = CheckpointStore(run.checkpoints, 1).committed()[0]
    return {
        "weights": hash_file(run.path / "final" / "model.safetensors"),
        "state": hash_file(newest / "rank-00000.safetensors"),
        "random": hash_file(newest / "rank-00000.json"),
        "metrics": rows,
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Where a run is not the undisturbed one."""
    names = [name for name in expected if name != "metrics" and found[name] != expected[name]]
    for mine, theirs in zip(found["metrics"], expected["metrics"], strict=False):
        keys = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
        names += [f"step {theirs['step']}: {key} {mine.get(key)} not {theirs.get(key)}" for key in sorted(keys)]
    return names[:10]


def saved_step(run: RunDir) -> int:
    """The newest step that the run has said to be saved."""
    events = [event for event in read_lines(run.path / "events.jsonl") if event["code"] == "checkpoint"]
    return max((int(event["step"]) for event in events), default=0)


def valid_step(run: RunDir) -> int:
    """The step of the newest checkpoint that is whole; nothing is touched."""
    folders = CheckpointStore(run.checkpoints, 1).committed()
    return next((step_of(folder) for folder in folders if read_manifest(folder) is not None), 0)


def wait_for_a_moment(attempt: Attempt, dice: random.Random, whole: float, steps: float, kind: int) -> None:
    """Returns at a random moment of the attempt (0), of its steps (1) or of a save (2); or when the attempt is over.

    `whole` and `steps` are the seconds that the undisturbed run took, and that its steps took.
    """
    is_there = {
        0: lambda: True,
        1: lambda: is_past_loading(attempt),
        2: lambda: is_past_loading(attempt) and is_saving(attempt.run),
    }[kind]
    end = time.monotonic() + ATTEMPT_SECONDS
    while not is_there() and time.monotonic() < end and not attempt.is_over:
        time.sleep(0.001)
    end = time.monotonic() + dice.uniform(0.0, {0: whole, 1: steps, 2: 0.02}[kind])
    while time.monotonic() < end and not attempt.is_over:
        time.sleep(min(0.01, max(0.0, end - time.monotonic())))


def is_past_loading(attempt: Attempt) -> bool:
    """Whether this attempt has begun its steps: its word on where it stands is its own."""
    said = read_json(attempt.run.path / "progress.json") or {}
    is_own = (said.get("process") or {}).get("pid") == attempt.pid
    return is_own and said.get("phase") not in ("starting", "loading")


def is_saving(run: RunDir) -> bool:
    """Whether a checkpoint is being written."""
    return any(path.name.startswith(".tmp-") for path in run.checkpoints.iterdir())


def victim(attempt: Attempt, dice: random.Random, on_ray: bool) -> int:
    """The process that is killed: the driver, or on Ray any process of the run."""
    members = [member.pid for member in process.members_by_run().get(attempt.run.run_id, [])] if on_ray else []
    return dice.choice([attempt.pid, attempt.pid, *members]) if members else attempt.pid


def kill_until_done(
    home: Path, name: str, kills: int, dice: random.Random, server: ForkServer | None, count: Counter[str]
) -> None:
    """Kills runs of one kind so many times, and counts what went wrong."""
    undisturbed = create(home, name, server is None)
    attempt = Attempt(undisturbed, server)
    if attempt.end() != 0:
        tail = "\n".join(undisturbed.read_logs(lines=30).lines)
        raise SystemExit(f"{name}: the undisturbed run failed: {tail}")
    seconds = time.monotonic() - attempt.started
    expected = outcome(undisturbed)
    rows = list(read_lines(undisturbed.path / "metrics.jsonl"))
    steps, stepping = [row["step"] for row in rows], rows[-1]["time"] - rows[0]["time"]
    done = 0
    while done < kills:
        run = create(home, name, server is None)
        while True:
            attempt = Attempt(run, server)
            is_last = done >= kills
            if not is_last:
                wait_for_a_moment(attempt, dice, seconds, stepping, kind=done % 3)
            if not is_last and not attempt.is_over:
                phase = str((read_json(run.path / "progress.json") or {}).get("phase", "before any word"))
                attempt.kill(victim(attempt, dice, server is None))
            code = attempt.end()
            if valid_step(run) < saved_step(run):
                count["lost"] += 1
            if code == 0:
                break
            if is_last or (code > 0 and server is not None):
                raise SystemExit(f"{name}: exit code {code}: " + "\n".join(run.read_logs(lines=30).lines))
            done += 1
            count["kills"] += 1
            count[f"in {phase}"] += 1
        count["finished"] += 1
        found = outcome(run)
        count["gaps"] += [row["step"] for row in found["metrics"]] != steps
        count["different"] += found != expected
        if found != expected:
            print(f"{name}: {run.run_id} differs in {differences(found, expected)}", flush=True)


def read_all_the_time(home: Path, stop: Path, report: Path) -> None:
    """Reads every file of every run over and over, and reports how many were whole and which were torn."""
    reads, torn = 0, []
    while not stop.exists():
        for run in sorted((home / "runs").glob("*-*")):
            for name in ("progress.json", "spec.json"):
                if (run / name).exists():
                    reads += 1
                    torn += [str(run / name)] if read_json(run / name) is None else []
            for name in ("metrics.jsonl", "events.jsonl"):
                lines = (run / name).read_bytes().split(b"\n")[:-1] if (run / name).exists() else []
                reads += len(lines)
                torn += [f"{run / name}: {line[:80]!r}" for line in lines if not is_json(line)]
            for folder in (run / "checkpoints").glob("step_*"):
                reads += 1
                if read_manifest(folder) is None and folder.exists():
                    torn.append(str(folder))
            for file in [*(run / "rollouts").glob("step-*.parquet")][-2:]:
                reads += 1
                try:
                    read_rollouts(file)
                except Exception as error:  # whatever a torn file makes the library say
                    torn.append(f"{file}: {error}")
        report.write_text(json.dumps({"reads": reads, "torn": torn}))
        time.sleep(0.2)


def is_json(line: bytes) -> bool:
    """Whether the line is a whole object; a line that a killed writer left and its successor ended is none."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def main() -> int:
    """The exit code: 0 where nothing was lost, torn or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="all together, those on Ray among them")
    parser.add_argument("--ray", type=int, default=6, help="kills of runs on Ray")
    parser.add_argument("--runs", default=",".join(RUNS), help="which, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write the counts there, as JSON")
    parser.add_argument("--read", type=Path, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read_all_the_time(*arguments.read)
        return 0
    dice, count, names = random.Random(arguments.seed), Counter[str](), arguments.runs.split(",")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        stop, seen = Path(folder) / "stop", Path(folder) / "seen.json"
        reader = subprocess.Popen([sys.executable, __file__, "--read", str(home), str(stop), str(seen)])
        server = ForkServer()
        try:
            local = arguments.kills - arguments.ray
            for index, name in enumerate(names):
                share = local // len(names) + (index < local % len(names))
                if share:
                    kill_until_done(home, name, share, dice, server, count)
                print(f"{name}: {dict(count)}", flush=True)
            for index, name in enumerate(("sgrpo", "dpo")):
                share = arguments.ray // 2 + (index < arguments.ray % 2)
                if share:
                    kill_until_done(home, name, share, dice, None, count)
                    print(f"{name} on Ray: {dict(count)}", flush=True)
        finally:
            server.close()
            stop.touch()
            reader.wait(timeout=120)
        read = json.loads(seen.read_text())
    result = {"seconds": round(time.monotonic() - started), **dict(count), "reads": read["reads"]}
    result["torn"] = len(read["torn"])
    wrong = {name: result.get(name, 0) for name in ("lost", "torn", "different", "gaps")}
    print(json.dumps(result | wrong), *read["torn"][:10], sep="\n", flush=True)
    if arguments.report:
        arguments.report.write_text(json.dumps(result | wrong))
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
