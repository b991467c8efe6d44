"""`<run>/report.html`: all that is known of a run in one file that needs nothing else, not even a network.

Whatever a model, a dataset or a log wrote is hostile here: the page gets it as JSON or escaped text, never as markup,
and its security policy allows no script but its own, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from oxrl_core.errors import MachineError
from oxrl_core.redact import Redactor
from oxrl_core.runs.analysis.curves import KEY_METRICS, group_of, metric_names, points_of, rounded, shortened
from oxrl_core.runs.analysis.samples import chosen_samples
from oxrl_core.runs.analysis.settings import config_text, settings_of
from oxrl_core.runs.machine.environment import FILE, environment_of_now
from oxrl_core.runs.records import read_json, write_text
from oxrl_core.runs.views import View

if TYPE_CHECKING:
    from oxrl_core.runs.rundir import RunDir

MOST_BYTES = 2_000_000
MOST_ALERTS = 200
# Points of a curve, steps and rollouts of a step in the table: the next line where a page would be too large.
SIZES = ((1200, 40, 10), (600, 24, 8), (300, 12, 6), (150, 6, 4), (60, 3, 2), (30, 0, 0))


class ReportView(View):
    """A report that was written."""

    run_id: str
    path: str
    bytes: int
    num_metrics: int
    num_samples: int
    next: str = ""


def write_report(run: RunDir, out: Path | None = None, diagnosis: Mapping[str, Any] | None = None) -> ReportView:
    """The report of a run as it is now, in `out` or in its folder: at most 2 MB, long curves thinned, samples fewer."""
    redactor = Redactor.of_this_machine(os.environ)
    facts = _facts(run, redactor, diagnosis)
    rows = run.metrics()
    page, drawn = "", {}
    for points, steps, of_a_step in SIZES:
        drawn = _drawn(run, rows, redactor, points, steps, of_a_step)
        page = redactor.without_own(_render(facts, drawn))
        if len(page.encode("utf-8", errors="replace")) <= MOST_BYTES:
            break
    path = (out or run.path / "report.html").absolute()
    data = page.encode("utf-8", errors="replace")
    try:
        write_text(path, data.decode())
    except OSError as error:
        raise MachineError(
            f"the report cannot be written: {error.strerror or error}", str(path), "choose another file: --out FILE"
        ) from error
    return ReportView(
        run_id=run.run_id,
        path=str(path),
        bytes=len(data),
        num_metrics=len(drawn["metrics"]),
        num_samples=len(drawn["samples"]),
        next="open it in a browser; it needs no network",
    )


def _render(facts: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    import jinja2

    folder = importlib.resources.files("oxrl_core.runs.analysis").joinpath("page")
    script = folder.joinpath("report.js").read_text(encoding="utf-8")
    style = folder.joinpath("report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # a diagnosis of another version may lack a field
    )
    environment.filters["short"] = short
    environment.filters["bytes"] = _size_text
    template = environment.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        **facts,
        data=drawn,
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def short(value: object) -> str:
    """A value as short text: four significant digits, a dash for nothing."""
    if value is None or value == "":
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _size_text(size: int) -> str:
    for unit, amount in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= amount:
            return f"{size / amount:.3g} {unit}"
    return f"{size} B"


# ---------------------------------------------------------------- what the script draws


def _drawn(
    run: RunDir, rows: list[dict[str, Any]], redactor: Redactor, most_points: int, most_steps: int, of_a_step: int
) -> dict[str, Any]:
    metrics: list[dict[str, Any]] = []
    for name in metric_names(rows):
        points = points_of(rows, name)
        numbers = [value for _, value in points if value is not None]
        shown = shortened(points, most_points)
        metrics.append(
            {
                "name": redactor.shown(name),
                "group": group_of(name),
                "steps": [step for step, _ in shown],
                "values": [rounded(value) for _, value in shown],
                "first": rounded(numbers[0]) if numbers else None,
                "last": rounded(numbers[-1]) if numbers else None,
                "min": rounded(min(numbers)) if numbers else None,
                "max": rounded(max(numbers)) if numbers else None,
                "count": len(points),
                "notFinite": len(points) - len(numbers),
            }
        )
    samples = chosen_samples(run, redactor, most_steps=most_steps, most_of_a_step=of_a_step) if most_steps else []
    for sample in samples:
        sample |= {name: rounded(sample[name]) for name in ("reward", "advantage", "gap")}
    return {"metrics": metrics, "samples": samples, "alerts": _alerts(run, rows, redactor)}


def _alerts(run: RunDir, rows: list[dict[str, Any]], redactor: Redactor) -> list[dict[str, Any]]:
    """Alerts with the step that was being made; notes of the run's course (saved, resumed, stopped) among them."""
    times = [(float(row["time"]), int(row["step"])) for row in rows if isinstance(row.get("time"), int | float)]
    start = float(run.spec().get("created_at") or 0.0)
    alerts: list[dict[str, Any]] = []
    for event in run.events():
        seconds = float(event.get("time") or 0.0)
        step = event.get("step")
        if not isinstance(step, int):
            step = max((step for when, step in times if when <= seconds), default=None)
        alerts.append(
            {
                "level": redactor.shown(str(event.get("level", "info"))),
                "code": redactor.shown(str(event.get("code", ""))),
                "message": redactor.shown(str(event.get("message", ""))[:1500])[:1000],
                "step": step,
                "after": max(0.0, round(seconds - start, 1)),
            }
        )
    important = [alert for alert in alerts if alert["level"] in ("warning", "error")][:MOST_ALERTS]
    rest = [alert for alert in alerts if alert["level"] not in ("warning", "error")][-MOST_ALERTS // 2 :]
    return sorted([*important, *rest], key=lambda alert: alert["after"])


# ---------------------------------------------------------------- what stands in the page


def _facts(run: RunDir, redactor: Redactor, diagnosis: Mapping[str, Any] | None) -> dict[str, Any]:
    spec, status = run.spec(), run.status()
    flat = settings_of(run)
    origins = cast("dict[str, str]", spec.get("origins") or {})
    recorded = read_json(run.path / FILE)
    ended = status.ended_at or (time.time() if status.started_at else None)
    return {
        "run": {
            "id": run.run_id,
            "name": redactor.shown(str(spec.get("name", ""))),
            "kind": redactor.shown(str(spec.get("kind", ""))),
            "state": status.state,
            "phase": redactor.shown(status.phase),
            "step": status.step,
            "total_steps": status.total_steps,
            "created": _clock_text(status.created_at),
            "started": _clock_text(status.started_at),
            "ended": _clock_text(status.ended_at),
            "seconds": max(0, round(ended - status.started_at)) if ended and status.started_at else None,
            "hash": redactor.shown(str(spec.get("config_hash", ""))),
            "parent": spec.get("parent"),
            "model": redactor.shown(str(flat.get("model.path", ""))),
            "algorithm": redactor.shown(str(flat.get("algorithm.name", ""))),
            "data": redactor.shown(", ".join(str(v) for k, v in flat.items() if _is_train_name(k))),
            "reward": redactor.shown(str(flat.get("reward.name", ""))) if spec.get("kind") == "rl" else "",
            "seed": flat.get("run.seed"),
        },
        "tiles": _tiles(run),
        "error": {name: redactor.shown(str(value)) for name, value in status.error.items()} if status.error else None,
        "stop_reason": redactor.shown(status.stop_reason),
        "log_tail": [redactor.shown(line) for line in status.log_tail[-15:]],
        "diagnosis": _shown_tree(diagnosis or read_json(run.path / "diagnosis.json"), redactor),
        "config": [
            {
                "key": redactor.shown(key),
                "value": redactor.shown(short(value) if value is not None else "null"),
                "origin": redactor.shown(str(origins.get(key, ""))),
            }
            for key, value in flat.items()
        ],
        "config_yaml": redactor.shown(config_text(run))[:60_000],
        "environment": _shown_tree(recorded or environment_of_now(), redactor),
        "environment_is_of_run": recorded is not None,
        "artefacts": _artefacts(run, redactor),
        "config_file": str(run.path / "config.yaml"),
        "written": _clock_text(time.time()),
    }


def _is_train_name(key: str) -> bool:
    return key.startswith("data.train.") and key.endswith(".name")


def _tiles(run: RunDir) -> list[dict[str, Any]]:
    """The most telling numbers, with where they began."""
    rows = run.metrics()
    tiles: list[dict[str, Any]] = []
    for name in KEY_METRICS:
        numbers = [value for _, value in points_of(rows, name) if value is not None]
        if numbers:
            tiles.append({"name": name, "first": numbers[0], "last": numbers[-1], "moved": len(numbers) > 1})
    return tiles[:8]


def _artefacts(run: RunDir, redactor: Redactor) -> list[dict[str, Any]]:
    """What the run left behind: each entry of its folder with its size; checkpoints one by one."""
    entries = sorted(path for path in run.path.iterdir() if not path.name.startswith("."))
    entries += sorted(path for path in run.checkpoints.glob("*") if path.is_dir())
    found: list[dict[str, Any]] = []
    for path in entries:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = 0
        for file in files:
            try:
                size += file.stat().st_size
            except OSError:
                continue  # removed since
        if files:
            name = path.relative_to(run.path).as_posix() + ("/" if path.is_dir() else "")
            found.append({"name": redactor.shown(name), "files": len(files), "size": size})
    return found


def _shown_tree(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.shown(value)
    if isinstance(value, Mapping):
        return {str(key): _shown_tree(item, redactor) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_shown_tree(item, redactor) for item in cast("list[Any]", value)]
    return value


def _clock_text(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else ""
