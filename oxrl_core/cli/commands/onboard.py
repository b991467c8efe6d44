"""`oxrl onboard`, `oxrl steer` and `oxrl verify`: from the name of a model to an entry with evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import KeyOption, RunArgument, app, show_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxrl_core.runs.status import Status
    from swarm.onboard.criteria import Verification
    from swarm.onboard.queue import QueueView

OverrideOption = Annotated[
    list[str] | None, typer.Option("--with", metavar="a.b=c", help="A value for its runs. Repeatable.")
]
MiniatureOption = Annotated[bool, typer.Option("--miniature", help="Only the miniature: random small weights.")]
TaskOption = Annotated[str, typer.Option(help="math, code, chat, preference, vision or audio.")]


@command(app, "onboard")
def onboard(
    out: Output,
    model: Annotated[str, typer.Argument(help="Hub id, folder, or miniature:<registry name>.")] = "",
    task: TaskOption = "",
    miniature: MiniatureOption = False,
    max_attempts: Annotated[int, typer.Option(help="Fixes that are tried without asking.")] = 3,
    max_hours: Annotated[float, typer.Option(help="Budget of hours; 0: none.")] = 0.0,
    overrides: OverrideOption = None,
    queue: Annotated[Path | None, typer.Option(help="A YAML list of models instead of one.")] = None,
    all_models: Annotated[bool, typer.Option("--all", help="Every model of the registry, at level miniature.")] = False,
    workers: Annotated[int, typer.Option(help="Models at once, of a queue.")] = 1,
    key: KeyOption = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Launch, print the run id, and leave.")] = False,
) -> None:
    """Onboard a model: scout, configure, train small, repair, train, verify, archive. Exit code 1: not verified."""
    from oxrl_core.cli.watch import exit_code_of, follow_run
    from oxrl_core.errors import ConfigError
    from oxrl_core.runs.rundir import RunDir
    from swarm.onboard import onboard_model
    from swarm.onboard.work import verification_of

    if (bool(model) + (queue is not None) + all_models) != 1:
        raise ConfigError("one model, --queue FILE or --all", "oxrl onboard", "oxrl onboard Qwen/Qwen3-0.6B")
    if not model:
        view = _queue(queue, workers, miniature or all_models)
        out.show(view, draw_queue)
        if any(result.state != "finished" for result in view.results):
            raise typer.Exit(1)
        return
    launched = onboard_model(
        model, task, max_attempts, max_hours, miniature_only=miniature, key=key, overrides=overrides or []
    )
    if detach:
        show_run(out, launched)
        return
    out.note(f"onboarding {launched.run_id} ({launched.path})")
    run = follow_run(out, launched.run_id, on_interrupt="ask")
    verification = verification_of(RunDir(launched.path)) if run.has_ended else None
    if verification is None:
        show_run(out, run)
    else:
        out.show(verification, draw_verification)
    if run.state != "finished":
        raise typer.Exit(exit_code_of(run) if run.has_ended else 0)


@command(app, "steer")
def steer(
    out: Output,
    run_id: RunArgument,
    action: Annotated[str, typer.Argument(help="retry or give_up.")],
    overrides: OverrideOption = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the journal.")] = "",
) -> None:
    """Decide for an onboarding that waits (state needs_input): go on with other values, or give it up."""
    from oxrl_core.errors import ConfigError
    from swarm.onboard import steer_onboarding

    if action == "retry" or action == "give_up":
        show_run(out, steer_onboarding(run_id, action, overrides or [], reason))
        return
    raise ConfigError(f"{action!r} is no way to go on", "action", "retry or give_up")


@command(app, "verify")
def verify(
    out: Output,
    model: Annotated[str, typer.Argument(help="Hub id, folder, or miniature:<registry name>.")],
    task: TaskOption = "",
) -> None:
    """Verify a model anew, at the level that this machine allows: every criterion with its evidence."""
    from oxrl_core.runs.rundir import oxrl_home
    from swarm.onboard.work import verify_model

    def say(status: Status) -> None:
        out.note(f"{status.state}: {status.phase}")

    view = verify_model(model, home=oxrl_home(), task=task, say=say)
    out.show(view, draw_verification)
    if not view.verified:
        raise typer.Exit(1)


def _queue(path: Path | None, workers: int, miniature: bool) -> QueueView:
    from oxrl_core.runs.rundir import oxrl_home
    from swarm.onboard.queue import Queue, read_items, registry_items
    from swarm.onboard.work import run_queue

    home = oxrl_home()
    name = path.stem if path is not None else "registry"
    Queue(home, name).add(read_items(path) if path is not None else registry_items())
    return run_queue(home, name, workers=workers, miniature_only=miniature)


def draw_verification(view: Verification) -> Iterable[Any]:
    """A verification for a person: the verdict, and each criterion with its number."""
    from oxrl_core.cli.tables import pairs, styled, table

    word, colour = ("verified", "green") if view.verified else ("not verified", "red")
    yield styled(f"{view.model}: {word} at level {view.level} (criteria {view.version})", colour)
    shown = table("criterion", "met", "value", "limit")
    for one in view.criteria:
        shown.add_row(*map(styled, (one.name, "yes" if one.passed else "no", one.value, one.limit)))
    yield shown
    rows = [("run", view.run_id), ("config", view.config_hash), ("seconds", f"{view.wall_seconds:g}")]
    if view.fixes:
        rows.append(("fixes", ", ".join(view.fixes)))
    yield pairs(rows)


def draw_queue(view: QueueView) -> Iterable[Any]:
    """A queue for a person: what came of each model."""
    from oxrl_core.cli.tables import state_text, styled, table

    shown = table("model", "state", "level", "seconds", "run", right=("seconds",))
    for one in view.results:
        cells = (styled(one.level), styled(f"{one.seconds:g}"), styled(one.run_id or one.error[:60]))
        shown.add_row(styled(one.model), state_text(one.state), *cells)
    yield shown
    if view.waiting or view.running:
        yield styled(f"{len(view.running)} running, {len(view.waiting)} waiting")
