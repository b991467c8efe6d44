"""Goes through runs, replays and forks in this process: `replays.py HOME < jobs.json`, one JSON line for each.

    {"name": "a", "recipe": "sft", "overrides": [...], "stops": [...]}    a run, as in_process.py goes through it
    {"name": "b", "replay": "a", "step": 3, "overrides": [...]}           the answer holds what came of it
    {"name": "c", "fork": "a", "step": 3, "overrides": [...], "stops": [...]}
    {"name": "d", "copy": "a", "step": 3, "change": {"column": "completion_token_ids", "sample": 5, "token": 1}}
    {"name": "d", "copy": "a", "step": 3, "change": {"metric": "loss"}}   a copy of a run with one number changed
    {"name": "d", "copy": "a", "remove": ["checkpoints/step_00000002"]}   or with something lost

Everything but the processes is real.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from in_process import AfterReports, play

from oxrl_core.api.replay import create_fork, create_replay
from oxrl_core.driver import STOPPED, drive
from oxrl_core.runs.rundir import RunDir


def answer_to(job: dict[str, Any], runs: dict[str, RunDir], home: Path) -> dict[str, Any]:
    """The run directory of a job and what came of it, or the error that ended it."""
    try:
        if "recipe" in job:
            answer = play(job, home)
            if "path" in answer:
                runs[job["name"]] = RunDir(str(answer["path"]))
            return answer
        if "copy" in job:
            run = runs[job["name"]] = changed_copy(runs[job["copy"]], job)
            return {"path": str(run.path)}
        if "replay" in job:
            run = create_replay(home, runs[job["replay"]], job["step"], job.get("overrides", []))
            assert drive(run, run.config(), AfterReports(None)) == 0
            return {"path": str(run.path), "result": json.loads((run.path / "replay.json").read_text())}
        run, created = create_fork(home, runs[job["fork"]], job["step"], job.get("overrides", []))
        assert created
        runs[job["name"]] = run
        for reports in job.get("stops", []):
            assert drive(run, run.config(), AfterReports(reports)) == STOPPED
        assert drive(run, run.config(), AfterReports(None)) == 0
        return {"path": str(run.path)}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}", "next": getattr(error, "next_step", "")}
        return said | {"traceback": traceback.format_exc()}


def changed_copy(source: RunDir, job: dict[str, Any]) -> RunDir:
    """A copy of a run directory under another id, with one recorded number changed or some of its files lost."""
    path = source.path.with_name(f"{source.path.name[:-4]}{len(list(source.path.parent.iterdir())):04x}")
    shutil.copytree(source.path, path)
    run = RunDir(path)
    for name in job.get("remove", []):
        lost = path / name
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    change = job.get("change", {})
    if "metric" in change:
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            if row["step"] == job["step"]:
                row[change["metric"]] *= 1 + 1e-12
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif change:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = run.rollouts / f"step-{job['step']:08d}.parquet"
        table = pq.read_table(file)
        records = table.to_pylist()
        values = records[change["sample"]][change["column"]]
        values[change["token"]] += 1
        pq.write_table(pa.Table.from_pylist(records, schema=table.schema), file)
    return run


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the runs print belongs to the log
    done: dict[str, RunDir] = {}
    for job in json.load(sys.stdin):
        print(json.dumps(answer_to(job, done, Path(sys.argv[1]))), file=out, flush=True)
