"""How it ended: by a person, a budget, the kernel, the disk, an error with a name, or not at all."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

from oxrl_core.diagnose.classes import inner_of, known_of, place_of
from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.views import Evidence
from oxrl_core.runs.records import read_json
from oxrl_core.runs.status import Status

SIGKILL = 9
# Sent by a terminal, a session, a scheduler or a limit of the system. SIGALRM and SIGPIPE are not here: the alarm of a
# verifier, or a pipe that was closed, may be what sent them.
ASKED = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGUSR1,
         signal.SIGUSR2}  # fmt: skip
# The error's class -> its cause, and how sure that is: these classes are raised for that reason alone.
CAUSES = {
    "WeightSyncError": ("weight_sync", 0.95),
    "StalePolicyError": ("stale_sampler", 0.95),
    "LogprobGapError": ("logprob_gap", 0.9),
    "NumericsError": ("not_finite", 0.95),
    "CheckpointError": ("bad_checkpoint", 0.9),
    "DeadlineError": ("deadline", 0.85),
    "PlacementError": ("placement", 0.9),
    "ConfigError": ("wrong_request", 0.9),
    "DataError": ("wrong_request", 0.9),
    "ModelError": ("wrong_request", 0.9),
    "MachineError": ("wrong_request", 0.8),
    "NotFoundError": ("wrong_request", 0.8),
    "NeverStarted": ("never_started", 0.9),
    "Lost": ("lost", 0.7),
    "Orphaned": ("supervisor_killed", 0.9),
    # Of the language itself: what they are about is known, and not whose fault it is.
    "TimeoutError": ("deadline", 0.6),
    "FloatingPointError": ("not_finite", 0.8),
    "ModuleNotFoundError": ("wrong_request", 0.7),
    "ImportError": ("wrong_request", 0.7),
    "FileNotFoundError": ("wrong_request", 0.6),
    "PermissionError": ("wrong_request", 0.6),
    "JSONDecodeError": ("wrong_request", 0.6),
    "UnicodeDecodeError": ("wrong_request", 0.6),
}
# What an error of a wider class says where the engine itself has looked.
WORDS = (
    (re.compile(r"the mask covers"), "mask_coverage"),
    (re.compile(r"adapters bind no module"), "lora_unbound"),
    (re.compile(r"has no gradient: no weight"), "gradient_dead"),
    # Two sides that differ by NaN do not differ: one of them is broken.
    (re.compile(r"\bnan\b|non-finite|not finite", re.IGNORECASE), "not_finite"),
)
DISK = re.compile(
    r"No space left on device|[Dd]isk quota exceeded|the disk is full|Errno 28\b|ENOSPC|Errno 122\b|"
    r"StreamWriter failed writing"
)
NO_MEMORY = re.compile(r"out of memory|[Cc]an(?:no|')t allocate memory|MemoryError|Errno 12\b|std::bad_alloc")
NOT_WEIGHTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not weights"),
    (b"<!doctype html", "a web page, not weights"),
    (b"<html", "a web page, not weights"),
)
KERNEL_KILLS = re.compile(r"killed (\d+) process")
# A budget in the words of the supervisor, or the key of one.
BUDGET = re.compile(r"budget|run\.max_|max_hours|max_tokens|max_gpu_hours")


@detector("how it ended")
def asked_to_end(facts: RunFacts) -> Iterator[Seen]:
    if facts.state not in ("stopped", "stopping") or facts.status is None:
        return
    reason = facts.status.stop_reason or "a signal from outside"
    cause = "budget_spent" if BUDGET.search(reason) else "stopped_on_request"
    yield Seen(cause, 0.95, f"it was stopped at step {facts.step}: {reason}", "info", [seen_by("stop reason", reason)])


@detector("exit code, signal and last error")
def failed(facts: RunFacts) -> Iterator[Seen]:
    status, error = facts.status, facts.error
    if status is None or facts.state not in ("failed", "lost", "orphaned"):
        return
    what, code = error.get("what", ""), error.get("code", "")
    evidence = [seen_by("last error", f"{code}: {_line(what)}", facts.step)]
    if status.exit_code is not None:
        evidence.append(seen_by("exit code", status.exit_code))
    # Of a run that vanished the words are ours, a list of what is possible; they prove none of it.
    said = "" if code == "Lost" else f"{what} {error.get('where', '')}"
    text = f"{said} {' '.join(status.log_tail)}"
    if DISK.search(text):
        yield Seen("disk_full", 0.95, "a write failed because the disk is full", evidence=evidence)
        return
    number = _signal(status)
    if number == SIGKILL or code == "Killed":
        yield from _killed(text, what, facts, evidence)
        return
    if number in ASKED:
        name = signal.Signals(number).name
        summary = f"{name} from outside ended it at step {facts.step}: a terminal or session that was closed, a limit"
        yield Seen("killed", 0.85, summary, evidence=evidence, next=error.get("next", ""))
        return
    if number:
        yield Seen("crashed", 0.8, f"a native crash: {_line(what)}", evidence=evidence, next=error.get("next", ""))
        return
    if code == "RewardError":
        yield from _reward_error(what, error, evidence)
        return
    if NO_MEMORY.search(text) and "CUDA" not in text:
        yield Seen("host_out_of_memory", 0.85, "the driver could not get more memory", evidence=evidence)
        return
    traceback = str((read_json(facts.run.path / "error.json") or {}).get("traceback", ""))
    kind, traceback = inner_of(code, what, traceback)
    cause, confidence = CAUSES.get(kind, ("unexplained_failure", 0.3))
    place = ""
    if cause == "unexplained_failure":
        place = place_of(kind, traceback)
        known = known_of(kind, what, traceback)
        if known:
            cause, confidence, place = known.cause, known.confidence, known.place
            evidence.append(seen_by("raised in", known.place))
    for words, named in WORDS:
        if words.search(what):
            cause, confidence = named, 0.95
    where = f" ({error['where']})" if error.get("where") else f" ({place})" if place else ""
    yield Seen(cause, confidence, f"{_line(what) or 'it failed'}{where}", evidence=evidence, next=error.get("next", ""))


def _killed(text: str, what: str, facts: RunFacts, evidence: list[Evidence]) -> Iterator[Seen]:
    """SIGKILL: the kernel for want of memory, or somebody else; the memory's own record decides."""
    kills = KERNEL_KILLS.search(what)
    low = [event for event in facts.events if str(event.get("code", "")) in ("memory_low", "oom_kill", "out_of_memory")]
    proofs = [*(["the kernel's count of kills went up"] if kills and int(kills[1]) > 0 else [])]
    proofs += [str(event.get("message", "")) for event in low[-1:]]
    proofs += ["a worker said that memory ran out"] if NO_MEMORY.search(text.replace("(out of memory?)", "")) else []
    for name in ("memory/driver_gib", "memory/trainer_gib"):
        grown = facts.values(name)
        if len(grown) > 5 and grown[-1] > 1.5 * grown[0] and not proofs:
            proofs.append(f"{name} grew from {grown[0]:.1f} to {grown[-1]:.1f}")
    if proofs:
        made = Seen("host_out_of_memory", 0.9, f"killed by the kernel: {'; '.join(proofs)}")
    else:
        made = Seen("killed", 0.75, f"SIGKILL at step {facts.step}, and no sign that memory was short")
    made.evidence = [*evidence, *(seen_by("memory", proof) for proof in proofs)]
    yield made


def _reward_error(what: str, error: dict[str, str], evidence: list[Evidence]) -> Iterator[Seen]:
    if "rejects the reference" in what:
        cause = "verifier_rejects_references"
    elif re.search(r"timeout|in time|deadline|did not answer|within [\d.]+ s", what):
        cause = "verifier_timeouts"
    else:
        cause = "verifier_errors"
    yield Seen(cause, 0.95, _line(what), evidence=evidence, next=error.get("next", ""))


@detector("the files of the weights")
def no_weights(facts: RunFacts) -> Iterator[Seen]:
    """Files that are called weights and hold something else: a pointer of Git LFS, a page, or nothing."""
    if facts.state != "failed" or facts.step or facts.initial_model is None:
        return
    for path in sorted(facts.initial_model.iterdir()):
        if path.suffix not in (".safetensors", ".bin", ".pt") or not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(64)
        what = next((words for known, words in NOT_WEIGHTS if start.lower().startswith(known)), "")
        what = what or ("an empty file" if not start else "")
        if what:
            told = [seen_by(str(path), repr(start.decode(errors="replace"))), seen_by("bytes", path.stat().st_size)]
            advice = "fetch the file itself: `git lfs pull` in that folder, or download the model again"
            yield Seen("wrong_request", 0.97, f"{path.name} of the model is {what}", evidence=told, next=advice)
            return


@detector("liveness")
def not_moving(facts: RunFacts) -> Iterator[Seen]:
    status = facts.status
    if status is None:
        return
    events = [event for event in facts.events if event.get("code") in ("stalled", "stall")]
    if facts.state == "stalled":
        why = f"no progress in phase {status.phase or 'unknown'} at step {facts.step}"
        yield Seen("stalled", 0.9, why, evidence=[seen_by("phase", status.phase or "unknown", facts.step)])
    elif events and facts.state in ("failed", "stopped", "lost"):
        last = events[-1]
        told = seen_by("event stalled", str(last.get("message", "")), facts.step)
        yield Seen("stalled", 0.9, f"it hung: {_line(str(last.get('message', '')))}", evidence=[told])
    if facts.state == "orphaned":
        yield Seen("supervisor_killed", 0.95, "the supervisor is gone; processes of the run live on")


@detector("the disk")
def disk(facts: RunFacts) -> Iterator[Seen]:
    for event in facts.events:
        if event.get("code") == "disk_full" or DISK.search(str(event.get("message", ""))):
            message = _line(str(event.get("message", "")))
            yield Seen("disk_full", 0.9, message, evidence=[seen_by("event", message)])
            return


def _signal(status: Status) -> int:
    """The signal that ended the driver; 0 for none."""
    code = status.exit_code
    if code is None:
        return 0
    return -code if code < 0 else code - 128 if 128 < code < 192 and code != 143 else 0


def _line(text: str, limit: int = 200) -> str:
    first = text.strip().split("\n", 1)[0]
    return first if len(first) <= limit else first[: limit - 3] + "..."
