"""`oxrl data`: rows as a model reads them, what is wrong with them, and rows in one form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import group

if TYPE_CHECKING:
    from oxrl_core.runs.data import DataInspection, DataProblems, ShownExample, ShownRow

data_app = group("data", "Data: look at rows, find bad ones, write them in one form.")

NameArgument = Annotated[
    str, typer.Argument(metavar="CONFIG|DATASET", help="A YAML file, a recipe, a dataset (oxrl datasets), or a file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value]...", help="Of a dataset: split=test limit=9; of a config: a.b=c."),
]
LONGEST_FIELD = 400  # characters of a field that is shown without a model


@command(data_app, "inspect")
def data_inspect(
    out: Output,
    name: NameArgument,
    settings: Settings = None,
    row: Annotated[int | None, typer.Option(min=0, help="Only this row, from 0; none: the first three.")] = None,
    model: Annotated[str, typer.Option(help="Show rows as this model reads them (a config names its own).")] = "",
    index: Annotated[int, typer.Option("--dataset", min=0, help="Which of the config's training datasets.")] = 0,
) -> None:
    """Rows as the model will read them, with what is trained on marked; counts, columns and lengths."""
    from oxrl_core.runs.data import inspect_data

    view = inspect_data(name, settings or [], row=row, model=model, index=index)
    if out.format is Format.agent:
        out.write("\n".join(_plain(view)))
    else:
        out.show(view, _draw)


@command(data_app, "validate")
def data_validate(
    out: Output,
    name: NameArgument,
    settings: Settings = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
) -> None:
    """List every row that cannot be used: file, line, reason. Exit code 1 where there is one."""
    from oxrl_core.runs.data import validate_data

    problems = validate_data(name, settings or [])
    if strict:
        problems = problems.model_copy(update={"items": problems.items[:1]})
    out.show(problems, _draw_problems)
    if problems.num_bad:
        raise typer.Exit(1)


@command(data_app, "prepare")
def data_prepare(
    out: Output,
    name: Annotated[str, typer.Argument(help="A dataset (oxrl datasets), a file or folder, or hub:<id>.")],
    settings: Settings = None,
    to: Annotated[Path, typer.Option("--to", help="The .jsonl file to write.")] = Path("rows.jsonl"),
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be read.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the rows of a dataset in one form: a local copy that any machine reads, row by row where it is large."""
    from oxrl_core.runs.data import prepare_data

    out.show(prepare_data(name, to, settings or [], strict=strict, force=force))


def _plain(view: DataInspection) -> list[str]:
    """The inspection as text, what is trained on between [[ and ]]."""
    lines = [*_head(view)]
    for row in view.rows:
        lines.append(f"--- {row.id}" + (f": {row.problem}" if row.problem else ""))
        for example in row.examples:
            text = "".join(f"[[{span.text}]]" if span.trained else span.text for span in example.spans)
            lines.append(f"{_counts(example)}: {text}")
        if not row.examples:
            lines += _fields(row)
    return lines


def _draw(view: DataInspection) -> Iterable[Any]:
    """The inspection on a terminal: what is trained on in green."""
    from rich.text import Text

    for line in _head(view):
        yield Text(line)
    for row in view.rows:
        yield Text(f"\n{row.id}" + (f": {row.problem}" if row.problem else ""), "bold")
        for example in row.examples:
            yield Text(_counts(example), "dim")
            yield Text.assemble(*((span.text, "green" if span.trained else "") for span in example.spans))
        if not row.examples:
            for line in _fields(row):
                yield Text(line)
    if view.model:
        yield Text.assemble("\n", ("green: trained on", "green"))


def _head(view: DataInspection) -> list[str]:
    columns = ", ".join(f"{role} from {column!r}" for role, column in view.columns.items())
    bad = f", {view.num_bad} bad ones left out" if view.num_bad else ""
    lines = [f"{view.name} ({view.split}): {view.num_rows} rows{bad}; {columns}"]
    lines += [
        f"{one.what} of the first {one.rows}: {one.shortest} to {one.longest}, median {one.median}, p90 {one.p90}"
        for one in view.lengths
    ]
    lines += [f"bad: {bad_row.where}: {bad_row.reason}" for bad_row in view.first_bad]
    if view.notes:
        lines.append("rendering: " + ", ".join(f"{kind} {count}" for kind, count in view.notes.items()))
    if not view.model:
        lines.append("as the model reads them: --model PATH")
    return lines


def _counts(example: ShownExample) -> str:
    return f"{example.tokens} tokens, {example.trained} trained on"


def _fields(row: ShownRow) -> list[str]:
    shown = [(name, value if isinstance(value, str) else repr(value)) for name, value in row.fields.items()]
    return [
        f"  {name}: {text if len(text) <= LONGEST_FIELD else text[:LONGEST_FIELD] + ' ...'}" for name, text in shown
    ]


def _draw_problems(problems: DataProblems) -> Iterable[Any]:
    from rich.text import Text

    for item in problems.items:
        yield Text.assemble((item.where, "bold"), f": {item.reason}", (f"  ({item.fix})" if item.fix else "", "dim"))
    yield Text(
        f"{problems.num_rows} rows can be used, {problems.num_bad} cannot", "red" if problems.num_bad else "green"
    )
