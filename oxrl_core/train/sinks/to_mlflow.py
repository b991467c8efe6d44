"""MLflow: the server or store of $MLFLOW_TRACKING_URI, else files in <home>/mlruns."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Files are the one store that mlflow-skinny has without a database driver; it wants to be asked for.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from oxrl_core.train.sinks import RunFacts

LONGEST_PARAM = 6000  # what MLflow takes
PARAMS_A_CALL = 100
RUN_TAG = "oxrl.run_id"


def open_sink(facts: RunFacts) -> MlflowSink:
    """The run in the project's experiment; the same run again goes on in its place."""
    return MlflowSink(facts)


class MlflowSink:
    """One run of an MLflow experiment."""

    def __init__(self, facts: RunFacts) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (facts.home / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        experiment_id = self._experiment(facts.project)
        known = self._client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{facts.run_id}'", max_results=1)
        if known:
            self._run_id = known[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        run = self._client.create_run(experiment_id, run_name=facts.run_id, tags={RUN_TAG: facts.run_id})
        self._run_id = run.info.run_id
        params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in facts.config.items()]
        for start in range(0, len(params), PARAMS_A_CALL):
            self._client.log_batch(self._run_id, params=params[start : start + PARAMS_A_CALL])

    def _experiment(self, project: str) -> str:
        found = self._client.get_experiment_by_name(project)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(project)
        except MlflowException:  # another run of the project was quicker
            found = self._client.get_experiment_by_name(project)
            if found is None:
                raise
            return found.experiment_id

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        milliseconds = int(seconds * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, value, milliseconds, step) for name, value in metrics.items()]
        )

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
