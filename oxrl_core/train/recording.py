"""A step's report as the record of it, and the recorder of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.rollout.recorder import Recorder, StepRecord

if TYPE_CHECKING:
    from oxrl_core.build import Parts
    from oxrl_core.config.schema import Config
    from oxrl_core.runs.rundir import RunDir
    from oxrl_core.train.report import StepReport


def start_recorder(run: RunDir, config: Config, parts: Parts) -> Recorder:
    """The recorder of a run, with the run's tokenizer beside the records."""

    def say(level: str, code: str, message: str) -> None:
        run.append_event(level, code, message)

    tokenizer_file = parts.model_folder / "tokenizer.json"
    return Recorder(run.rollouts, config.rollout.record_max_gib, say, tokenizer_file)


def record_of(report: StepReport) -> StepRecord:
    """What of the report is recorded."""
    return StepRecord(
        step=report.step,
        drawn=report.drawn,
        learned=report.rollouts,
        credits=report.credits,
        trainer_logprobs=report.trainer_logprobs,
        row_ids=report.row_ids,
        row_facts=report.row_facts,
    )
