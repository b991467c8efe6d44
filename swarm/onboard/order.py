"""What an onboarding was asked to do, and the run that does it: `onboard_model`, `steer_onboarding`."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from oxrl_core.api.views import view_of
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs import launch
from oxrl_core.runs.records import append_line, file_lock, read_json, read_lines, write_json
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.supervision import resume
from oxrl_core.runs.views import RunView
from swarm.onboard.archive import slug_of

KIND = "onboard"
STALL_SECONDS = 1800.0
TASKS = ("math", "code", "chat", "preference", "vision", "audio")
_LOCK_SECONDS = 20.0


class Order(BaseModel):
    """One onboarding as it was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    task: str = ""
    max_attempts: int = 3
    max_hours: float = 0.0
    miniature_only: bool = False
    overrides: tuple[str, ...] = ()


def onboard_model(
    model: str,
    task: str = "",
    max_attempts: int = 3,
    max_hours: float = 0.0,
    miniature_only: bool = False,
    key: str = "",
    overrides: Sequence[str] = (),
    *,
    home: Path | None = None,
) -> RunView:
    """A run of kind `onboard` that goes on by itself: scout, configure, train small, train, verify, archive.

    The same key with the same order gives the run that was launched before. Where no rule helps it parks in state
    `needs_input`, and steer_onboarding goes on.
    """
    home = home or oxrl_home()
    if task and task not in TASKS:
        from oxrl_core.suggest import did_you_mean

        raise ConfigError(
            f"there is no task {task!r}.{did_you_mean(task, TASKS)}", "task", f"take one of: {', '.join(TASKS)}"
        )
    if not 1 <= max_attempts <= 10:
        raise ConfigError(f"{max_attempts} attempts", "max_attempts", "1 to 10; 3 is usual")
    if not model.strip():
        raise ConfigError("no model is named", "model", "a hub id, a folder, or miniature:<name>")
    model = _full_name(model)
    order = Order(
        model=model, task=task, max_attempts=max_attempts, max_hours=max_hours, miniature_only=miniature_only,
        overrides=tuple(overrides),
    )  # fmt: skip
    run, created = _open(home, order, key)
    if created or not (run.path / "status.json").exists():
        launch.launch(run)
    return view_of(run, run.status())


def _full_name(model: str) -> str:
    """The hub id of a model that is called by its name in the registry; anything else as it is."""
    from oxrl_core.config.registry import known_entry

    if "/" in model or ":" in model:
        return model
    known = known_entry(model)
    return str(known[1]["hub"]) if known else model


def steer_onboarding(
    run_id: str,
    action: Literal["retry", "give_up"],
    overrides: Sequence[str] = (),
    reason: str = "",
    *,
    home: Path | None = None,
) -> RunView:
    """The onboarding as it goes on with the caller's overrides, or as it ends because the caller gives it up.

    Overrides pass the same gate as the Bugfixer's own patches: keys of a list, within bounds, never code.
    """
    from swarm.bugfix.attempts import read_attempts
    from swarm.bugfix.bundle import bugfix_bundle
    from swarm.bugfix.gate import as_change, check_patch
    from swarm.bugfix.policy import read_policy
    from swarm.bugfix.repair import active_after

    home = home or oxrl_home()
    run = launch.find_run(home, run_id)
    if run.spec().get("kind") != KIND:
        raise NotFoundError(f"{run.run_id} is no onboarding", "run_id", "oxrl onboard MODEL starts one")
    status = run.status()
    if action not in ("retry", "give_up"):
        raise ConfigError(f"{action!r} is no way to go on", "action", "retry or give_up")
    if status.state not in resume.RESUMABLE:
        raise ConfigError(f"it is {status.state}", run.run_id, "only an onboarding that waits or ended can be steered")
    if status.state != "needs_input" and (action == "give_up" or overrides):
        raise ConfigError(f"it is {status.state}, and waits for nobody", run.run_id, "retry without overrides goes on")
    if overrides:
        settings: dict[str, Any] = bugfix_bundle(run.run_id, home=home).settings
        rows = read_attempts(run)
        changes = [as_change(text, settings) for text in overrides]
        check_patch(changes, _with_active(settings, active_after(rows)), read_policy(home))
    if status.state == "needs_input":
        decision = {"time": time.time(), "action": action, "overrides": list(overrides), "reason": reason}
        append_line(run.path / "steering.jsonl", decision, mend=True)
    resume.resume(run)
    return view_of(run, run.status())


def _with_active(settings: dict[str, Any], active: Sequence[Any]) -> dict[str, Any]:
    from oxrl_core.config.mappings import deep_copy, set_at

    found = deep_copy(settings)
    for change in active:
        set_at(found, change.path, change.new, change.path)
    return found


def decisions_of(run: RunDir) -> list[dict[str, Any]]:
    """What the caller has decided, in its order."""
    return [line for line in read_lines(run.path / "steering.jsonl") if line.get("action")]


def read_order(run: RunDir) -> Order:
    return Order.model_validate(run.spec()["order"])


def _open(home: Path, order: Order, key: str) -> tuple[RunDir, bool]:
    digest = hashlib.sha256(json.dumps(order.model_dump(), sort_keys=True).encode()).hexdigest()[:12]
    if not key:
        return _create(home, order, digest, key), True
    folder = home / "onboardings"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with file_lock(path.with_suffix(".lock"), _LOCK_SECONDS):
        known = read_json(path)
        run = RunDir(home / "runs" / str(known["run_id"])) if known else None
        if run is not None and (run.path / "spec.json").exists():
            if run.spec().get("config_hash") != digest:
                raise ConfigError(
                    f"the key {key!r} belongs to {run.run_id}, which is another order", "key", "choose another key"
                )
            return run, False
        run = _create(home, order, digest, key)
        write_json(path, {"key": key, "run_id": run.run_id}, durable=True)
        return run, True


def _create(home: Path, order: Order, digest: str, key: str) -> RunDir:
    from oxrl_core.config.yaml_text import write_mapping

    name = f"onboard-{slug_of(order.model)}"[:80]
    spec: dict[str, Any] = {
        "kind": KIND,
        "key": key,
        "config_hash": digest,
        "order": order.model_dump(),
        # Which run it is stands in its environment: the folder has no name yet.
        "command": [sys.executable, "-P", "-m", "swarm.onboard"],
        "cwd": str(Path.cwd()),
        "max_hours": order.max_hours or None,
        "max_gpu_hours": None,
        "max_restarts": 3,
        "on_stall": "alert",
        "stall_seconds": STALL_SECONDS,
        "start_stall_seconds": STALL_SECONDS,
        "stop_grace_seconds": 30.0,
        "resumable": True,
        "origins": {},
        "notes": [],
    }
    text = write_mapping({"onboard": order.model_dump(mode="json")})
    return RunDir.create_from_parts(home, name, text, spec)
