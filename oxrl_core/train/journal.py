"""What the driver writes down: metrics, rollouts, samples and checkpoints of a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oxrl_core.engine.checkpoint import CheckpointStore
from oxrl_core.rollout.recorder import Recorder
from oxrl_core.train.report import StepReport
from oxrl_core.train.verdicts import reward_of
from oxrl_core.types import Progress

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
        self.recorder = Recorder(run.path / "rollouts") if config.rollout.record else None
        self.store = CheckpointStore(run.path / "checkpoints", config.train.keep_checkpoints)
        self.saved_step = -1
        self.num_dropped = 0
        self.num_skipped = 0
        self.said: set[str] = set()  # what happened to rows and has made its alert

    def phase(self, name: str, progress: Progress) -> None:
        """Says what the run is doing now."""
        if self.writes:
            self.run.write_progress(name, progress.step, self.parts.total_steps)

    def restore(self, progress: Progress) -> None:
        """Goes on from the newest valid checkpoint of the run directory, where there is one."""
        learner = self.parts.learner
        newest = learner.share(self.store.newest() if self.writes and self.config.train.resume else None)
        for bad in self.store.quarantined:
            self.run.append_event(
                "warning", "bad_checkpoint", f"{bad.name} does not match its manifest and is set aside"
            )
        if newest is None:
            return
        folder, manifest = newest
        learner.load(folder)
        for name, value in manifest["progress"].items():
            setattr(progress, name, value)
        self.saved_step = progress.step
        if self.writes:
            self.run.append_event("info", "resumed", f"goes on from step {progress.step}", checkpoint=folder.name)

    def save(self, progress: Progress) -> None:
        """A checkpoint of exactly this state, unless it stands already."""
        if self.saved_step == progress.step:
            return
        self.phase("saving", progress)
        learner = self.parts.learner
        folder = learner.share(self.store.begin(progress.step) if self.writes else None)
        learner.save(folder)
        if self.writes:
            path = self.store.finish(progress, run_id=self.run.run_id)
            self.run.append_event("info", "checkpoint", f"step {progress.step} is saved", checkpoint=path.name)
        self.saved_step = progress.step

    def write(self, report: StepReport, progress: Progress) -> None:
        """Everything about one step, and a checkpoint where one is due."""
        if self.writes:
            self._write(report)
        every = self.config.train.save_every
        if every and report.step and report.step % every == 0:
            self.save(progress)

    def _write(self, report: StepReport) -> None:
        every, total_steps = self.config.report, self.parts.total_steps
        self._say_bad()
        self._say_dropped()
        self._say_changed()
        self._say_skipped(report)
        has_evaluation = any(name.startswith("eval/") for name in report.metrics)
        if report.step % every.metrics_every == 0 or report.step >= total_steps or has_evaluation:
            facts = {"step": report.step, "time": time.time()} | self._data_facts()
            self.run.append_metrics(facts | report.metrics)
        self.run.write_progress("training", report.step, total_steps, metrics=report.metrics)
        if self.recorder is not None and report.rollouts:
            self.recorder.write(report.step, report.rollouts, report.credits, report.trainer_logprobs)
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
            "data/cut": stream.notes.counts["cut"],
            "data/folded": stream.notes.counts["folded"],
        }

    def _say_bad(self) -> None:
        """Rows that cannot be read make an alert with the first five; all are counted in the metrics."""
        bad = self.parts.stream.bad
        if bad and "bad" not in self.said:
            self.said.add("bad")
            first = "; ".join(f"{error.where}: {error.what}" for error in bad[:FIRST_BAD])
            rest = f"; and {len(bad) - FIRST_BAD} more (oxrl data validate lists all)" if len(bad) > FIRST_BAD else ""
            text = f"{len(bad)} rows cannot be read and are left out: {first}{rest}"
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
            self.run.append_event(
                "warning",
                "rows_dropped",
                f"{self.num_dropped} training rows were too long, or a pair of the same completions, and dropped; "
                "data.max_prompt_tokens and data.max_length say what fits, data/dropped in the metrics counts on",
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
