"""`oxrl rollouts`: what a run drew and learned from, step by step, and one sample token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import RunArgument, app

if TYPE_CHECKING:
    from oxrl_core.runs.analysis.rollouts import RolloutsView, SampleView, TokenView

CELL_CHARACTERS = 60  # of a text in a table


class Color(StrEnum):
    advantage = "advantage"
    gap = "gap"
    logprob = "logprob"


@command(app, "rollouts")
def rollouts(
    out: Output,
    run_id: RunArgument = "latest",
    step: Annotated[str, typer.Option(help="N, N:M, or all; none: the last one recorded.")] = "",
    where: Annotated[str, typer.Option(help="As: reward=0 and (length>20 or finish_reason=length).")] = "",
    sort: Annotated[str, typer.Option(help="Column; the largest first.")] = "",
    ascending: Annotated[bool, typer.Option("--ascending", help="With --sort: the smallest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 20,
    columns: Annotated[str, typer.Option(help="Columns with commas between; part.NAME for a part of the reward.")] = "",
    show: Annotated[str, typer.Option(help="One sample: STEP/PROMPT_ID/SAMPLE, or PROMPT_ID/SAMPLE of --step.")] = "",
    color: Annotated[Color, typer.Option(help="With --show: what the tokens' colours say.")] = Color.advantage,
) -> None:
    """What a run drew and learned from, by step and condition; with --show one sample, token by token."""
    from oxrl_core import api

    if show:
        sample = api.show_rollout(run_id, show, step)
        if out.format is Format.agent:  # numbers beside the tokens
            visible = [token.model_copy(update={"text": _visible(token.text)}) for token in sample.tokens]
            sample = sample.model_copy(update={"tokens": visible})
        out.show(sample, lambda view: draw_sample(view, color))
        return
    names = [name.strip() for name in columns.split(",") if name.strip()]
    view = api.list_rollouts(run_id, step, where=where, sort=sort, ascending=ascending, limit=limit, columns=names)
    if out.format is not Format.json:
        rows = [[_short(cell) for cell in row] for row in view.rows]
        view = view.model_copy(update={"rows": rows})
    out.show(view, draw_rollouts)


def draw_rollouts(view: RolloutsView) -> Iterable[Any]:
    """The rows as a table, and how many more there are."""
    from oxrl_core.cli.tables import next_line, styled, table
    from oxrl_core.cli.text import number

    texts = ("prompt_id", "prompt", "completion", "detail", "status", "finish_reason", "row_id")
    made = table(*view.columns, right=[name for name in view.columns if name not in texts])
    for row in view.rows:
        made.add_row(*(styled(number(cell)) for cell in row))
    yield made
    shown = f", {len(view.rows)} shown" if len(view.rows) < view.total_rows else ""
    yield styled(f"{view.total_rows} of {view.looked_at} rows of step {view.steps}{shown}", "dim")
    if view.next:
        yield next_line(view.next)


def draw_sample(view: SampleView, color: Color) -> Iterable[Any]:
    """One sample: its numbers, its prompt, and its tokens in the colour of what they were worth."""
    from rich.text import Text

    from oxrl_core.cli.tables import pairs, styled
    from oxrl_core.cli.text import number

    facts = [(name, getattr(view, name)) for name in ("reward", "shaped_reward", "status", "finish_reason", "detail")]
    facts += [(f"part.{name}", value) for name, value in view.parts.items()]
    yield pairs([("sample", f"{view.step}/{view.prompt_id}/{view.sample}")])
    yield pairs((name.replace("_", " "), number(value)) for name, value in facts if value not in (None, ""))
    yield styled(view.prompt, "dim")
    read, meaning = READINGS[color]
    known = [abs(value) for token in view.tokens if (value := read(token)) is not None]
    largest = max(known, default=0.0)
    text = Text()
    for token in view.tokens:
        text.append(_visible(token.text), style=_style(read(token), largest, color))
    yield text
    if not known:
        yield styled(f"{color.value}: not measured for this sample", "yellow")
        return
    yield styled(f"{meaning}; strongest {largest:.3g}", "dim")


READINGS: dict[Color, tuple[Callable[[TokenView], float | None], str]] = {
    Color.advantage: (lambda token: token.advantage, "green: made likelier, red: made less likely"),
    Color.gap: (lambda token: token.gap, "red: trainer and sampler disagree"),
    Color.logprob: (lambda token: token.logprob, "red: the policy found the token unlikely"),
}


def _style(value: float | None, largest: float, color: Color) -> str:
    """A background as strong as the value is against the largest of the sample."""
    if value is None or largest == 0.0:
        return ""
    strength = round(200 * min(1.0, abs(value) / largest))
    if strength < 10:
        return ""
    is_good = color is Color.advantage and value > 0
    background = (0, strength, 0) if is_good else (strength, 0, 0)
    return "white on #{:02x}{:02x}{:02x}".format(*background)


def _visible(text: str) -> str:
    """The token with line ends that can be seen."""
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _short(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = _visible(cell).replace("|", "¦")
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 3] + "..."
