"""What "verified" means. The criteria are frozen: a change of any of them is a new version.

Each looks at the records of a finished run and says its value, its limit, and where the evidence stands.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from oxrl_core.config.deepspeed import resolve_precision
from oxrl_core.runs.records import last_json_line, read_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.views import View

VERSION = 1
Level = Literal["miniature", "full"]
# Where trainer and sampler may differ: rounding of the precision, never a policy.
GAP_LIMITS = {"float32": 1e-4, "bfloat16": 0.05}
FINGERPRINT_LIMITS = {"float32": 1e-3, "bfloat16": 0.5}
# Random small weights cannot solve a task: rewards must differ within groups, so that there is something to learn
# from, and every step must have a gradient. Of a full run the reward must besides not fall by more than its noise.
LEARNING_SHARE = 0.5  # of the steps
RELOAD_SECONDS = 600.0


class Criterion(View):
    """One of the criteria, as it was met or not."""

    name: str
    passed: bool
    value: str
    limit: str
    evidence: str


class Verification(View):
    """Whether a model is verified, at which level, and by what."""

    model: str
    level: Level
    verified: bool
    version: int = VERSION
    """Of the criteria."""
    run_id: str
    config_hash: str
    criteria: list[Criterion]
    versions: dict[str, str] = Field(default_factory=dict[str, str])
    wall_seconds: float = 0.0
    fixes: list[str] = Field(default_factory=list[str])
    """Changes that it needed."""


def judge(run: RunDir, *, reload: bool = True) -> list[Criterion]:
    """All criteria on a run that has finished; without `reload` those that its records answer."""
    rows = [row for row in run.metrics() if row["step"] >= 1]
    draws = any("reward/mean" in row for row in rows)
    found = [_completed(run, rows), _finite(rows), *(_reload(run) if reload else [])]
    found.append(_reward(rows) if draws else _loss(rows))
    if draws:
        precision = resolve_precision(run.config(), on_gpu=run_has_gpu(run))
        found += [
            _below(run, rows, "gap/mean", "logprob_gap", GAP_LIMITS[precision]),
            _below(run, run.metrics(), "sync/fingerprint", "sampler_agreement", FINGERPRINT_LIMITS[precision]),
        ]
        found.append(_mask(rows))
    return found


def failed(criteria: Sequence[Criterion]) -> list[str]:
    """What is not met, in words."""
    return [f"{one.name}: {one.value} (limit {one.limit})" for one in criteria if not one.passed]


def run_has_gpu(run: RunDir) -> bool:
    return float((read_json(run.path / "progress.json") or {}).get("gpus") or 0) > 0


def _completed(run: RunDir, rows: Sequence[Mapping[str, Any]]) -> Criterion:
    status, planned = run.status(), run.config().train.steps
    steps = int(rows[-1]["step"]) if rows else 0
    whole = status.state == "finished" and steps >= (planned or status.total_steps or 1)
    return Criterion(
        name="all_steps", passed=whole, value=f"{status.state} after {steps}", evidence="status.json, metrics.jsonl",
        limit=f"finished after {planned or status.total_steps}",
    )  # fmt: skip


def _finite(rows: Sequence[Mapping[str, Any]]) -> Criterion:
    bad = [f"{name} at step {row['step']}" for row in rows for name in ("loss", "grad_norm") if row.get(name) is None]
    return Criterion(
        name="finite_loss", passed=bool(rows) and not bad, value="; ".join(bad[:3]) or f"{len(rows)} steps finite",
        limit="loss and gradient finite at every step", evidence="metrics.jsonl: loss, grad_norm",
    )  # fmt: skip


def _below(run: RunDir, rows: Sequence[Mapping[str, Any]], metric: str, name: str, limit: float) -> Criterion:
    values = [row[metric] for row in rows if metric in row]
    largest = max((math.inf if value is None else float(value) for value in values), default=math.inf)
    shown = f"{largest:.3g} at most" if values else "not measured"
    return Criterion(
        name=name,
        passed=bool(values) and largest <= limit,
        value=shown,
        limit=f"{limit:g}",
        evidence=f"metrics.jsonl of {run.run_id}: {metric}",
    )


def _mask(rows: Sequence[Mapping[str, Any]]) -> Criterion:
    values = [float(row["mask/coverage"]) for row in rows if row.get("mask/coverage") is not None]
    passed = len(values) == len(rows) > 0 and all(0 < value < 1 for value in values)
    shown = f"{min(values):.3g} to {max(values):.3g}" if values else "not measured"
    return Criterion(
        name="mask_coverage", passed=passed, value=shown, limit="inside (0, 1)",
        evidence="metrics.jsonl: mask/coverage",
    )  # fmt: skip


def _reward(rows: Sequence[Mapping[str, Any]]) -> Criterion:
    """Rewards differed within the groups, and did not fall by more than their noise."""
    means = [float(row["reward/mean"]) for row in rows if row.get("reward/mean") is not None]
    teaching = sum(float(row.get("reward/std") or 0) > 0 and float(row.get("grad_norm") or 0) > 0 for row in rows)
    third = max(1, len(means) // 3)
    first, last = means[:third], means[-third:]
    change = statistics.fmean(last) - statistics.fmean(first) if means else math.nan
    noise = max((float(row.get("reward/std") or 0) for row in rows), default=0.0)
    passed = bool(means) and teaching >= LEARNING_SHARE * len(rows) and change > -noise
    return Criterion(
        name="reward", passed=passed, evidence="metrics.jsonl: reward/mean, reward/std, grad_norm",
        value=f"moved by {change:+.3g}, {teaching} of {len(rows)} steps taught",
        limit=f"{LEARNING_SHARE:.0%} of the steps teach; it falls by no more than its deviation ({noise:.3g})",
    )  # fmt: skip


def _loss(rows: Sequence[Mapping[str, Any]]) -> Criterion:
    values = [float(row["loss"]) for row in rows if row.get("loss") is not None]
    third = max(1, len(values) // 3)
    change = statistics.fmean(values[-third:]) - statistics.fmean(values[:third]) if values else math.nan
    return Criterion(
        name="loss", passed=change < 0, value=f"moved by {change:+.3g}", limit="it falls",
        evidence="metrics.jsonl: loss",
    )  # fmt: skip


def _reload(run: RunDir) -> list[Criterion]:
    """The final model loads back bit for bit, in a process of its own, and is another than the initial one."""
    command = [sys.executable, "-m", "oxrl_core.models.reload", str(run.path / "final")]
    # Weights from elsewhere: that something was learned is said by gradient and loss.
    began = next((p for p in (run.path / "model", Path(run.config().model.path)) if p.is_dir()), None)
    has_began = began is not None and not run.config().model.lora.enabled
    if has_began:
        command.append(str(began))
    why = "silent"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RELOAD_SECONDS, check=False)
        said = last_json_line(done.stdout)
        if done.stderr.strip():
            why = done.stderr.strip().splitlines()[-1][:300]
    except subprocess.TimeoutExpired:
        said, why = {}, f"no answer within {RELOAD_SECONDS:g} s"
    return reloaded(said, why, compares=has_began)


def reloaded(said: Mapping[str, Any], why: str, *, compares: bool) -> list[Criterion]:
    """What oxrl_core.models.reload said about a final model; `why` it said nothing. `compares`: with its start."""
    by = "python -m oxrl_core.models.reload final/"
    is_equal = said.get("equal") is True
    value = f"{said['tensors']} tensors equal, log-probs repeatable" if is_equal else str(dict(said) or why)
    limit = "every tensor equal, log-probs repeatable"
    found = [Criterion(name="reload", passed=is_equal, value=value, limit=limit, evidence=by)]
    if compares:
        moved, of = int(said.get("moved") or 0), int(said.get("compared") or 0)
        shown = f"{moved} of {of} tensors moved"
        weights = Criterion(name="weights", passed=moved > 0, value=shown, limit="some moved", evidence=f"{by} model/")
        found.append(weights)
    return found
