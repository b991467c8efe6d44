"""trackio: a local database for `trackio show`; $TRACKIO_DIR says where, $TRACKIO_SPACE_ID sends it to a Space."""

from __future__ import annotations

from collections.abc import Mapping

import trackio

from oxrl_core.train.sinks import RunFacts


def open_sink(facts: RunFacts) -> TrackioSink:
    """The run in the project's database; the same run again goes on in its place."""
    return TrackioSink(facts)


class TrackioSink:
    """One run of a trackio project."""

    def __init__(self, facts: RunFacts) -> None:
        # Its own reading of the machine would go on in threads that nobody asked for.
        self._run = trackio.init(
            project=facts.project,
            name=facts.run_id,
            config=dict(facts.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()
