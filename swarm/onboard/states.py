"""What is done in each state of an onboarding. Each returns the facts that later states and the archive need."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

from oxrl_core.config.registry import entry_of_slug, model_entry, registry_folder
from oxrl_core.diagnose.views import Change
from oxrl_core.errors import OxrlError
from oxrl_core.runs import launch
from oxrl_core.runs.machine.environment import environment_of_now
from oxrl_core.runs.records import read_json, write_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status
from swarm.bugfix.attempts import read_attempts
from swarm.bugfix.repair import Decision, NeedsInput, Work, repair
from swarm.onboard import archive, criteria
from swarm.onboard.journal import Journal
from swarm.onboard.miniature import TASK_CHOICES, miniature_config, miniature_wishes
from swarm.onboard.order import Order, decisions_of

REAL_STEPS = 20


class Onboarding:
    """One onboarding: its order, its run, and its journal."""

    def __init__(self, run: RunDir, order: Order, journal: Journal, check: Callable[[], None]) -> None:
        self.run = run
        self.order = order
        self.journal = journal
        self.check = check  # leaves where somebody asked for it
        self.slug = archive.slug_of(order.model)
        self._beat_at = 0.0

    # ---------------------------------------------------------------- states

    def scout(self) -> dict[str, Any]:
        """What the model is; a model that nothing here can train asks for a decision."""
        from swarm.scout import inspect_model

        report = inspect_model(self.order.model)
        entry = model_entry(self.order.model)
        is_miniature = self.order.model.startswith("miniature:")
        miniature = self.order.model if is_miniature else f"miniature:{entry[0]}" if entry else ""
        blocking = [f"{risk.code}: {risk.what}" for risk in report.risks if risk.level == "block"]
        if blocking:
            raise OxrlError(f"it is refused: {'; '.join(blocking[:3])}", report.model, "take another model")
        facts = report.model_dump(mode="json", include={
            "model", "source", "revision", "architecture", "model_type", "parameters", "context", "modality", "license",
            "gated", "verdict", "reasons", "strategy", "lora_targets",
        })  # fmt: skip
        problems = [f"{problem.code}: {problem.what}" for problem in report.problems]
        return {**facts, "problems": problems, "miniature": miniature, "is_miniature": is_miniature}

    def configure(self) -> dict[str, Any]:
        """Configurations for the miniature and for the model itself, each value with its reason in the file."""
        from swarm.configure import generate_config

        scouted = self.journal.facts["scout"]
        algorithm, task = TASK_CHOICES[self.order.task]
        found: dict[str, Any] = {"algorithm": algorithm}
        if scouted["miniature"]:
            found["miniature"] = miniature_config(scouted["miniature"], self.order.task, self.run.home)
        if self.order.miniature_only or scouted["is_miniature"]:
            found["why_not_real"] = "a miniature was asked for"
            return found
        try:
            made = generate_config(
                self.order.model, algorithm, task=task, overrides=[f"train.steps={REAL_STEPS}"], home=self.run.home
            )
        except OxrlError as error:
            found["why_not_real"] = f"no configuration fits: {error.what}"
            return found
        if made.model.startswith("miniature:"):
            found["why_not_real"] = "without a GPU a model of this size takes days"
        else:
            found["real"] = made.config_yaml
        return found

    def data(self) -> dict[str, Any]:
        """Whether the rows of each configuration are there; what cannot be had is no real run."""
        from oxrl_core.api.configs import validate_config

        configured = self.journal.facts["configure"]
        found: dict[str, Any] = {}
        for stage in ("miniature", "real"):
            if stage not in configured:
                continue
            report = validate_config(configured[stage], home=self.run.home)
            needs = report.needs
            found[stage] = {
                "rows": needs.num_rows if needs else 0,
                "problems": [f"{p.where}: {p.what}" for p in report.problems if p.severity == "error"],
            }
        if found.get("real", {}).get("problems"):
            # Weights or rows that are not here and cannot be fetched: an honest level below, not a failure.
            found["why_not_real"] = found["real"]["problems"][0]
        return found

    def miniature(self) -> dict[str, Any]:
        """The same architecture with few random weights, through the whole machinery."""
        config = self.journal.facts["configure"].get("miniature")
        if not config:
            return {"skipped": "the registry does not know the model: there is no miniature of it"}
        return self._repaired("miniature", config, miniature_wishes(self.order.task))

    def real(self) -> dict[str, Any]:
        """A short run of the model itself, where weights, rows and machine allow it."""
        configured, data = self.journal.facts["configure"], self.journal.facts["data"]
        why = configured.get("why_not_real") or data.get("why_not_real")
        if why or "real" not in configured:
            return {"skipped": why or "no configuration"}
        return self._repaired("real", configured["real"], [])

    def verify(self) -> dict[str, Any]:
        """All criteria on the run of the highest level, written down as verification.json."""
        stage = self._stage()
        facts = self.journal.facts[stage]
        run = RunDir(self.run.home / "runs" / facts["run_id"])
        found = criteria.judge(run)
        environment = environment_of_now()
        verification = criteria.Verification(
            model=self.order.model,
            level="full" if stage == "real" else "miniature",
            verified=not criteria.failed(found),
            run_id=run.run_id,
            config_hash=str(run.spec().get("config_hash", "")),
            criteria=found,
            versions={"python": str(environment["python"]), **environment["packages"]},
            wall_seconds=round(run.status().elapsed_seconds or 0.0, 1),
            fixes=archive.overrides_of(self._overlay(stage)),
        )
        write_json(self.run.path / "verification.json", verification.model_dump(mode="json"), durable=True)
        if not verification.verified:
            raise OxrlError("; ".join(criteria.failed(found)), run.run_id, f"oxrl diagnose {run.run_id}")
        return {"verified": True, "level": verification.level, "run_id": run.run_id}

    def evaluate(self) -> dict[str, Any]:
        """The held-out scores before and after, of the run's own evaluation: the same for every onboarding."""
        run = RunDir(self.run.home / "runs" / self.journal.facts["verify"]["run_id"])
        found: dict[str, Any] = {}
        for name in ("eval/reward", "eval/accuracy", "eval/loss"):
            values = [row[name] for row in run.metrics() if row.get(name) is not None]
            if values:
                found[name] = {"before": values[0], "after": values[-1]}
        return found or {"skipped": "its configuration holds nothing out"}

    def archive(self) -> dict[str, Any]:
        """The entry of the model with its fixes, and the evidence beside it."""
        home, facts = self.run.home, self.journal.facts
        child = RunDir(home / "runs" / facts["verify"]["run_id"])
        evidence = archive.write_evidence(home, self.slug, self.run.run_id, {
            "verification.json": self.run.path / "verification.json",
            "journal.jsonl": self.run.path / "journal.jsonl",
            "config.yaml": child.path / "config.yaml",
            "metrics.jsonl": child.path / "metrics.jsonl",
        })  # fmt: skip
        rows = [row.model_dump(mode="json") for row in read_attempts(self.run)]
        write_json(evidence / "attempts.json", {"attempts": rows}, durable=True)
        is_known = facts["scout"]["is_miniature"] or entry_of_slug(self.slug, registry_folder()) is not None
        entry = {
            **({} if is_known else archive.facts_for_entry(self.order.model)),
            "model": self.order.model,
            "task": self.order.task,
            "verified": {
                "level": facts["verify"]["level"],
                "criteria": criteria.VERSION,
                "run_id": child.run_id,
                "onboarding": self.run.run_id,
                "config_hash": str(child.spec().get("config_hash", "")),
                "evidence": str(evidence.relative_to(home)),
            },
            "evaluation": facts["evaluate"],
        }
        stages = {stage: self._overlay(stage) for stage in ("miniature", "real")}
        path = archive.write_entry(home, self.slug, entry, stages)
        return {"entry": str(path), "evidence": str(evidence)}

    def clean_up(self) -> dict[str, Any]:
        """Checkpoints of its own child runs are let go: what was proven stands in the evidence."""
        removed: list[str] = []
        for row in read_attempts(self.run):
            for run_id in (row.run_id, row.probe):
                run = RunDir(self.run.home / "runs" / run_id) if run_id else None
                if run is None or not run.checkpoints.is_dir() or not self._is_own(run):
                    continue
                for folder in run.checkpoints.glob("step_*"):
                    shutil.rmtree(folder)
                    removed.append(f"{run_id}/{folder.name}")
        return {"removed": removed}

    # ---------------------------------------------------------------- what they share

    def _repaired(self, stage: str, config_yaml: str, wishes: list[str]) -> dict[str, Any]:
        def decided() -> tuple[Decision, ...]:
            found = [line for line in decisions_of(self.run) if line["action"] == "retry"]
            return tuple(Decision(tuple(line["overrides"]), str(line["reason"])) for line in found)

        kept = archive.kept_fixes(self.run.home, self.slug, stage)
        work = Work(
            parent=self.run,
            stage=stage,
            config_yaml=config_yaml,
            overrides=(*wishes, "report.sinks=[]", *self.order.overrides, f"run.name={self.slug[:60]}-{stage}"),
            max_attempts=self.order.max_attempts,
            judge=lambda run: criteria.failed(criteria.judge(run, reload=False)),
            beat=self.beat,
            kept=tuple(kept),
            decisions=decided(),
        )
        repaired = repair(work)
        return {
            "run_id": repaired.run.run_id,
            "attempts": repaired.attempts,
            "fixes": archive.overrides_of(repaired.overlay),
            "reapplied": archive.overrides_of([change for change in kept if change in repaired.overlay]),
        }

    def beat(self, doing: str, child: Status | None) -> None:
        """A heartbeat while a child runs, and the moment to leave where somebody asked for it."""
        self.check()
        now = time.monotonic()
        if now - self._beat_at < 2.0:
            return
        self._beat_at = now
        step = f", step {child.step} of {child.total_steps}" if child and child.total_steps else ""
        current = next((state for state in ("miniature", "real") if state not in self.journal.facts), "real")
        self.run.write_progress(f"{current}: {doing}{step}", self.journal.finished, 9)

    def stop_children(self, reason: str) -> None:
        """Ends the child runs that still go on."""
        for row in read_attempts(self.run):
            run = RunDir(self.run.home / "runs" / row.run_id) if row.run_id else None
            if run is not None and run.path.is_dir() and not row.has_ended:
                launch.stop(run, reason)

    def _is_own(self, run: RunDir) -> bool:
        started_by: Any = (read_json(run.path / "spec.json") or {}).get("started_by") or {}
        return bool(started_by.get("run_id") == self.run.run_id)

    def _stage(self) -> str:
        for stage in ("real", "miniature"):
            if self.journal.facts[stage].get("run_id"):
                return stage
        why = self.journal.facts["real"].get("skipped") or self.journal.facts["miniature"].get("skipped")
        raise NeedsInput(f"nothing was run: {why}", self.order.model, "steer_onboarding")

    def _overlay(self, stage: str) -> list[Change]:
        from swarm.bugfix.repair import active_after

        return active_after(read_attempts(self.run, stage))
