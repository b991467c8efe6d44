"""The supervised loop: take examples, learn from them, look at held-out ones. It yields one report a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oxrl_core.train.phases import enter_phase
from oxrl_core.train.report import Clock, StepReport
from oxrl_core.train.row_facts import facts_of_items, metrics_of_rows
from oxrl_core.types import Example, Metrics, Progress

if TYPE_CHECKING:
    from oxrl_core.build import SlParts

SWAPPED, LEAST_SWAPPED = 32, 8  # held-out rows whose answers are tried behind other prompts: most, least


def train_sl(parts: SlParts, progress: Progress) -> Iterator[StepReport]:
    """One report per optimizer step, and a first one for the evaluation before any; a resumed run has had that."""
    yield StepReport(progress.step, evaluate(parts) if progress.step == 0 else {})
    while progress.step < parts.total_steps:
        clock = Clock()
        rows = parts.stream.take(parts.config.train.rows_per_step)
        with clock("time/train"):
            items = parts.prepare(rows)
            metrics = parts.learner.train_on_examples(items)
        facts = facts_of_items(items, parts.end_ids) if parts.is_watched else []
        metrics |= metrics_of_rows(facts)
        progress.step += 1
        progress.num_tokens += int(metrics.get("num_tokens", 0))
        metrics |= clock.metrics(metrics.get("num_tokens", 0.0))
        if parts.is_evaluation_due(progress):
            metrics |= evaluate(parts)
        yield StepReport(progress.step, metrics, row_ids=parts.stream.taken, row_facts=facts)


def evaluate(parts: SlParts) -> Metrics:
    """Held-out loss, and what else the algorithm measures; nothing where there is no held-out data."""
    enter_phase("evaluating")
    if not parts.eval_examples:
        return {}
    return parts.learner.evaluate(parts.eval_examples) | prompt_gain(parts)


def prompt_gain(parts: SlParts) -> Metrics:
    """`eval/prompt_gain`: how much larger the loss of held-out answers is behind the prompts of others. About 0 means
    that prompts say nothing about answers: they were joined wrongly, or nothing of it is learned yet."""
    if not parts.config.tripwires.enabled:
        return {}
    pairs = swapped(parts.eval_examples[:SWAPPED])
    if len(pairs) < LEAST_SWAPPED:
        return {}
    right, wrong = (parts.learner.evaluate(list(examples))["eval/loss"] for examples in zip(*pairs, strict=True))
    return {"eval/prompt_gain": wrong - right}


def swapped(items: Sequence[Any]) -> list[tuple[Example, Example]]:
    """Examples of text with one prompt and one answer, each with the next one's answer behind its own prompt."""
    plain = [(one, one.completion_mask.index(True)) for one in items if _is_plain(one)]
    pairs: list[tuple[Example, Example]] = []
    for at, (one, start) in enumerate(plain):
        prompt = one.token_ids[:start]
        for other, cut in [*plain[at + 1 :], *plain[:at]]:
            answer = other.token_ids[cut:]
            if answer != one.token_ids[start:] and other.token_ids[:cut] != prompt:
                pairs.append((one, Example(prompt + answer, [False] * start + [True] * len(answer))))
                break
    return pairs


def _is_plain(item: Any) -> bool:
    """Whether it is an example of text whose mask is one stretch to its end, behind a prompt.

    The first token is never learned, nothing being before it: alone it is no prompt, but the beginning of a text.
    """
    if not isinstance(item, Example) or item.media or not any(item.completion_mask):
        return False
    start = item.completion_mask.index(True)
    return start > 1 and all(item.completion_mask[start:])
