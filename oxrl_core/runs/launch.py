"""Starting, finding and stopping runs. Nothing that launches a run stays its parent or holds a pipe to it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import ConfigError, MachineError, NotFoundError, OxrlError
from oxrl_core.runs import process
from oxrl_core.runs.machine.disk import disk_errors, disk_refusals
from oxrl_core.runs.process import RUN_ID_VARIABLE
from oxrl_core.runs.records import file_lock, read_json, write_json
from oxrl_core.runs.rundir import ELSEWHERE, RUN_ID_PATTERN, RunDir
from oxrl_core.runs.status import ENDED_STATES, Status

if TYPE_CHECKING:
    from oxrl_core.config.load import LoadedConfig

_START_SECONDS = 60.0  # normally 0.2; a machine that swaps needs longer, and a deadline still
TERM_SECONDS = 2.0  # between SIGTERM and SIGKILL for whatever the driver left behind
KILL_SECONDS = 20.0
_ANSWER_SECONDS = 5.0  # for a supervisor to scan the processes and to write its last word
_KEY_LOCK_SECONDS = 20.0

# What a run inherits of its launcher's environment. An agent's host holds tokens of many services: they stay outside.
# fmt: off
_ALLOWED_NAMES = frozenset((
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "DO_NOT_TRACK", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "TOKENIZERS_PARALLELISM", "CC", "CXX", "CPATH", "LIBRARY_PATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH",
    "MAX_JOBS", "CUBLAS_WORKSPACE_CONFIG", "MASTER_ADDR", "MASTER_PORT", "KMP_AFFINITY", "KMP_BLOCKTIME",
    "MLFLOW_TRACKING_URI", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "CI", "PYTEST_CURRENT_TEST",
))
_ALLOWED_PREFIXES = (
    "LC_", "PYTHON", "CONDA_", "XDG_", "CUDA", "NVIDIA_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "OMP_",
    "MKL_", "OPENBLAS_", "NUMEXPR_", "HF_", "TRANSFORMERS_", "DATASETS_", "VLLM_", "RAY_", "DS_", "DEEPSPEED_",
    "OXRL_", "WANDB_", "TRACKIO_", "ROCR_", "HIP_", "UCX_", "FI_", "SLURM_",
)
# fmt: on
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)


def run_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a run inherits; $OXRL_PASS_ENV names more variables, separated by commas."""
    asked_for = {name.strip() for name in environment.get("OXRL_PASS_ENV", "").split(",")}

    def may_pass(name: str) -> bool:
        if name == RUN_ID_VARIABLE:
            return False  # a run launched from inside a run is a run of its own
        if name in _ALLOWED_NAMES or name in asked_for:
            return True
        return name.startswith(_ALLOWED_PREFIXES) and not _SECRET.search(name)

    return {name: value for name, value in environment.items() if may_pass(name)}


# -------------------------------------------------------------------- finding


def run_ids(home: Path) -> list[str]:
    """The ids of all runs of a home, newest first."""
    found: list[tuple[int, str]] = []
    try:
        with os.scandir(home / "runs") as entries:
            for entry in entries:
                if RUN_ID_PATTERN.match(entry.name):
                    try:
                        # spec.json is written once and last: its time is the run's birth.
                        found.append((Path(entry.path, "spec.json").stat().st_mtime_ns, entry.name))
                    except OSError:
                        continue
    except FileNotFoundError:
        return []
    return [run_id for _, run_id in sorted(found, reverse=True)]


def find_run(home: Path, id_or_prefix_or_name: str) -> RunDir:
    """The run with this id, the newest of this name, the only one with this prefix; `latest` is the newest of all."""
    wanted = id_or_prefix_or_name.strip()
    runs = home / "runs"
    if RUN_ID_PATTERN.match(wanted) and (runs / wanted / "spec.json").exists():
        return RunDir(runs / wanted)
    ids = run_ids(home)
    if not ids:
        raise NotFoundError("there are no runs yet", str(runs), "oxrl run launch demo")
    if wanted == "latest":
        return RunDir(runs / ids[0])
    for run_id in ids:
        match = RUN_ID_PATTERN.match(run_id)
        if match and match["name"] == wanted:
            return RunDir(runs / run_id)
    hits = [run_id for run_id in ids if wanted and run_id.startswith(wanted)]
    if len(hits) == 1:
        return RunDir(runs / hits[0])
    if hits:
        shown = ", ".join(hits[:5]) + (", ..." if len(hits) > 5 else "")
        raise NotFoundError(f"{wanted!r} is the beginning of {len(hits)} runs: {shown}", str(runs), "name one of them")
    from oxrl_core.suggest import did_you_mean

    raise NotFoundError(f"there is no run {wanted!r}.{did_you_mean(wanted, ids)}", str(runs), "oxrl run list")


def _key_file(home: Path, key: str) -> Path:
    return home / "runs" / ".keys" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def find_by_key(home: Path, key: str, config_hash: str) -> RunDir | None:
    """The run that this key launched. The same key with another configuration is an error that names the run."""
    entry = read_json(_key_file(home, key))
    if entry is None:
        return None
    run = RunDir(home / "runs" / str(entry["run_id"]))
    spec = read_json(run.path / "spec.json")
    if spec is None:
        return None  # the run was deleted: its key is free again
    if spec.get("config_hash") != config_hash:
        raise ConfigError(
            f"the key {key!r} belongs to run {run.run_id}, which has another configuration "
            f"({spec.get('config_hash')}, now {config_hash})",
            "key",
            "choose another key for another configuration, or stop asking for this run",
        )
    return run


def open_run(
    home: Path,
    loaded: LoadedConfig,
    kind: str,
    key: str = "",
    command: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[RunDir, bool]:
    """The run of this key and whether it was created just now; without a key always a new one."""
    if not key:
        return RunDir.create(home, loaded, kind, key, command, facts), True
    from oxrl_core.config.load import config_hash

    path = _key_file(home, key)
    with disk_errors(path.parent, ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_suffix(".lock"), _KEY_LOCK_SECONDS):
        existing = find_by_key(home, key, config_hash(loaded.config))
        if existing is not None:
            return existing, False
        run = RunDir.create(home, loaded, kind, key, command, facts)
        write_json(path, {"key": key, "run_id": run.run_id}, durable=True)
        return run, True


# -------------------------------------------------------------------- starting


def launch(run: RunDir, *, python: str = sys.executable) -> None:
    """Start a detached supervisor for the run, and return when it has started the driver. A second call does nothing.

    What cannot start is written to the run's status and raised here.
    """
    try:
        answer = start_supervisor(run, python)
    except OxrlError as error:
        _record_failure(run, error)
        raise
    if "error" in answer:  # the supervisor has recorded it
        error = answer["error"]
        raise MachineError(str(error["what"]), str(error["where"]), str(error["next"]))


def adopt(run: RunDir, *, python: str = sys.executable) -> Status:
    """The run under a new supervisor: an orphaned one goes on as it is, a lost one from its last checkpoint."""
    status = run.status()
    if status.supervisor is not None and process.is_foreign_host(status.supervisor):
        raise MachineError(
            f"the run belongs to {status.supervisor.host}: nobody here can see whether its processes live",
            str(run.path),
            f"there: oxrl run adopt {run.run_id}; where that machine is gone, here: oxrl fork {run.run_id} --step "
            f"{status.step} (or an earlier one that was saved)",
        )
    if status.state not in ("orphaned", "lost"):
        raise ConfigError(
            f"the run is {status.state}; only an orphaned or a lost one has no supervisor",
            run.run_id,
            "a run that has ended is launched anew" if status.has_ended else f"oxrl run watch {run.run_id}",
        )
    if not (run.path / "status.json").exists():  # its launcher ended before it could start it
        launch(run, python=python)
    else:
        answer = start_supervisor(run, python, "--adopt")
        if "error" in answer:
            raise MachineError(*(str(answer["error"][name]) for name in ("what", "where", "next")))
    return run.status()


def adopt_orphans(home: Path, ids: Sequence[str]) -> list[str]:
    """Those of the given runs whose supervisor on this machine had died, and which have another one now."""
    adopted: list[str] = []
    members = functools.cache(process.members_by_run)
    for run_id in ids:
        run = RunDir(home / "runs" / run_id)
        record = read_json(run.path / "status.json")
        if record is None or record.get("state") in ENDED_STATES:
            continue
        status = run.status(members)
        if status.state == "orphaned" and status.supervisor and not process.is_foreign_host(status.supervisor):
            try:
                adopt(run)
            except OxrlError as error:  # it stays orphaned, as every look at it says
                print(f"oxrl: {run_id} was not adopted: {error}", file=sys.stderr)
            else:
                adopted.append(run_id)
    return adopted


def start_supervisor(run: RunDir, python: str, *options: str) -> dict[str, Any]:
    """What the new supervisor of the run answers once it has started the driver, or says why it could not."""
    if not sys.platform.startswith("linux"):
        raise MachineError("runs are supervised on Linux only", sys.platform, "use a container or WSL")
    environment = run_environment(os.environ)
    environment["OXRL_HOME"] = str(run.home)
    root = str(Path(__file__).resolve().parents[2])
    if "site-packages" not in root:  # a checkout that is not installed: the child has another sys.path[0]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    # -P: a file that happens to be called json.py in the caller's folder must not replace the standard library's.
    command = [python, "-P", "-m", "oxrl_core.runs.supervision.supervise", str(run.path), *options]
    try:
        with disk_refusals(run.logs), (run.logs / "supervisor.log").open("ab") as log:
            starter = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        raise MachineError(
            f"the supervisor cannot be started: {error.strerror or error}", str(error.filename or python), "oxrl doctor"
        ) from error
    try:
        output, _ = starter.communicate(timeout=_START_SECONDS)
    except subprocess.TimeoutExpired:
        starter.kill()
        starter.communicate()
        raise MachineError(
            f"the supervisor did not start within {_START_SECONDS:g} s", str(run.path), "is the machine overloaded?"
        ) from None
    try:
        return dict(json.loads(output))
    except ValueError:
        tail = run.read_logs(lines=3, name="supervisor").lines
        raise MachineError(
            f"the supervisor ended before it started the run: {' | '.join(tail) or 'it said nothing'}",
            str(run.logs / "supervisor.log"),
            "oxrl doctor",
        ) from None


def _record_failure(run: RunDir, error: OxrlError) -> None:
    if (run.path / "status.json").exists():
        return  # a supervisor holds the run after all, and its word counts
    now = time.time()
    record = {"state": "failed", "started_at": now, "ended_at": now, "error": error.as_dict()}
    try:
        write_json(run.path / "status.json", record, durable=True)
        run.append_event("error", "failed", error.what)
    except OSError as second:
        # The caller hears the first error anyway; a full disk cannot take it down as well.
        error.add_note(f"and the status could not be written: {second}")


# -------------------------------------------------------------------- stopping


def request_stop(run: RunDir, reason: str, grace_seconds: float) -> None:
    """Leave the wish to stop where the supervisor finds it, on whatever machine it is; the shorter grace wins."""
    earlier = read_json(run.path / "stop.json")
    if earlier is not None and float(earlier.get("grace_seconds", 0.0)) <= grace_seconds:
        return
    record = {"reason": reason, "grace_seconds": grace_seconds, "time": time.time(), "by_pid": os.getpid()}
    write_json(run.path / "stop.json", record, durable=True)


def stop(run: RunDir, reason: str, grace: float | None = None) -> Status:
    """The final status, when no process of the run is left. Harmless on a run that has ended, and when called twice.

    The supervisor does it; where it is dead or deaf, this process does it in its place. One that another machine has
    lost is refused at once: nobody there hears the wish, and nothing here is its process.
    """
    status = run.status()
    if status.has_ended and status.state != "lost":
        return status
    if _is_lost_elsewhere(status):
        raise _out_of_reach(run, status, "of which nothing has been heard for a while")
    if grace is None:
        grace = float(run.spec().get("stop_grace_seconds", 10.0))
    try:
        request_stop(run, reason, grace)
    except OSError as error:
        # A full disk must not keep a run alive: the signal below carries the wish too.
        print(f"oxrl: the reason of the stop could not be written: {error}", file=sys.stderr)
    deadline = time.monotonic() + grace + TERM_SECONDS + KILL_SECONDS + _ANSWER_SECONDS
    asked: set[process.ProcessIdentity] = set()
    while time.monotonic() < deadline:
        status = run.status()
        if status.has_ended and status.state != "lost":
            _wait_until_gone(status.supervisor)
            return status
        supervisor = status.supervisor
        if supervisor is None or supervisor.pid == os.getpid():
            break
        if _is_lost_elsewhere(status):
            break
        if not process.is_foreign_host(supervisor):
            if not process.is_alive(supervisor):
                break
            if supervisor not in asked:
                asked.add(supervisor)
                process.send_signal(supervisor, signal.SIGTERM)
        time.sleep(0.1)
    if status.supervisor is not None and process.is_foreign_host(status.supervisor):
        raise _out_of_reach(run, status, "which did not answer")
    return _stop_in_place_of_supervisor(run, reason, grace)


def _is_lost_elsewhere(status: Status) -> bool:
    """Whether its supervisor is another machine's, and has let its heartbeat fall: no wait brings an answer."""
    return status.state == "lost" and status.supervisor is not None and process.is_foreign_host(status.supervisor)


def _out_of_reach(run: RunDir, status: Status, why: str) -> MachineError:
    host = status.supervisor.host if status.supervisor is not None else "another machine"
    return MachineError(
        f"the run is supervised on {host}, {why}",
        run.run_id,
        f"stop it there: oxrl run stop {run.run_id}; where that machine is gone, nothing is left to be stopped, and "
        f"oxrl fork {run.run_id} --step {status.step} (or an earlier one that was saved) goes on here",
    )


def _wait_until_gone(identity: process.ProcessIdentity | None, seconds: float = 5.0) -> None:
    """The supervisor needs some milliseconds between its last word and its end."""
    deadline = time.monotonic() + seconds
    while identity is not None and process.is_alive(identity) and time.monotonic() < deadline:
        time.sleep(0.01)


def _stop_in_place_of_supervisor(run: RunDir, reason: str, grace: float) -> Status:
    record = read_json(run.path / "status.json") or {}
    supervisor = process.ProcessIdentity.from_dict(record.get("supervisor"))
    if supervisor is not None and process.send_signal(supervisor, signal.SIGKILL):  # alive and deaf
        _wait_until_gone(supervisor)
    # Two that stop the same orphan: the second waits here and finds the work done.
    with run.lock(grace + TERM_SECONDS + KILL_SECONDS + 10.0):
        record = read_json(run.path / "status.json") or {}
        status = run.status()
        if status.has_ended:
            return status
        driver = status.driver
        me = process.identify(os.getpid())
        # Until the last word is written, readers must see a run that is stopping, not one that is lost.
        record.update(state="stopping", stand_in=me.as_dict() if me else None)
        with suppress(OSError):  # a full disk must not keep the processes alive; the final write tells of it
            write_json(run.path / "status.json", record)
        if driver is not None and process.send_signal(driver, signal.SIGTERM):
            _wait_until_gone(driver, grace)
        left = process.end_processes(
            lambda: run.living_processes(record), term_seconds=TERM_SECONDS, kill_seconds=KILL_SECONDS
        )
        now = time.time()
        record.update(
            state="stopped", ended_at=now, stop_reason=reason, error=None, leftovers=[identity.pid for identity in left]
        )
        try:
            write_json(run.path / "status.json", record, durable=True)
            run.append_event("info", "stopped", f"stopped without its supervisor: {reason}")
        except OSError as error:
            raise MachineError(
                f"the processes of the run were ended, but its status cannot be written: {error.strerror or error}",
                str(run.path),
                "free some space and stop the run again",
            ) from error
        return run.status()
