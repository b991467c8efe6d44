"""Every entry once more: its facts against the architecture, and a true run of its miniature against the criteria."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from oxrl_core.api.configs import load_checked
from oxrl_core.config.registry import entry_of_slug, model_slugs
from oxrl_core.errors import ConfigError, OxrlError
from oxrl_core.runs.machine.environment import environment_of_now
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.views import View
from oxrl_core.suggest import did_you_mean
from swarm.onboard.criteria import Criterion, Verification, failed, judge, reloaded
from swarm.onboard.miniature import miniature_config, miniature_wishes
from swarm.registry.evidence import Evidence, check_evidence, entry_hash, write_evidence
from swarm.registry.facts import check_facts

KIND = "verify"
ROOT = Path(__file__).resolve().parents[2]


class EntryView(View):
    """One entry, verified or not."""

    slug: str
    verified: bool
    level: str = "facts"
    """facts: nothing was run; miniature: the miniature was trained."""
    failed: list[str] = Field(default_factory=list[str])
    """Criteria that are not met."""
    criteria: list[Criterion] = Field(default_factory=list[Criterion])
    seconds: float = 0.0
    run_id: str = ""
    """Run of the miniature; kept where a criterion is not met."""
    evidence: str = ""
    """The file that was written."""


class RegistryView(View):
    """Entries that were verified."""

    entries: list[EntryView]
    verified: int
    of: int
    seconds: float
    next: str = ""


def verify_registry(
    slugs: Sequence[str] = (),
    *,
    workers: int = 1,
    facts_only: bool = False,
    record: bool = False,
    home: Path | None = None,
    say: Callable[[EntryView], None] | None = None,
) -> RegistryView:
    """Every entry, or those that are named. `record` keeps the evidence; else what is kept must be about them."""
    began, home = time.monotonic(), home or oxrl_home()
    known = model_slugs()
    for slug in slugs:
        if slug not in known:
            near = did_you_mean(slug, known)
            raise ConfigError(f"the registry has no entry {slug!r}.{near}", "slug", "oxrl registry verify --all")
    entries = {slug: entry_of_slug(slug) or {} for slug in slugs or known}
    found = check_facts(entries)
    if not record:
        for slug, entry in entries.items():
            found[slug].append(check_evidence(slug, entry))
    views: dict[str, EntryView] = {}

    def finish(view: EntryView) -> None:
        views[view.slug] = view
        if say is not None:
            say(view)

    runnable = [slug for slug in entries if not facts_only and not failed(found[slug])]
    for slug in entries:
        if slug not in runnable:
            finish(_view(slug, found[slug]))
    for slug, run, record_of_pool in _run_all(runnable, home, workers):
        if isinstance(run, OxrlError):
            refused = Criterion(name="config", passed=False, value=run.what, limit="accepted", evidence=run.where)
            finish(_view(slug, [*found[slug], refused]))
            continue
        criteria = [*found[slug], *_judged(run, record_of_pool)]
        view = _view(slug, criteria, "miniature", float(record_of_pool["seconds"]), run.run_id)
        if record:
            view.evidence = str(write_evidence(slug, _evidence(slug, entries[slug], run, view)))
        if view.verified:
            shutil.rmtree(run.path)  # made here, and what it proves is in the criteria
            view.run_id = ""
        finish(view)
    rows = [views[slug] for slug in entries]
    good = sum(view.verified for view in rows)
    broken = next((view for view in rows if not view.verified), None)
    step = f"mend registry/models/{broken.slug}.yaml: {broken.failed[0]}" if broken else ""
    seconds = round(time.monotonic() - began, 1)
    return RegistryView(entries=rows, verified=good, of=len(rows), seconds=seconds, next=step)


def _view(slug: str, criteria: list[Criterion], level: str = "facts", seconds: float = 0.0, run: str = "") -> EntryView:
    missed = failed(criteria)
    return EntryView(
        slug=slug, verified=not missed, level=level, failed=missed, criteria=criteria, seconds=seconds, run_id=run
    )


def _run_all(
    slugs: Sequence[str], home: Path, workers: int
) -> Iterator[tuple[str, RunDir | OxrlError, dict[str, Any]]]:
    """The run of each miniature with what the pool of drivers said about it, as they end."""
    runs: dict[str, tuple[str, RunDir]] = {}
    for slug in slugs:
        try:
            text = miniature_config(f"miniature:{slug}", "", home)
            wishes = [*miniature_wishes(""), "report.sinks=[]", f"run.name=verify-{slug[:60]}"]
            run = RunDir.create(home, load_checked(text, wishes), KIND)
        except OxrlError as error:
            yield slug, error, {}
            continue
        runs[str(run.path)] = (slug, run)
    if not runs:
        return
    command = [sys.executable, "-P", "-m", "oxrl_core.driver_pool", "--at-once", str(workers)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    pool = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip
    assert pool.stdin is not None and pool.stdout is not None
    try:
        pool.stdin.write("".join(f"{one}\n" for one in runs))
        pool.stdin.close()
        for line in pool.stdout:  # each run has its deadline in the pool, which then ends
            said = cast("dict[str, Any]", json.loads(line))
            slug, run = runs.pop(said["run_dir"])
            yield slug, run, said
    finally:
        pool.terminate()
        pool.wait()
    for slug, run in runs.values():
        yield slug, run, {"exit_code": None, "seconds": 0.0, "reload": None}


def _judged(run: RunDir, said: dict[str, Any]) -> list[Criterion]:
    """The criteria of an onboarding on the run, and how its driver ended."""
    error = run.status().error or {}
    code = said["exit_code"]
    value = f"exit code {code}" + (f": {error.get('what', '')}"[:300] if code else "")
    driver = Criterion(name="driver", passed=code == 0, value=value, limit="exit code 0", evidence="logs/driver.log")
    has_began = (run.path / "model").is_dir()
    return [driver, *judge(run, reload=False), *reloaded(said["reload"] or {}, "not loaded", compares=has_began)]


def _evidence(slug: str, entry: dict[str, Any], run: RunDir, view: EntryView) -> Evidence:
    environment = environment_of_now()
    verification = Verification(
        model=f"miniature:{slug}",
        level="miniature",
        verified=view.verified,
        run_id=run.run_id,
        config_hash=str(run.spec().get("config_hash", "")),
        criteria=view.criteria,
        versions={"python": str(environment["python"]), **environment["packages"]},
        wall_seconds=view.seconds,
    )
    return Evidence(**verification.model_dump(), entry_hash=entry_hash(entry))
