"""`oxrl score`: rows come as JSONL, verdicts leave as JSONL, by the code that scores rollouts in training."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from oxrl_core.cli.render import Format, Output
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.rewards.base import Reward, close_workers, failed, get_reward, score_rollouts
from oxrl_core.types import Prompt, Rollout, Score

MOST_AT_ONCE = 64
BLOCK = 1 << 16
LONGEST_LINE = 64 << 20  # bytes; a file without line ends is no JSONL
SHOWN = 60  # characters of a detail on a screen
HAS_VERDICT = ("ok", "no_answer")

Numbered = tuple[int, str]  # the line's number, from 1, and its text


def score_lines(
    out: Output,
    file: str,
    *,
    reward: str,
    params: Sequence[str],
    keys: tuple[str, str],
    timeout_seconds: float,
) -> bool:
    """Whether every line got a verdict. Lines are answered as they come, in their order.

    `keys`: where a row holds its answer and its completion.
    """
    if not reward:
        raise ConfigError("which reward?", "--reward", "oxrl rewards lists them")
    entry = get_reward(reward, read_params(params))
    if entry.service is not None:
        entry.service.ready()
    total, missing, mean = 0, 0, 0.0
    try:
        with opened(file, out) as descriptor:
            for lines in batches(descriptor):
                for number, label, verdict in _verdicts(entry, lines, keys, timeout_seconds):
                    total += 1
                    if verdict.status in HAS_VERDICT:
                        mean += (verdict.value - mean) / (total - missing)
                    else:
                        missing += 1
                        out.note(f"line {number}: {verdict.status}: {verdict.detail}")
                    out.write(_shown(out.format, label, verdict))
    finally:
        close_workers()
        if entry.service is not None:
            entry.service.close()
    judged = total - missing
    said = f"mean {mean:.4f} of {judged}" if judged else "none has a score"
    out.note(f"{total} lines, {said}" + (f"; {missing} without a verdict" if missing else ""))
    return missing == 0


def read_params(given: Sequence[str]) -> dict[str, Any]:
    """`--param k=v` as a mapping; values are read as YAML, as in a configuration."""
    import yaml

    read: dict[str, Any] = {}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise ConfigError(f"{item!r} is no parameter", "--param", "write it as name=value")
        try:
            read[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{value!r} cannot be read: {error}", f"--param {name}", "quote it") from error
    return read


@contextmanager
def opened(file: str, out: Output) -> Generator[int]:
    """The descriptor of the file, or of standard input."""
    if file == "-":
        if sys.stdin.isatty():
            out.note("reading JSONL from the terminal; end it with Ctrl-D")
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(Path(file).expanduser(), os.O_RDONLY)
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror}", file, "name a JSONL file, or - ") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def batches(descriptor: int) -> Iterator[list[Numbered]]:
    """The lines as they come: what is there is handed on, and nobody waits for a batch to be full."""
    rest, number = b"", 0
    while True:
        try:
            block = os.read(descriptor, BLOCK)
        except IsADirectoryError as error:
            raise NotFoundError("a folder holds no lines", next_step="name a JSONL file") from error
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise ConfigError(f"line {number + len(whole) + 1} is longer than {LONGEST_LINE} bytes", "", "is it JSONL?")
        if not block and rest:
            whole, rest = [rest], b""
        numbered = [(number + place, line.decode("utf-8", "replace")) for place, line in enumerate(whole, start=1)]
        number += len(whole)
        filled = [line for line in numbered if line[1].strip()]
        for start in range(0, len(filled), MOST_AT_ONCE):
            yield filled[start : start + MOST_AT_ONCE]
        if not block:
            return


def _verdicts(
    entry: Reward, lines: Sequence[Numbered], keys: tuple[str, str], timeout_seconds: float
) -> list[tuple[int, dict[str, Any], Score]]:
    """Number, label and verdict of each line. Lines that follow each other with one prompt are a group."""
    read: list[Rollout | str] = [_read(line, number, *keys) for number, line in lines]
    rollouts = [rollout for rollout in read if isinstance(rollout, Rollout)]
    for before, rollout in pairwise(rollouts):
        same = bool(rollout.prompt.text) and rollout.prompt.text == before.prompt.text
        rollout.sample_index = before.sample_index + 1 if same and entry.scope == "group" else 0
    scores = iter(score_rollouts(entry, rollouts, timeout_seconds))
    answered: list[tuple[int, dict[str, Any], Score]] = []
    for (number, _), rollout in zip(lines, read, strict=True):
        if isinstance(rollout, str):
            answered.append((number, {"line": number}, failed(rollout)))
            continue
        name = rollout.prompt.row.get("id")
        answered.append((number, {"line": number} if name is None else {"line": number, "id": name}, next(scores)))
    return answered


def _read(line: str, number: int, answer_key: str, completion_key: str) -> Rollout | str:
    """The row as a rollout, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if not isinstance(row, dict):
        return f"a {type(row).__name__} where an object is expected"
    row = cast("dict[str, Any]", row)
    text, answer, prompt = row.get(completion_key), row.get(answer_key, ""), row.get("prompt", "")
    if not isinstance(text, str):
        return f"no text under {completion_key!r}; the row has: {', '.join(row) or 'nothing'}"
    if not isinstance(answer, str):  # as the datasets write it: 72 and ["a"] are answers too
        answer = "" if answer is None else json.dumps(answer, ensure_ascii=False)
    if isinstance(prompt, list):
        prompt = "\n".join(str(turn.get("content", "")) for turn in prompt if isinstance(turn, dict))  # pyright: ignore
    return Rollout(
        prompt=Prompt(
            id=str(row.get("id", f"line {number}")),
            token_ids=_ids(row.get("prompt_ids")),
            text=prompt if isinstance(prompt, str) else "",
            answer=answer,
            row=row,
        ),
        sample_index=0,
        token_ids=_ids(row.get("completion_ids")),
        rollout_logprobs=[],
        finish_reason="length" if row.get("finish_reason") == "length" else "stop",
        policy_version=0,
        seed=0,
        text=text,
    )


def _ids(value: Any) -> list[int]:
    values = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in values if isinstance(item, int)]


def _shown(form: Format, label: dict[str, Any], verdict: Score) -> str:
    value = verdict.value if math.isfinite(verdict.value) else None
    if form is Format.quiet:
        return "none" if value is None else f"{value:g}"
    if form is Format.human:
        name = str(label.get("id", label["line"]))
        detail = " ".join(verdict.detail.split())
        number = "-" if value is None else f"{value:.4g}"
        return f"{name[:24]:<24}  {number:>8}  {verdict.status:<9}  {detail[:SHOWN]}".rstrip()[:79]
    row = label | {"score": value, "status": verdict.status}
    if verdict.parts:
        row["parts"] = {name: part if math.isfinite(part) else None for name, part in verdict.parts.items()}
    if verdict.detail:
        row["detail"] = verdict.detail
    return json.dumps(row, ensure_ascii=False)
