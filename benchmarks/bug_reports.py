"""Many failures, few causes, senders that are killed: `python -m benchmarks.bug_reports [--failures 1000]`.

Each failure is drafted and submitted by one of several processes to a local server that speaks GitHub's interface,
through the real client. Every so many issues the process whose request was just answered dies by SIGKILL, before it can
write that down. Counted: issues, issues of a cause that has one already, causes without an issue, and what a home with
the usual limit of three a day sends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "bug_report"))

from github_server import REPO, GitHub  # noqa: E402

from oxrl_core.runs.records import write_json  # noqa: E402
from oxrl_core.runs.rundir import RunDir  # noqa: E402
from swarm.bug_report import draft_bug_report, ledger, submit_bug_report  # noqa: E402

MODULES = ("credit", "draw", "journal", "learner", "lessons", "rl", "sl", "step", "tally", "groups")
ATTEMPTS = 200


def failed_run(home: Path, number: int, cause: int) -> RunDir:
    """A run that our own code ended, at one of so many places; message and line differ from run to run."""
    path = ROOT / "oxrl_core" / "train" / f"{MODULES[cause % len(MODULES)]}.py"
    what = f"TypeError: unsupported operand {number}"
    lines = ["Traceback (most recent call last):", f'  File "{path}", line {number}, in function_{cause}', "    work()"]
    text = "\n".join([*lines, what]) + "\n"
    run = RunDir.create_from_parts(home, f"broken-{number}", "train: {lr: 0.001}\n", {"kind": "rl", "command": ["x"]})
    run.write_progress("drawing", 3, 10)
    run.write_error({"code": "TypeError", "what": what, "where": "driver", "next": "", "traceback": text})
    error = {"code": "TypeError", "what": what, "where": "driver", "next": ""}
    write_json(run.path / "status.json", {"state": "failed", "phase": "drawing", "exit_code": 1, "error": error})
    return run


def sender(run_ids: list[str], home: Path) -> int:
    """The process id of a child that drafts and submits a report about each of the runs."""
    child = os.fork()
    if child:
        return child
    for run_id in run_ids:
        draft = draft_bug_report(run_id, home=home)
        for _ in range(ATTEMPTS):
            if submit_bug_report(draft.draft_id, draft.plan_hash, home=home).state != "not_sent":
                break
            time.sleep(0.05)
    os._exit(0)


def talks(process: psutil.Process) -> bool:
    """Whether it has a connection to the server: only who holds the lock has."""
    return any(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections(kind="tcp4"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bug_reports", description=__doc__)
    parser.add_argument("--failures", type=int, default=1000)
    parser.add_argument("--causes", type=int, default=20)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--kill-every", type=int, default=3, help="issues")
    asked = parser.parse_args()
    os.environ["GITHUB_TOKEN"] = "right"
    ledger.SETTLE_SECONDS = 0.2
    server, began, kills = GitHub(), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = f"enabled: true\nrepo: {REPO}\napi: {server.url}\nmax_per_day: "
        (home / "report.yaml").write_text(f"{settings}1000\n")
        run_ids = [failed_run(home, number, number % asked.causes).run_id for number in range(asked.failures)]
        import github  # noqa: F401  # before the forks, so that each does not import it again

        def kill_whoever_sends() -> None:
            nonlocal kills
            if len(server.issues) % asked.kill_every == 0:
                victims = [one for one in psutil.Process().children() if one.pid in alive and talks(one)]
                for victim in victims:
                    os.kill(victim.pid, signal.SIGKILL)
                    kills += 1

        server.after_post = kill_whoever_sends
        shares = {index: run_ids[index :: asked.senders] for index in range(asked.senders)}
        alive = {sender(share, home): index for index, share in shares.items()}
        while alive:
            child, status = os.wait()
            index = alive.pop(child)
            if status:  # killed: another begins from the start of its share, as after a crash
                alive[sender(shares[index], home)] = index
        found = Counter(issue["body"].split("\n")[0] for issue in server.issues)
        twice, missing = sum(count - 1 for count in found.values()), asked.causes - len(found)
        print(
            f"{asked.failures} failures of {asked.causes} causes, {asked.senders} senders, {kills} killed: "
            f"{len(server.issues)} issues, {twice} twice, {missing} missing, {time.monotonic() - began:.0f} s"
        )
        server.issues.clear()
        server.after_post = lambda: None
        careful = home / "careful"
        careful.mkdir()
        (careful / "report.yaml").write_text(f"{settings}3\n")
        for number in range(min(60, asked.failures)):
            draft = draft_bug_report(failed_run(careful, number, number % asked.causes).run_id, home=careful)
            submit_bug_report(draft.draft_id, draft.plan_hash, home=careful)
        print(f"with three a day: {len(server.issues)} issues")
    server.close()


if __name__ == "__main__":
    main()
