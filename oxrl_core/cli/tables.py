"""Results as a person sees them on a terminal: tables and colours. rich is imported when something is drawn."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from oxrl_core.cli.text import cell_text, command_after, duration, filled_columns, is_filled, number
from oxrl_core.sparkline import sparkline

if TYPE_CHECKING:
    from oxrl_core.cli.bench import LearnReport
    from oxrl_core.cli.results import Catalogue, FieldList
    from oxrl_core.config.explain import Explanation
    from oxrl_core.runs.views import ConfigReport, EnvironmentReport, LaunchResult, MetricsView, RunList, RunView

MAX_WIDTH = 120  # longer lines are hard to read, however wide the terminal
STATE_STYLES = {
    "finished": "green",
    **dict.fromkeys(("running", "starting"), "cyan"),
    **dict.fromkeys(("stopping", "stopped", "stalled", "needs_input", "warning"), "yellow"),
    **dict.fromkeys(("failed", "lost", "orphaned", "error"), "red"),
}


def width() -> int:
    """Columns to fill: the terminal's, or 80 where there is none."""
    return min(shutil.get_terminal_size((80, 24)).columns, MAX_WIDTH)


def drawn(parts: Iterable[Any], *, color: bool | None = None) -> str:
    """What rich makes of the parts, as text with colours where a terminal shows them."""
    from rich.console import Console

    wanted = sys.stdout.isatty() if color is None else color
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width(), force_terminal=wanted, no_color=True if os.environ.get("NO_COLOR") else None,
        highlight=False, soft_wrap=False, legacy_windows=False,
    )  # fmt: skip
    for part in parts:
        console.print(part, markup=False)
    # Trailing blanks of tables double the size of a copied screen.
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def table(*columns: str, title: str = "", right: Sequence[str] = (), narrow: Sequence[str] = ()) -> Any:
    """An empty table in the house style."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in narrow
        )
    return made


def styled(text: str, style: str = "") -> Any:
    """Text that is shown as it is: brackets in it are no markup."""
    from rich.text import Text

    return Text(text, style=style)


def pairs(rows: Iterable[tuple[str, Any]]) -> Any:
    """Names and values in two columns."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, styled(value) if isinstance(value, str) else value)
    return grid


def draw_anything(value: Mapping[str, Any]) -> Iterable[Any]:
    """Any result for a person: its values, then its lists as tables."""
    if "columns" in value and "rows" in value:
        made = table(*value["columns"], right=value["columns"])
        for row in value["rows"]:
            made.add_row(*(styled(number(cell)) for cell in row))
        yield made
        value = {name: item for name, item in value.items() if name not in ("columns", "rows")}
    plain = [(name, item) for name, item in value.items() if not isinstance(item, list) and is_filled(item)]
    if plain:
        yield pairs((name.replace("_", " "), cell_text(item)) for name, item in plain)
    for name, item in value.items():
        if not isinstance(item, list) or not item:
            continue
        items = cast("list[Any]", item)
        if all(isinstance(entry, dict) for entry in items):
            rows = cast("list[dict[str, Any]]", items)
            columns = filled_columns(rows)
            made = table(*columns, title=name.replace("_", " "))
            for row in rows:
                made.add_row(*(styled(cell_text(row.get(column))) for column in columns))
            yield made
        else:
            yield styled(name.replace("_", " "), "bold")
            yield from (styled(f"  {entry}") for entry in items)


def next_line(text: str) -> Any:
    """The next step, set off from the result."""
    from rich.text import Text

    return Text.assemble(("next  ", "bold"), text)


def state_text(state: str) -> Any:
    """A state in its colour."""
    return styled(state, STATE_STYLES.get(state, ""))


def draw_environment(report: EnvironmentReport) -> Iterable[Any]:
    """The doctor's report: every finding with a mark, what is wrong with its fix."""
    from rich.table import Table

    for group in dict.fromkeys(item.group for item in report.items):
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, min_width=16)
        grid.add_column(overflow="fold")
        for item in (item for item in report.items if item.group == group):
            mark, style = ("✔", "green") if item.ok else ("✘", "bold red") if item.needed else ("!", "yellow")
            grid.add_row(styled(mark, style), item.name, styled(item.value))
            if item.fix:
                grid.add_row("", "", styled(f"fix: {item.fix}", style))
        yield styled(group, "bold")
        yield grid
        yield ""
    broken = sum(item.needed and not item.ok for item in report.items)
    if broken:
        yield styled(f"{broken} thing(s) that training needs are broken.", "bold red")
    else:
        yield styled(f"Ready to train (profile {report.profile}).", "bold green")
    yield next_line(report.next)


def draw_run(view: RunView) -> Iterable[Any]:
    """One run: where it stands, its newest metrics, its alerts, and what to do next."""
    from rich.text import Text

    steps = f"{view.step}" + (f" of {view.total_steps}" if view.total_steps else "")
    if view.progress is not None:
        steps += f" ({view.progress:.0%})"
    rows: list[tuple[str, Any]] = [
        ("run", view.run_id or "(not launched)"),
        (
            "state",
            Text.assemble(state_text(view.state), f", {view.phase}" if view.phase not in ("", view.state) else ""),
        ),
        ("step", steps),
    ]
    if view.elapsed_seconds is not None:
        left = f", {duration(view.eta_seconds)} left" if view.eta_seconds is not None else ""
        rows.append(("time", duration(view.elapsed_seconds) + left))
    if view.stop_reason:
        rows.append(("stopped", view.stop_reason))
    if view.path:
        rows.append(("folder", view.path))
    if view.model:
        rows.append(("model", view.model))
    yield pairs(rows)
    measured = [(name, value) for name, value in view.metrics.items() if name != "step"]
    if measured:
        yield ""
        yield pairs((name, number(value)) for name, value in measured)
    for alert in view.alerts:
        yield Text.assemble((f"{alert.level} ", STATE_STYLES[alert.level]), f"{alert.code}: {alert.message}")
    if view.error is not None:
        yield ""
        where = f"{view.error.where}: " if view.error.where else ""
        yield Text.assemble((f"{view.error.code} ", "bold red"), where + view.error.what)
        if view.error.next:
            yield next_line(view.error.next)
    if view.log_tail:
        yield styled("last lines of the log", "bold")
        yield from (styled(f"  {line}", "dim") for line in view.log_tail[-12:])
    if view.next and view.error is None:
        yield next_line(command_after({"next": view.next, "run_id": view.run_id}))


def draw_launch(result: LaunchResult) -> Iterable[Any]:
    """A launched run, or the plan of a dry run."""
    if result.plan is not None:
        yield from draw_config_report(result.plan)
        return
    yield from draw_run(result)
    if not result.created:
        yield styled("This run was launched before with the same key; nothing new was started.", "yellow")


def draw_runs(listing: RunList) -> Iterable[Any]:
    """Runs as a table, newest first."""
    if not listing.runs:
        yield styled("No runs here yet." if not listing.total else f"None of {listing.total} runs is like that.")
        yield next_line("oxrl train demo" if not listing.total else "oxrl run list")
        return
    made = table(
        "run",
        "state",
        "step",
        "reward / loss",
        "time",
        right=("step", "reward / loss", "time"),
        narrow=("run", "state"),
    )
    for view in listing.runs:
        value = view.metrics.get("reward/mean", view.metrics.get("loss"))
        steps = f"{view.step}/{view.total_steps}" if view.total_steps else str(view.step)
        made.add_row(view.run_id, state_text(view.state), steps, number(value), duration(view.elapsed_seconds))
    yield made
    if listing.next_cursor:
        yield next_line(f"oxrl run list --cursor {listing.next_cursor} ({listing.total} in all)")


def draw_metrics(view: MetricsView) -> Iterable[Any]:
    """First, last, least, most and the course of every metric."""
    if not view.rows:
        yield styled("No metrics yet.")
        yield next_line(f"oxrl run watch {view.run_id}")
        return
    numbers = ("first", "last", "min", "max")
    made = table("metric", *numbers, "course", right=numbers, narrow=("metric", *numbers, "course"))
    for index, name in enumerate(view.columns):
        if name in ("step", "time"):  # a clock reading has no course worth seeing
            continue
        summary = view.summary[name]
        # A line that never moves would only look like one that does.
        moves = summary.min != summary.max
        course = sparkline([row[index] for row in view.rows], max(6, width() - 70)) if moves else ""
        made.add_row(
            name, *(number(value) for value in (summary.first, summary.last, summary.min, summary.max)), course
        )
    yield made
    yield styled(f"{view.total_rows} rows, steps {number(view.rows[0][0])} to {number(view.rows[-1][0])}", "dim")


def draw_config_report(report: ConfigReport) -> Iterable[Any]:
    """Whether a configuration can run, what it takes, and every problem with its next step."""
    from rich.padding import Padding
    from rich.text import Text

    if report.name:
        yield pairs([("name", report.name), ("kind", report.kind), ("hash", report.config_hash)])
    for problem in report.problems:
        where = f"{problem.where}: " if problem.where else ""
        style = STATE_STYLES[problem.severity]
        yield Text.assemble((f"{problem.severity} ", f"bold {style}"), f"{where}{problem.what}")
        if problem.next:
            yield Text.assemble(("  next  ", "bold"), problem.next)
    for note in report.notes:
        yield Text.assemble(("note ", "dim"), note)
    if report.needs is not None:
        needs = report.needs
        takes = [f"{needs.gpus} GPU(s)"] if needs.gpus else [f"{needs.cpu_workers} CPU worker(s)"]
        takes += [f"{needs.memory_gib:.3g} GiB memory", f"{needs.disk_gib:.3g} GiB disk"]
        yield pairs([("takes", ", ".join(takes)), ("does", f"{needs.steps} steps over {needs.num_rows} rows")])
    yield from (Padding(styled(line, "dim"), (0, 0, 0, 2)) for line in report.arithmetic)
    yield styled("This can run.", "bold green") if report.ok else styled("This cannot run as it is.", "bold red")


def draw_explanation(explanation: Explanation) -> Iterable[Any]:
    """Every value with the layer that set it; values of the default layer are dim."""
    made = table("key", "value", "from", narrow=("key",))
    for row in explanation.rows:
        dim = "dim" if row.layer == "default" else ""
        made.add_row(styled(row.key, dim), styled(number(row.value), dim or "bold"), styled(row.layer, dim))
    yield made
    yield from (styled(line) for line in explanation.arithmetic)
    yield from (styled(f"note {note}", "dim") for note in explanation.notes)


def draw_catalogue(catalogue: Catalogue) -> Iterable[Any]:
    """Names with what they do."""
    made = table("name", "what", narrow=("name",))
    for entry in catalogue.entries:
        made.add_row(styled(entry.name, "bold"), styled(entry.summary))
        details = [f"{name} = {number(value)}" for name, value in entry.params.items()]
        if entry.kind:
            details.insert(0, entry.kind)
        if entry.paper:
            details.append(entry.paper)
        if entry.splits:
            details.append("splits: " + ", ".join(entry.splits))
        if details:
            made.add_row("", styled("; ".join(details), "dim"))
    yield made
    if catalogue.next:
        yield next_line(catalogue.next)


def draw_fields(view: FieldList) -> Iterable[Any]:
    """Configuration keys with type, default and meaning."""
    made = table("key", "default", "meaning", narrow=("key",))
    for field in view.fields:
        made.add_row(styled(field.key, "bold"), styled(field.default), styled(f"{field.description} ({field.type})"))
    yield made


def draw_learning(report: LearnReport) -> Iterable[Any]:
    """What every algorithm made better: before, after, the improvement in standard errors, and the verdict."""
    numbers = ("before", "after", "error", "s.e.", "cpu s")
    made = table("algorithm", "measure", *numbers, "learned", right=numbers, narrow=("algorithm", *numbers, "learned"))
    for row in report.rows:
        right = row.learned != report.flipped
        made.add_row(
            styled(row.algorithm, "bold"),
            styled(row.measure),
            *(styled(short(value)) for value in (row.before, row.after, row.standard_error, row.standard_errors)),
            f"{row.cpu_seconds:.0f}",
            styled(("yes" if row.learned else "no") + ("" if right else " !"), "green" if right else "bold red"),
        )
    yield made
    yield styled("error: standard error of the mean improvement; s.e.: improvement / error", "dim")
    for note in dict.fromkeys(f"{row.algorithm}: {row.note}" for row in report.rows if row.note):
        yield styled(note, "yellow")
    wrong = len({row.algorithm for row in report.rows if row.learned == report.flipped})
    if report.ok:
        done = "Nothing learns with its loss turned round." if report.flipped else "Every algorithm learns."
        yield styled(done, "bold green")
    elif report.flipped:
        yield styled(f"{wrong} algorithm(s) seem to learn with their loss turned round, or failed.", "bold red")
    else:
        yield styled(f"{wrong} algorithm(s) did not learn.", "bold red")


def short(value: float | None) -> str:
    """A measured value in five characters or so, or a dash."""
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"
