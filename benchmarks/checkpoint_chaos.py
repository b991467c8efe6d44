"""ckpt-chaos, a public referee, kills a real training run at every file event and judges what comes back.

    python benchmarks/checkpoint_chaos.py [--max-points 1000] [--async-save]

A supervised run of two steps, with a checkpoint after each, in one process on the CPU. The referee dies at each file
that the run makes, renames or removes (and, with the file cut in half, once more), starts the same command again on
what was left, and compares the final weights with those of a run that nobody disturbed. A committed checkpoint that
is not used counts as lost work. Exit code 0: every point passes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fork_server import Fork, ForkServer

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK"


def job(out: Path, model: Path, is_async: bool) -> int:
    """The exit code of the training command: a run in the folder `out`, begun or gone on with."""
    sys.path.insert(0, str(ROOT))
    from oxrl_core.config.load import config_hash, config_to_yaml, load_config
    from oxrl_core.driver import main as drive
    from oxrl_core.runs.records import write_json, write_text

    if not (out / "spec.json").is_file():
        settings = ["run.backend=local", "train.steps=2", "train.save_every=1", "train.rows_per_step=2"]
        settings += ["train.keep_checkpoints=9", "report.sinks=[]", "data.train.0.limit=8", "data.eval=[]"]
        settings += [f"model.path={model}", f"train.async_save={str(is_async).lower()}"]
        loaded = load_config("sft", settings)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "config.yaml", config_to_yaml(loaded.config), durable=True)
        spec = {"run_id": "chaos", "name": "chaos", "kind": "sl", "config_hash": config_hash(loaded.config)}
        write_json(out / "spec.json", spec, durable=True)
    return drive(["--run-dir", str(out)])


def judge(work: Path, max_points: int, modes: str, is_async: bool) -> int:
    """The referee's exit code; its report is on standard output and in `work`."""
    sys.path.insert(0, str(ROOT))
    from oxrl_core.models.miniature import make_miniature

    work.mkdir(parents=True, exist_ok=True)
    model = make_miniature("chars", work / "model", seed=0)
    server = ForkServer()
    train = [sys.executable, str(Path(__file__).resolve()), "--job", "{out}", "--model", str(model)]
    train += ["--fork", server.address, *(["--async-save"] if is_async else [])]
    referee = [sys.executable, "-m", "ckpt_chaos", "run", "--work", str(work / "points")]
    referee += ["--checkpoint-glob", "{out}/checkpoints/step_*", "--step-regex", r"resumed from step (\d+)"]
    referee += ["--result-file", "{out}/final/model.safetensors", "--fail-on", VERDICTS]
    referee += ["--max-points", str(max_points), "--modes", modes]
    try:
        return subprocess.run([*referee, "--", *train], check=False).returncode
    finally:
        server.close()


def main() -> int:
    """The exit code: 0 where every point passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-points", type=int, default=1000, help="points of the run that are tried, spread evenly")
    parser.add_argument("--modes", default="before,torn", help="before, torn, term (see ckpt-chaos)")
    parser.add_argument("--async-save", action="store_true", help="checkpoints are written in the background")
    parser.add_argument("--work", type=Path, help="where the referee keeps what it saw; none: a temporary folder")
    parser.add_argument("--job", type=Path, help="be the training command, in this folder")
    parser.add_argument("--model", type=Path, help="its model")
    parser.add_argument("--fork", default="", help="let this fork server run it")
    arguments = parser.parse_args()
    if arguments.fork:
        rest = [word for word in sys.argv[1:] if word not in ("--fork", arguments.fork)]
        # The fork is who is armed.
        environment = {name: value for name, value in os.environ.items() if name != "CKPT_CHAOS_ARMED"}
        return Fork(arguments.fork, str(Path(__file__).resolve()), rest, 1, environment).wait()
    if arguments.job is not None:
        return job(arguments.job, arguments.model, arguments.async_save)
    if arguments.work is not None:
        return judge(arguments.work, arguments.max_points, arguments.modes, arguments.async_save)
    with tempfile.TemporaryDirectory() as folder:
        return judge(Path(folder), arguments.max_points, arguments.modes, arguments.async_save)


if __name__ == "__main__":
    sys.exit(main())
