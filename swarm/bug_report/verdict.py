"""Whether a failure is a defect of oxRL. Only what our own code raised, and nothing else explains, is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from oxrl_core import errors
from oxrl_core.runs.rundir import RunDir
from swarm.bug_report.failure import Failure

# Failures that our code raises on purpose, and what they say about it. Those of UserError are the caller's.
OURS = frozenset({"WeightSyncError", "StalePolicyError", "LogprobGapError", "RunFailure", "OxrlError"})
NOT_OURS = {
    "PlacementError": "this machine or cluster has no room for the workers",
    "DeadlineError": "a worker did not answer in time, which is most often the machine's load",
    "WorkerDied": "the system ended a worker, most often for want of memory",
    "RewardError": "the reward failed",
    "NumericsError": "a loss or gradient was not finite, which is most often the learning rate or the data",
    "RecordError": "a record could not be written, which is most often the disk",
    "TripwireError": "the run stopped where tripwires.stop_on asked it to",
    "CheckpointError": "a checkpoint was missing, torn or of another run",
}
ENVIRONMENT = {
    "memory": r"MemoryError|OutOfMemory|out of memory|[Cc]an(?:no|')t allocate memory|bad_alloc|oom-kill|OOM"
    r"|No available memory",
    "the disk": r"No space left|[Dd]isk quota|the disk is full|Read-only file system|Errno (?:28|30|122|5)\b",
    "the network": r"ConnectionError|Connection(?:Reset|Refused|Aborted)|gaierror|SSLError|HTTPError|HfHub"
    r"|MaxRetryError|ReadTimeout|ConnectTimeout|NetworkError|NCCL|Gloo|name resolution|Too Many Requests|OfflineMode",
    "permissions": r"PermissionError|Permission denied|Errno 13\b",
    "a missing file": r"FileNotFoundError|NotADirectoryError|IsADirectoryError",
    "an installed package": r"ImportError|ModuleNotFoundError|undefined symbol|cannot open shared object",
    "the system's limits": r"Too many open files|Errno 24\b|Resource temporarily unavailable|BrokenPipeError",
    "a signal": r"KeyboardInterrupt|SystemExit|SIG(?:KILL|TERM|SEGV|ABRT|BUS)|Killed",
    "the GPU or its driver": r"CUDA (?:error|driver)|cudaError|CUBLAS|CUDNN|AcceleratorError|device-side assert",
}


@dataclass(frozen=True)
class Verdict:
    """Of which kind a failure is, why, and what to do."""

    kind: Literal["framework", "user"]
    reason: str
    next: str


@cache
def user_errors() -> frozenset[str]:
    """The names of the errors that the caller can mend."""
    return frozenset(
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.UserError)
    )


def judge(run: RunDir, failure: Failure) -> Verdict:
    """Whether the failure of a run is a defect of oxRL; in doubt it is not, for what is published stays."""
    diagnose = f"oxrl diagnose {run.run_id}"
    said = run.status()
    advice = str((said.error or {}).get("next", "")) or diagnose
    if failure.type in user_errors():
        return Verdict("user", f"{failure.type} names something that you can mend", advice)
    if failure.type in NOT_OURS:
        return Verdict("user", NOT_OURS[failure.type], advice)
    if said.exit_code is not None and (said.exit_code < 0 or 128 < said.exit_code < 192):
        return Verdict("user", "a signal ended the driver; the system or a person sent it", diagnose)
    for what, pattern in ENVIRONMENT.items():
        if re.search(pattern, f"{failure.type}: {failure.message}"):
            return Verdict("user", f"it failed for {what}: {failure.type}", diagnose)
    known = _known(run)
    if known is not None:
        return Verdict("user", *known)
    top = failure.top
    if top is None:
        return Verdict("user", f"{failure.type} left no traceback that says where it was raised", diagnose)
    if top.owner != "oxrl":
        whose = "your own code" if top.owner == "user" else top.place.split("/")[0]
        return Verdict("user", f"{failure.type} was raised in {whose}, not in oxRL", diagnose)
    if is_own_error(failure.type) and failure.type not in OURS:
        return Verdict("user", f"{failure.type} is raised on purpose", advice)
    return Verdict("framework", f"{failure.type} was raised in {top.place}, and nothing else explains it", "")


def is_own_error(name: str) -> bool:
    """Whether it is an error that oxRL raises on purpose."""
    kind = getattr(errors, name, None)
    return isinstance(kind, type) and issubclass(kind, errors.OxrlError)


def _known(run: RunDir) -> tuple[str, str] | None:
    """The known failure that the logs name, with its remedy."""
    from oxrl_core.diagnose.logs import log_paths, search_logs

    root = search_logs(log_paths(run.logs)).root
    if root is None:
        return None
    return f"a known failure ({root.id}): {root.signature.cause}", root.signature.remedy
