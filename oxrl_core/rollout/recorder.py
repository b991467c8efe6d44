"""Every rollout of every step on disk, well enough to replay and explain the step, written while training goes on.

    rollouts/step-00000012.parquet   one row per rollout that was drawn, in the order in which they were drawn;
                                     a supervised step: one row per row of the data
    rollouts/tokenizer.json          the run's own, so that a token can be shown wherever the folder is copied to

A file appears whole or not at all. A thread writes; where the disk is slower than training, training waits for it.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from oxrl_core.errors import RecordError
from oxrl_core.types import Credit, Prompt, Rollout, Score

if TYPE_CHECKING:
    from oxrl_core.train.row_facts import RowFacts

GIB = 2**30
WAITING_STEPS = 2  # steps in memory that are not yet on disk
DEADLINE_SECONDS = 600.0  # for one step to be written
NAMES = "step-*.parquet"
# Numbers hardly repeat, so a dictionary of them costs more than it saves; prompts and statuses do. Nobody asks for
# statistics: a file is one step. Measured, this is half the time of zstd with dictionaries, for files as large.
QUICK: dict[str, Any] = {
    "compression": "lz4",
    "use_dictionary": ["prompt_id", "prompt_text", "score_status", "score_parts", "score_detail", "finish_reason"],
    "write_statistics": False,
}

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("draw", pa.int32()),  # the round of drawing within the step
        ("learned", pa.bool_()),  # whether the step learned from it
        ("prompt_id", pa.string()),
        ("prompt_text", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completion_token_ids", pa.list_(pa.int32())),
        ("completion_text", pa.string()),
        ("completion_mask", pa.list_(pa.bool_())),  # the tokens that were trained on
        ("rollout_logprobs", pa.list_(pa.float32())),
        ("trainer_logprobs", pa.list_(pa.float32())),  # null where the trainer did not look at the rollout
        ("advantages", pa.list_(pa.float32())),  # null where it was not an advantage that was learned from
        ("returns", pa.list_(pa.float32())),  # with a critic
        ("values", pa.list_(pa.float32())),  # with a critic, before the update
        ("ref_logprobs", pa.list_(pa.float32())),  # where they were measured before the update
        ("last_value", pa.float32()),  # with a critic: of the state after the last token
        ("score", pa.float64()),  # null where the reward gave none
        ("shaped_reward", pa.float64()),  # after penalties and normalisation; null where none was made
        ("score_status", pa.string()),
        ("score_parts", pa.string()),  # JSON
        ("score_detail", pa.string()),
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("seed", pa.int64()),
        ("sample_index", pa.int64()),
    ]
)
ROW_SCHEMA = pa.schema(  # of a supervised step
    [
        ("step", pa.int64()),
        ("row_id", pa.string()),
        ("policy_version", pa.int64()),  # the number of optimizer steps behind the weights that learned from it
        ("tokens", pa.int32()),
        ("trained", pa.int32()),  # how many of them are trained on; the next three say where
        ("first_trained", pa.int32()),
        ("behind", pa.int32()),  # tokens after the last one that is trained on
        ("ends", pa.bool_()),  # whether the token that ends the completion is trained on, and last
        ("doubled", pa.int32()),  # the token with which it begins twice; -1 where it does not
    ]
)

Say = Callable[[str, str, str], None]  # level, code and message of an event


@dataclass
class StepRecord:
    """What is recorded of one step."""

    step: int
    drawn: Sequence[Rollout] = ()  # all completions, in the order in which they were drawn
    learned: Sequence[Rollout] = ()  # those that were learned from, the same objects
    credits: Sequence[Credit] = ()  # in the order of `learned`; empty where it learned from examples
    trainer_logprobs: Sequence[Sequence[float]] = ()  # likewise
    row_ids: Sequence[str] = ()  # supervised: the rows of the step, in order
    row_facts: Sequence[RowFacts] = ()  # likewise; empty where nobody looked


@dataclass
class Recorder:
    """The writer of a run's rollouts folder. `max_gib` none: as large as it gets."""

    folder: Path
    max_gib: float | None = None
    say: Say = field(default=lambda level, code, message: None)
    tokenizer_file: Path | None = None  # copied into the folder, where it exists

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):  # of a writer that was killed; it never counted
            leftover.unlink(missing_ok=True)
        if self.tokenizer_file is not None and self.tokenizer_file.is_file():
            unfinished = self.folder / f"tokenizer.{os.getpid()}.tmp"
            shutil.copyfile(self.tokenizer_file, unfinished)
            unfinished.replace(self.folder / "tokenizer.json")
        self._sizes = {path: path.stat().st_size for path in sorted(self.folder.glob(NAMES))}
        self._total = sum(self._sizes.values())
        self._has_thinned = False
        self._waiting: queue.Queue[StepRecord | None] = queue.Queue(WAITING_STEPS)
        self._error: tuple[int, Exception] | None = None
        self._thread: threading.Thread | None = None

    def write(self, record: StepRecord) -> None:
        """Takes the step over; it is on disk after the next `flush`. Raises where an earlier one could not be."""
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()
        try:
            self._waiting.put(record, timeout=DEADLINE_SECONDS)
        except queue.Full:
            raise self._too_slow(record.step) from None

    def flush(self) -> None:
        """Every step that was taken over is on disk, or this raises."""
        with self._waiting.all_tasks_done:
            done = self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, DEADLINE_SECONDS)
        self._raise_error()
        if not done:
            raise self._too_slow()

    def close(self) -> None:
        """As flush; afterwards there is no thread."""
        try:
            self.flush()
        finally:
            if self._thread is not None and not self._waiting.full():
                self._waiting.put_nowait(None)
                self._thread.join(DEADLINE_SECONDS)
                self._thread = None

    def _run(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                if self._error is None:  # later steps would hide the one that is missing
                    self._write(record)
            except Exception as error:  # raised on the training thread, at its next call
                self._error = (record.step, error)
            finally:
                self._waiting.task_done()
        self._waiting.task_done()

    def _write(self, record: StepRecord) -> None:
        path = self.folder / f"step-{record.step:08d}.parquet"
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        # Made in memory: pyarrow would write column by column, and look first for the file system of the path.
        made = pa.BufferOutputStream()
        pq.write_table(table_of(record), made, **QUICK)
        content = made.getvalue()
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._total += content.size - self._sizes.get(path, 0)  # a resumed run writes a step once more
        self._sizes[path] = content.size
        self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """Takes every second file of the older half away until the rest fits: the past becomes sparse, not short."""
        limit = self.max_gib * GIB if self.max_gib is not None else float("inf")
        while self._total > limit and len(self._sizes) > 1:
            paths = sorted(path for path in self._sizes if path != newest)
            older = paths[: max(1, len(paths) // 2)]
            for path in older[1::2] or older:
                path.unlink(missing_ok=True)
                self._total -= self._sizes.pop(path)
            if not self._has_thinned:
                self._has_thinned = True
                self.say(
                    "info",
                    "record_thinned",
                    f"recorded rollouts have reached rollout.record_max_gib ({self.max_gib:g} GiB): of the older steps "
                    "every second is let go from here on",
                )

    def _raise_error(self) -> None:
        if self._error is not None:
            step, error = self._error
            raise RecordError(
                f"the rollouts of step {step} could not be written: {error}",
                str(self.folder),
                "free some space or mend the folder and resume; rollout.record: false goes on without a record",
            ) from error

    def _too_slow(self, step: int | None = None) -> RecordError:
        which = "the rollouts" if step is None else f"the rollouts of step {step}"
        return RecordError(
            f"{which} were not written within {DEADLINE_SECONDS:g} s",
            str(self.folder),
            "look at the disk; rollout.record: false goes on without a record",
        )


def table_of(record: StepRecord) -> pa.Table:
    """The step as a table: column by column, for rows of Python objects would hold up the training thread."""
    columns, schema = (_columns(record), SCHEMA) if record.drawn else (_row_columns(record), ROW_SCHEMA)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, kind.type)
        for column, kind in ((columns[kind.name], kind) for kind in schema)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _row_columns(record: StepRecord) -> dict[str, Any]:
    """The columns of a supervised step, by name."""
    number, facts = len(record.row_ids), record.row_facts
    own = {"step": [record.step] * number, "row_id": record.row_ids, "policy_version": [record.step - 1] * number}
    if len(facts) != number:
        return own | {kind.name: [None] * number for kind in ROW_SCHEMA if kind.name not in own}
    return own | {kind.name: [getattr(row, kind.name) for row in facts] for kind in ROW_SCHEMA if kind.name not in own}


def _columns(record: StepRecord) -> dict[str, Any]:
    """The columns of a step of completions, by name."""
    missing = [None] * len(record.learned)
    # By identity: the same completion may be drawn twice, and only one of the two be learned from.
    taught = {
        id(rollout): (credit, ours)
        for rollout, credit, ours in zip(
            record.learned, record.credits or missing, record.trainer_logprobs or missing, strict=True
        )
    }
    drawn = record.drawn
    found = [taught.get(id(rollout), (None, None)) for rollout in drawn]
    learned = [id(rollout) in taught for rollout in drawn]
    credits = [credit for credit, _ in found]
    measured = [None if credit is None else credit.measurement for credit in credits]
    prompts, scores = [rollout.prompt for rollout in drawn], [rollout.score for rollout in drawn]
    texts: dict[str, str] = {}  # of parts of scores, which are few: JSON is dear
    return {
        "step": [record.step] * len(drawn),
        "draw": [rollout.draw for rollout in drawn],
        "learned": learned,
        "prompt_id": [prompt.id for prompt in prompts],
        "prompt_text": [prompt.text for prompt in prompts],
        "prompt_token_ids": _prompt_tokens(prompts),
        "completion_token_ids": [rollout.token_ids for rollout in drawn],
        "completion_text": [rollout.text for rollout in drawn],
        "completion_mask": [[flag] * len(rollout.token_ids) for flag, rollout in zip(learned, drawn, strict=True)],
        "rollout_logprobs": [rollout.rollout_logprobs for rollout in drawn],
        "trainer_logprobs": [ours for _, ours in found],
        "advantages": [None if credit is None else credit.advantages for credit in credits],
        "returns": [None if credit is None else credit.returns or None for credit in credits],
        "values": [None if one is None else one.values or None for one in measured],
        "ref_logprobs": [None if one is None else one.ref_logprobs or None for one in measured],
        "last_value": [one.last_value if one is not None and one.values else None for one in measured],
        "score": [None if score is None else score.value for score in scores],
        "shaped_reward": [None if credit is None else credit.reward for credit in credits],
        "score_status": [None if score is None else score.status for score in scores],
        "score_parts": [_parts_text(score, texts) for score in scores],
        "score_detail": [None if score is None else score.detail for score in scores],
        "finish_reason": [rollout.finish_reason for rollout in drawn],
        "policy_version": [rollout.policy_version for rollout in drawn],
        "seed": [rollout.seed for rollout in drawn],
        "sample_index": [rollout.sample_index for rollout in drawn],
    }


def _prompt_tokens(prompts: Sequence[Prompt]) -> pa.Array:
    """The token ids of each prompt. A group shares its prompt, which is converted once."""
    distinct = {id(prompt): prompt for prompt in prompts}
    places = {key: place for place, key in enumerate(distinct)}
    tokens = pa.array([prompt.token_ids for prompt in distinct.values()], SCHEMA.field("prompt_token_ids").type)
    return tokens.take(pa.array([places[id(prompt)] for prompt in prompts], pa.int32()))


def _parts_text(score: Score | None, texts: dict[str, str]) -> str:
    """The parts of a score as JSON, made once for all that are the same."""
    if score is None or not score.parts:
        return "{}"
    key = repr(score.parts)
    if key not in texts:
        texts[key] = json.dumps(score.parts)
    return texts[key]


def read_rollouts(path: str | Path) -> list[dict[str, Any]]:
    """The recorded rows of one step file, or of a whole folder in the order of its steps."""
    path = Path(path)
    files = sorted(path.glob(NAMES)) if path.is_dir() else [path]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    for row in rows:
        if "score_parts" in row:
            row["score_parts"] = json.loads(row["score_parts"])
    return rows
