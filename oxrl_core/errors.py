"""Every error that oxRL raises on purpose. Each says what happened, where, and what to do next.

OxrlError
|-- UserError                 the caller can mend it; exit code 2
|   |-- ConfigError           a key, a value, or a contradiction between values
|   |-- DataError             a missing file, column or row; an empty dataset
|   |   `-- EmptyRowError     a row without a token to learn from
|   |-- ModelError            a model that does not exist or cannot do what is asked
|   |-- NotFoundError         a run, recipe or topic that does not exist
|   `-- MachineError          this machine lacks something (GPU, package, disk, port)
`-- RunFailure                the run could not go on; exit code 1
    |-- PlacementError        the workers cannot be placed on this machine or cluster
    |-- DeadlineError         an actor call did not answer in time
    |-- WorkerDied            the process of a worker is gone
    |-- WeightSyncError       the sampler's weights are not the trainer's
    |-- StalePolicyError      a rollout came from another policy than the one in training
    |-- LogprobGapError       trainer and sampler disagree about the same tokens
    |-- RewardError           a reward raised, or returned no number
    |-- NumericsError         a loss or gradient is not finite
    |-- RecordError           a step's rollouts could not be written down
    |-- TripwireError         a tripwire of tripwires.stop_on rang
    `-- CheckpointError       a checkpoint is missing, torn or of another run
"""

from __future__ import annotations


class OxrlError(Exception):
    """What happened, where (a file, key, rank or sample) and the next step. Picklable: it crosses Ray."""

    exit_code = 1

    def __init__(self, what: str, where: str = "", next_step: str = "") -> None:
        super().__init__(what, where, next_step)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  next: {self.next_step}" if self.next_step else text

    def as_dict(self) -> dict[str, str]:
        """The error as the JSON that the run directory, the CLI and the MCP server show."""
        return {"code": type(self).__name__, "what": self.what, "where": self.where, "next": self.next_step}


class UserError(OxrlError):
    """The caller can mend it."""

    exit_code = 2


class ConfigError(UserError):
    """A key, a value, or a contradiction between values."""


class DataError(UserError):
    """A missing file, column or row, or an empty dataset."""


class EmptyRowError(DataError):
    """A row that has no token to learn from: it is left out, unless `data.strict`."""


class ModelError(UserError):
    """A model that does not exist or cannot do what is asked."""


class NotFoundError(UserError):
    """A run, recipe or topic that does not exist."""


class MachineError(UserError):
    """This machine lacks something: a GPU, a package, disk space, a port."""


class RunFailure(OxrlError):
    """The run could not go on."""


class PlacementError(RunFailure):
    """The workers cannot be placed on this machine or cluster."""


class DeadlineError(RunFailure):
    """An actor call did not answer in time."""


class WorkerDied(RunFailure):
    """The process of a worker is gone."""


class WeightSyncError(RunFailure):
    """The sampler's weights are not the trainer's."""


class StalePolicyError(RunFailure):
    """A rollout came from another policy than the one in training."""


class LogprobGapError(RunFailure):
    """Trainer and sampler disagree about the same tokens."""


class RewardError(RunFailure):
    """A reward raised, or returned no number."""


class NumericsError(RunFailure):
    """A loss or gradient is not finite."""


class RecordError(RunFailure):
    """A step's rollouts could not be written down."""


class TripwireError(RunFailure):
    """A tripwire of tripwires.stop_on rang."""


class CheckpointError(RunFailure):
    """A checkpoint is missing, torn or of another run."""
