"""What the driver writes down: metrics, rollouts, samples and checkpoints of a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oxrl_core.errors import OxrlError
from oxrl_core.rollout.recorder import Recorder
from oxrl_core.runs.export.card import model_card
from oxrl_core.runs.export.push import push_model
from oxrl_core.runs.machine.disk import disk_errors
from oxrl_core.runs.machine.environment import record_environment
from oxrl_core.train.memory import ChildrenMemory, host_memory
from oxrl_core.train.recording import record_of, start_recorder
from oxrl_core.train.report import StepReport
from oxrl_core.train.saver import Saver
from oxrl_core.train.self_test import self_test
from oxrl_core.train.sinks import Sinks
from oxrl_core.train.tripwires import Tripwires
from oxrl_core.train.tripwires.facts import facts_of
from oxrl_core.train.verdicts import reward_of
from oxrl_core.types import Metrics, Progress

if TYPE_CHECKING:
    from oxrl_core.build import Parts
    from oxrl_core.config.schema import Config
    from oxrl_core.runs.rundir import RunDir

SHOWN = (
    "reward/mean",
    "eval/reward",
    "eval/accuracy",
    "eval/loss",
    "preference/accuracy",
    "loss",
    "entropy",
    "completion/length",
    "seconds",
)

FIRST_BAD = 5  # bad rows that are said in words
DROPPED = {  # kinds of rows that are not trained on, in words
    "too_long": "too long",
    "empty": "without a token to learn from",
    "refused": "with characters that the tokenizer refuses",
    "same_pair": "of a pair that is the same",
}
CHANGES = {  # what rendering may do to a row -> its alert
    "cut": ("warning", "rows_cut", "rows that are too long are cut as data.overlong says; data/cut counts them"),
    "folded": (
        "info",
        "system_folded",
        "the model's chat template knows no system role: such messages stand in the first user message",
    ),
}


class Journal:
    """The only writer of a run's metrics, rollouts and checkpoints. Every rank of torchrun holds one; rank 0 writes."""

    def __init__(self, run: RunDir, config: Config, parts: Parts) -> None:
        self.run = run
        self.config = config
        self.parts = parts
        self.writes = parts.learner.is_coordinator
        self.recorder: Recorder | None = None
        if self.writes and config.rollout.record:
            self.recorder = start_recorder(run, config, parts)
        self.saver = Saver(run, config, parts, self._flush_record)
        self.tripwires = Tripwires(run, facts_of(config, parts)) if config.tripwires.enabled else None
        self.has_begun = False
        self.children_memory = ChildrenMemory()
        self.sinks = Sinks(run, config) if self.writes else None
        if self.writes:
            record_environment(run)
        self.last_row = -1  # the newest step that has a row of metrics
        self.num_dropped = 0
        self.num_skipped = 0
        self.writing: Metrics = {}  # time/write: seconds that what follows a step took last: records, trackers, a save
        self.said: set[str] = set()  # what happened to rows and has made its alert

    def close(self) -> None:
        """Lets the trackers take what was written last."""
        if self.sinks is not None:
            self.sinks.close()
        if self.recorder is not None:
            self.recorder.close()

    def _flush_record(self) -> None:
        """Every step up to now is on disk."""
        if self.recorder is not None:
            self.recorder.flush()

    def alarm(self, error: OxrlError, progress: Progress) -> None:
        """Says as an event what a tripwire found that ends the run."""
        if self.tripwires is not None and self.writes:
            self.tripwires.alarm(error, progress.step + 1 if self.has_begun else 0)  # 0: the test before it

    def phase(self, name: str, progress: Progress) -> None:
        """Says what the run is doing now."""
        if self.writes:
            self.run.write_progress(name, progress.step, self.parts.total_steps)

    def restore(self, progress: Progress) -> None:
        """Goes on from the newest valid checkpoint of the run directory, where there is one."""
        self.last_row = self.saver.restore(progress)
        if progress.step > 0:
            self._say_lost_rows(progress.step)
            # A resumed run reports its first step once more, without what it measured: that is no row.
            self.last_row = max(self.last_row, progress.step)
        if self.tripwires is not None:
            self.tripwires.restore(progress.tripwires)

    def save(self, progress: Progress) -> None:
        """A checkpoint of exactly this state, on disk when this returns, unless it stands already."""
        self.saver.save(progress)

    def export(self, progress: Progress) -> None:
        """The final model with its card in `final/`, and on the hub where that is asked for."""
        self.phase("exporting", progress)
        folder = self.run.path / "final"
        self.parts.learner.export_model(folder, model_card(self.run, self.parts.model_folder))
        repo = self.config.export.push_to_hub
        if not repo or not self.writes:
            return
        try:
            pushed = push_model(str(folder), repo, private=self.config.export.private)
        except OxrlError as error:  # the model is there; only its copy is not
            text = f"the model is not on the hub: {error}; later: oxrl push {self.run.run_id} {repo}"
            self.run.append_event("warning", "push_failed", text)
        else:
            self.run.append_event("info", "pushed", f"the model is at {pushed.url}", commit=pushed.commit)

    def write(self, report: StepReport, progress: Progress) -> None:
        """Everything about one step, and a checkpoint where one is due."""
        started = time.perf_counter()
        ending: OxrlError | None = None
        if self.writes:
            with disk_errors(self.run.path, "then start the run again: it goes on from its newest checkpoint"):
                self._begin(report, progress)
                self._write(report)
                if self.tripwires is not None:
                    ending = self.tripwires.look(report)
                    progress.tripwires = self.tripwires.state()
        if self.config.tripwires.stop_on:
            ending = self.parts.learner.share(ending)
        if ending is not None:
            raise ending
        self.saver.save_if_due(progress, report.metrics)
        self.writing = {"time/write": time.perf_counter() - started}

    def _begin(self, report: StepReport, progress: Progress) -> None:
        """Before the first update of this start: trainer and sampler read the same tokens alike, or the run ends."""
        if self.has_begun:
            return
        if self.config.tripwires.enabled:
            report.metrics |= self_test(self.parts, progress, self.recorder)
        self.has_begun = True

    def _write(self, report: StepReport) -> None:
        every, total_steps = self.config.report, self.parts.total_steps
        self._say_bad()
        self._say_dropped()
        self._say_changed()
        self._say_skipped(report)
        has_evaluation = any(name.startswith("eval/") for name in report.metrics)
        is_due = report.step % every.metrics_every == 0 or report.step >= total_steps or has_evaluation
        if is_due and report.step > self.last_row:
            facts = {"step": report.step, "time": time.time()} | self._data_facts()
            facts |= host_memory("driver") | self.children_memory.metrics() | self.writing
            self.run.append_metrics(facts | report.metrics)
            if self.sinks is not None:
                self.sinks.write(facts | report.metrics)
        self.run.write_progress("training", report.step, total_steps, metrics=report.metrics)
        if self.recorder is not None and (report.drawn or report.row_ids):
            self.recorder.write(record_of(report))
        shown = " ".join(f"{name}={report.metrics[name]:.4g}" for name in SHOWN if name in report.metrics)
        print(f"step {report.step}/{total_steps} {shown}", flush=True)
        if every.samples_every and report.rollouts and report.step % every.samples_every == 0:
            judged = [rollout for rollout in report.rollouts if rollout.score is not None]
            shown = max(judged, key=reward_of) if judged else report.rollouts[0]
            reward = (
                f"best of step {report.step} (reward {reward_of(shown):.3f})" if judged else f"of step {report.step}"
            )
            print(f"  {reward}: {shown.prompt.text!r} -> {shown.text!r}", flush=True)

    def _data_facts(self) -> dict[str, int]:
        """Rows that were not learned from as they stand in the source, counted."""
        stream = self.parts.stream
        return {
            "data/dropped": self.num_dropped,
            "data/bad": len(stream.bad),
            "data/cut": stream.counts.get("cut", 0),
            "data/folded": stream.counts.get("folded", 0),
        }

    def _say_lost_rows(self, step: int) -> None:
        """Steps behind a resumed run whose row is gone make an alert: their numbers cannot be had from a checkpoint."""
        if not self.writes:
            return
        every = self.config.report.metrics_every
        there = {int(row["step"]) for row in self.run.metrics()}
        lost = [number for number in range(every, step + 1, every) if number not in there]
        earlier = [event for event in self.run.events() if event.get("code") == "metrics_lost"]
        if lost and (not earlier or earlier[-1].get("steps") != lost):  # said once, however often it goes on
            first = ", ".join(map(str, lost[:FIRST_BAD])) + (", ..." if len(lost) > FIRST_BAD else "")
            self.run.append_event(
                "warning",
                "metrics_lost",
                f"metrics.jsonl has no row of {len(lost)} of the steps up to {step}: {first}; their weights are there, "
                f"their numbers are not; oxrl replay {self.run.run_id} --step N makes those of a recorded step again",
                steps=lost,
            )

    def _say_bad(self) -> None:
        """Rows that cannot be used make an alert with the first five; all are counted in the metrics."""
        bad = self.parts.stream.bad
        if bad and "bad" not in self.said:
            self.said.add("bad")
            first = "; ".join(f"{error.where}: {error.what}" for error in bad[:FIRST_BAD])
            rest = f"; and {len(bad) - FIRST_BAD} more (oxrl data validate lists all)" if len(bad) > FIRST_BAD else ""
            text = f"{len(bad)} rows cannot be used and are left out: {first}{rest}"
            self.run.append_event("warning", "bad_rows", text)
            print(f"warning: {text}", flush=True)

    def _say_changed(self) -> None:
        """Rows that were changed on the way to the model: the first of each kind makes an alert."""
        notes = self.parts.stream.notes
        for kind, (level, code, text) in CHANGES.items():
            if notes.counts[kind] and kind not in self.said:
                self.said.add(kind)
                self.run.append_event(level, code, f"{text}; the first: {notes.first[kind]}")

    def _say_dropped(self) -> None:
        """Rows that do not fit are counted in every row of metrics, and the first ones make an alert."""
        seen, self.num_dropped = self.num_dropped, self.parts.stream.num_dropped
        if seen == 0 and self.num_dropped:
            first = self.parts.stream.notes.first
            which = "; ".join(f"{text}: {first[kind]}" for kind, text in DROPPED.items() if kind in first)
            self.run.append_event(
                "warning",
                "rows_dropped",
                f"{self.num_dropped} training rows were too long, empty, refused by the tokenizer or a pair of equals, "
                f"and dropped{f' (the first one {which})' if which else ''}; data.max_prompt_tokens and "
                "data.max_length say what fits, data/dropped in the metrics counts on",
            )

    def _say_skipped(self, report: StepReport) -> None:
        """Steps with nothing to learn from change no weight: the first one makes an alert, all are counted."""
        if not report.metrics.get("skipped"):
            return
        self.num_skipped += 1
        if self.num_skipped == 1:
            self.run.append_event(
                "warning",
                "nothing_to_learn",
                f"step {report.step} had nothing to learn from and changed no weight: no completion was good enough, "
                "told apart or finished; selection/kept, groups/zero_variance and completion/truncated say which",
            )
