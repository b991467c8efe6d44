"""The commands. Each is a few lines: it calls an operation and shows what that returned. Heavy imports are inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oxrl_core.cli.command import FormatOption, JsonOption, command
from oxrl_core.cli.data import data_app
from oxrl_core.cli.render import Format, Output

if TYPE_CHECKING:
    from oxrl_core.runs.views import LaunchResult

# rich help costs 0.25 s at every call of --help; plain help is as readable.
app = typer.Typer(
    help="Post-training of language models, for people and AI agents.",
    epilog="Start: oxrl doctor, oxrl train demo. Coding agents: oxrl agent-docs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
run_app = typer.Typer(help="Runs: launch, watch, read, stop.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(help="Configurations: check, explain, describe.", no_args_is_help=True, rich_markup_mode=None)
examples_app = typer.Typer(help="Recipes to start from.", rich_markup_mode=None, invoke_without_command=True)
bench_app = typer.Typer(help="Measurements of oxRL itself.", no_args_is_help=True, rich_markup_mode=None)
mcp_app = typer.Typer(help="The MCP server for AI agents.", no_args_is_help=True, rich_markup_mode=None)

ConfigArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe (oxrl examples).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[a.b=c]...", help="Values that win over the file.")]
RunArgument = Annotated[str, typer.Argument(help="Run id, its beginning, a name, or `latest`.")]
KeyOption = Annotated[str, typer.Option(help="The same key and config launch once, however often this is called.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what it takes; start nothing.")]


def main(argv: list[str] | None = None) -> int:
    """The exit code of the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore  # a latin-1 terminal must not end a command
    try:
        app(argv, prog_name="oxrl")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    return 0


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"oxrl {version('oxrl')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Post-training of language models, for people and AI agents."""


# ---------------------------------------------------------------- train


@command(app, "train")
def train(
    out: Output,
    config: ConfigArgument,
    overrides: Overrides = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Launch, print the run id, and leave.")] = False,
    key: KeyOption = "",
    dry_run: DryRunOption = False,
) -> None:
    """Launch a run and watch it. Ctrl-C asks whether to stop it."""
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    launched = api.launch_run(config, overrides or [], key=key, dry_run=dry_run)
    if detach or dry_run:
        _show_launch(out, launched)
        return
    out.note(f"run {launched.run_id} ({launched.path})")
    view = follow_run(out, launched.run_id, on_interrupt="ask")
    _show_run(out, view)
    if view.has_ended and view.state != "finished":
        raise typer.Exit(exit_code_of(view))


def _show_launch(out: Output, launched: LaunchResult) -> None:
    from oxrl_core.cli.tables import draw_launch

    if launched.plan is not None and out.format is not Format.json:  # `config explain` shows the whole configuration
        plan = launched.plan.model_copy(update={"config_yaml": ""})
        launched = launched.model_copy(update={"plan": plan})
    out.show(launched, draw_launch)
    if launched.plan is not None and not launched.plan.ok:
        raise typer.Exit(2)


def _show_run(out: Output, view: object) -> None:
    from oxrl_core.cli.tables import draw_run
    from oxrl_core.runs.views import RunView

    assert isinstance(view, RunView)
    out.show(view, draw_run)


# ---------------------------------------------------------------- run


@command(run_app, "launch")
def run_launch(
    out: Output, config: ConfigArgument, overrides: Overrides = None, key: KeyOption = "", dry_run: DryRunOption = False
) -> None:
    """Launch a run that goes on by itself, and leave."""
    from oxrl_core import api

    _show_launch(out, api.launch_run(config, overrides or [], key=key, dry_run=dry_run))


@command(run_app, "list")
def run_list(
    out: Output,
    state: Annotated[str, typer.Option(help="One state, or `active` for runs that have not ended.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most runs to show.")] = 20,
    cursor: Annotated[str, typer.Option(help="Go on after this run id.")] = "",
) -> None:
    """Runs, newest first."""
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_runs

    out.show(api.list_runs(state=state, limit=limit, cursor=cursor), draw_runs)


@command(run_app, "show")
def run_show(out: Output, run_id: RunArgument = "latest") -> None:
    """One run now: state, step, newest metrics, alerts, error."""
    from oxrl_core import api

    _show_run(out, api.get_run(run_id))


@command(run_app, "watch")
def run_watch(out: Output, run_id: RunArgument = "latest") -> None:
    """Follow a run until it ends. Ctrl-C leaves it running. Exit code: that of the run."""
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    view = follow_run(out, api.get_run(run_id).run_id, on_interrupt="leave")
    _show_run(out, view)
    if view.has_ended and view.state != "finished":
        raise typer.Exit(exit_code_of(view))


@command(run_app, "stop")
def run_stop(
    out: Output,
    run_id: Annotated[str, typer.Argument(help="Run id, its beginning, or a name.")],
    reason: Annotated[str, typer.Option(help="Kept in the run's record.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Give it no time to save a checkpoint.")] = False,
) -> None:
    """Stop a run: it saves a checkpoint and leaves, and no process stays behind."""
    from oxrl_core import api

    _show_run(out, api.stop_run(run_id, reason=reason or "oxrl run stop", force=force))


@command(run_app, "logs")
def run_logs(
    out: Output,
    run_id: RunArgument = "latest",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines from the end.")] = 100,
    grep: Annotated[str, typer.Option(help="Only lines that hold this text.")] = "",
    name: Annotated[str, typer.Option("--log", help="driver, supervisor, or a worker's log.")] = "driver",
    cursor: Annotated[int | None, typer.Option(help="Byte offset of an earlier call: the lines after it.")] = None,
) -> None:
    """The log of a run."""
    from oxrl_core import api

    view = api.read_logs(run_id, cursor=cursor, lines=lines, grep=grep, name=name)
    if out.format is Format.json:
        out.show(view)
        return
    # A log is text: it is shown as it is, so that grep and head work on it.
    out.write("\n".join(view.lines))
    if not view.lines:
        out.note(f"no lines yet in log {view.name} of {view.run_id}; logs: {', '.join(view.names) or 'none'}")


@command(run_app, "metrics")
def run_metrics(
    out: Output,
    run_id: RunArgument = "latest",
    names: Annotated[list[str] | None, typer.Argument(help="Metrics, as reward/mean; none: all.")] = None,
    from_step: Annotated[int, typer.Option(min=0, help="First step.")] = 0,
    max_points: Annotated[int, typer.Option(min=2, help="Thin the rows evenly to this many.")] = 200,
) -> None:
    """Metrics of a run by step."""
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_metrics

    out.show(api.get_metrics(run_id, names or [], from_step=from_step, max_points=max_points), draw_metrics)


# ---------------------------------------------------------------- config


@command(config_app, "validate")
def config_validate(out: Output, config: ConfigArgument, overrides: Overrides = None) -> None:
    """Check a configuration and what it needs (files, columns, GPUs, disk) before anything is loaded."""
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_config_report

    report = api.validate_config(config, overrides or [])
    # The resolved configuration is long; `config explain` shows it.
    out.show(report if out.format is Format.json else report.model_copy(update={"config_yaml": ""}), draw_config_report)
    if not report.ok:
        raise typer.Exit(2)


@command(config_app, "explain")
def config_explain(
    out: Output,
    config: ConfigArgument,
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
) -> None:
    """Every value with the layer that set it, and the batch arithmetic in words."""
    from oxrl_core.cli.tables import draw_explanation
    from oxrl_core.config.explain import explain
    from oxrl_core.config.load import load_config

    explanation = explain(load_config(config, overrides or []))
    if changed:
        rows = [row for row in explanation.rows if row.layer != "default"]
        explanation = explanation.model_copy(update={"rows": rows})
    if out.format is Format.agent:  # what a key means is long, and stands in `config schema`
        rows = [row.model_copy(update={"description": ""}) for row in explanation.rows]
        explanation = explanation.model_copy(update={"rows": rows})
    out.show(explanation, draw_explanation)


@command(config_app, "schema")
def config_schema(
    out: Output,
    key: Annotated[str, typer.Argument(help="A section or key, as train or train.lr; none: everything.")] = "",
) -> None:
    """Every configuration key with type, default and meaning (--json: the JSON schema)."""
    from oxrl_core.cli.catalogues import config_fields, config_json_schema
    from oxrl_core.cli.tables import draw_fields

    if out.format is Format.json and not key:
        out.json(config_json_schema())
    else:
        out.show(config_fields(key), draw_fields)


# ---------------------------------------------------------------- doctor


@command(app, "doctor")
def doctor(
    out: Output,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also run one real step of each engine (about a minute).")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend, saying what is done.")] = False,
) -> None:
    """What this machine has and lacks, each with its fix. Exit code 1 where something needed is broken."""
    from oxrl_core.cli.tables import draw_environment
    from oxrl_core.runs.doctor import apply_remedy, check_environment, remedies

    if fix:
        for item in remedies(check_environment()):
            out.note(f"{item.name} ({item.value}): {item.fix}")
            out.note(f"  {apply_remedy(item)}")
    if deep:
        out.note("running one real step of every engine, about a minute ...")
    report = check_environment(deep)
    out.show(report, draw_environment)
    if not report.ok:
        raise typer.Exit(1)


# ---------------------------------------------------------------- bench


@command(bench_app, "learn")
def bench_learn(
    out: Output,
    algorithms: Annotated[list[str] | None, typer.Argument(help="Algorithms; none: the 18 that must learn.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds 0, 1, ...")] = 3,
    flip: Annotated[bool, typer.Option("--flip", help="Turn the sign of every loss: nothing may learn then.")] = False,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds that one run may take, with its start-up.")] = 600,
) -> None:
    """Train with every algorithm on this machine's CPU and measure whether what it promises got better.

    Exit code 1 where one did not improve by more than 3 standard errors, or with --flip where one improved.
    """
    from oxrl_core.cli.bench import run_bench
    from oxrl_core.cli.tables import draw_learning

    report = run_bench(algorithms or [], seeds=seeds, flip=flip, deadline_seconds=deadline, tell=out.note)
    shown = report if out.format is Format.json else report.model_copy(update={"outcomes": []})
    out.show(shown, draw_learning)
    if not report.ok:
        raise typer.Exit(1)


# ---------------------------------------------------------------- rewards


@command(app, "score")
def score(
    out: Output,
    file: Annotated[str, typer.Argument(help="JSONL; `-`: standard input.")] = "-",
    reward: Annotated[str, typer.Option(help="A reward (oxrl rewards), or your own as in a configuration.")] = "",
    answer_key: Annotated[str, typer.Option(help="Where a row holds its reference answer.")] = "answer",
    completion_key: Annotated[str, typer.Option(help="Where a row holds the completion.")] = "completion",
    param: Annotated[list[str] | None, typer.Option(help="A parameter of the reward, as letters=ABCD.")] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for the verdicts of up to 64 rows.")] = 30.0,
) -> None:
    """Score completions with a reward: JSONL in (completion, answer, prompt, ...), JSONL out, as in training.

    Every line gives one line: its number or id, score and status (ok, no_answer, timeout, error), parts and detail.
    Exit code 1 where a line has no verdict.
    """
    from oxrl_core.cli.score import score_lines

    keys = (answer_key, completion_key)
    if not score_lines(out, file, reward=reward, params=param or [], keys=keys, timeout_seconds=timeout):
        raise typer.Exit(1)


# ---------------------------------------------------------------- catalogues


@command(app, "algorithms")
def algorithms(out: Output) -> None:
    """Losses that a configuration can name, with their parameters."""
    from oxrl_core.cli.catalogues import list_algorithms
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_algorithms(), draw_catalogue)


@command(app, "rewards")
def rewards(out: Output) -> None:
    """Rewards that a configuration can name."""
    from oxrl_core.cli.catalogues import list_rewards
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_rewards(), draw_catalogue)


@command(app, "datasets")
def datasets(out: Output) -> None:
    """Datasets that are built in; files and hub datasets need no entry."""
    from oxrl_core.cli.catalogues import list_datasets
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_datasets(), draw_catalogue)


AllOption = Annotated[bool, typer.Option("--all", help="Also the recipes of the contributed losses.")]


@examples_app.callback()
def examples(
    context: typer.Context,
    show_all: AllOption = False,
    output_format: FormatOption = Format.auto,
    as_json: JsonOption = False,
) -> None:
    """Recipes to start from (default: list)."""
    if context.invoked_subcommand is None:
        options = ["--all"] if show_all else []
        app(["examples", "list", *options, "--format", "json" if as_json else output_format], prog_name="oxrl")


@command(examples_app, "list")
def examples_list(out: Output, show_all: AllOption = False) -> None:
    """Recipes with what they do."""
    from oxrl_core.cli.catalogues import list_examples
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_examples(with_others=show_all), draw_catalogue)


@command(examples_app, "show")
def examples_show(out: Output, name: Annotated[str, typer.Argument(help="Name of a recipe.")]) -> None:
    """The YAML of a recipe."""
    from oxrl_core.cli.catalogues import find_example

    out.text(find_example(name).read_text(encoding="utf-8"))


@command(examples_app, "copy")
def examples_copy(
    out: Output,
    name: Annotated[str, typer.Argument(help="Name of a recipe.")],
    target: Annotated[Path | None, typer.Argument(help="File or folder; none: NAME.yaml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a recipe to a file of your own."""
    from oxrl_core.cli.catalogues import copy_example

    path = copy_example(name, target, force=force)
    out.note(f"next: edit it, then: oxrl train {path}")
    out.text(str(path))


# ---------------------------------------------------------------- agents


@command(app, "agent-docs")
def agent_docs(
    out: Output, topic: Annotated[str, typer.Argument(help="A topic; none: the overview.")] = "overview"
) -> None:
    """How to work with oxRL, written for coding agents."""
    from oxrl_core.cli.catalogues import read_topic

    out.text(read_topic(topic))


@command(mcp_app, "config")
def mcp_config(
    out: Output, client: Annotated[str, typer.Option(help="claude or gemini.", metavar="claude|gemini")] = "claude"
) -> None:
    """The exact JSON that makes an agent's program start the MCP server of this environment."""
    from oxrl_core.cli.catalogues import mcp_settings

    settings = mcp_settings(client)
    out.write(settings.json)  # exactly this, in every format: it is made to go into a file
    out.note(f"goes into {settings.file} ({settings.client})")


app.add_typer(run_app, name="run")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(examples_app, name="examples")
app.add_typer(bench_app, name="bench")
app.add_typer(mcp_app, name="mcp")
