"""Whether the weights move: all of them, and those of the exported model at all."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.weights import tensors_of, unmoved

FEW_STEPS = 3  # fewer steps may have had nothing to learn from
TOWERS = ("vision", "visual", "audio", "tower", "projector", "image", "patch_embed")


@detector("weights before and after")
def frozen(facts: RunFacts) -> Iterator[Seen]:
    before, after = facts.initial_model, facts.run.path / "final"
    if before is None or not after.is_dir() or facts.step < FEW_STEPS or facts.setting("model.lora.enabled", False):
        return
    if not any(value > 0 for value in facts.values("grad_norm")):
        return  # nothing could move: that has causes of its own
    equal, compared = unmoved(before, after)
    shapes = tensors_of(after)
    may_stand = () if facts.setting("model.train_towers", False) else TOWERS
    matrices = [name for name in equal if len(shapes[name].shape) >= 2 and not any(word in name for word in may_stand)]
    if not matrices or compared == 0:
        return
    told = [
        seen_by("tensors that did not change", len(equal), facts.step, matrices[:5]),
        seen_by("tensors that were compared", compared),
    ]
    if len(equal) == compared:
        yield Seen("weights_unmoved", 0.8, f"not one of {compared} tensors has changed", evidence=told)
    else:
        summary = f"{len(matrices)} matrices did not change at all, {matrices[0]} among them"
        yield Seen("frozen_weights", 0.92, summary, evidence=told)


@detector("the exported model")
def empty(facts: RunFacts) -> Iterator[Seen]:
    tensors = tensors_of(facts.run.path / "final")
    hollow = [name for name, tensor in tensors.items() if tensor.count == 0]
    if hollow:
        told = [seen_by("empty tensors", len(hollow), facts.step, hollow[:5])]
        yield Seen("export_empty", 0.97, f"{len(hollow)} of {len(tensors)} exported tensors are empty", evidence=told)
