"""TensorBoard: event files in the run directory; `tensorboard --logdir <runs>` shows all runs side by side."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from oxrl_core.train.sinks import RunFacts


def open_sink(facts: RunFacts) -> TensorboardSink:
    """A new event file beside those of earlier starts of the run; TensorBoard reads them as one."""
    return TensorboardSink(facts)


class TensorboardSink:
    """The event file of one start of a run."""

    def __init__(self, facts: RunFacts) -> None:
        self._writer = EventFileWriter(str(facts.path / "tensorboard"))
        table = "\n".join(["|key|value|", "|---|---|", *(f"|{key}|{value}|" for key, value in facts.config.items())])
        text = TensorProto(dtype=DT_STRING, string_val=[table.encode()])
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._writer.add_event(
            Event(summary=Summary(value=[Summary.Value(tag="config/text_summary", tensor=text, metadata=metadata)]))
        )

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(Event(wall_time=seconds, step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self._writer.close()
