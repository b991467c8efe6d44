"""Whether the weights move: all of them, and those of the exported model at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.weights import Tensor, tensors_of, unmoved, zero_share

FEW_STEPS = 3  # fewer steps may have had nothing to learn from
SURE_WAY = 0.1  # of the sum of lr: what a weight moves by at least, to and fro
LAST_BIT = {"F64": 1e-15, "F32": 1e-7, "F16": 1e-3, "BF16": 8e-3}  # of a number near 1, by type
NUMBER = re.compile(r"\.\d+\.")
UNTOUCHED = 0.95
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
    if not matrices:
        yield from _vectors(facts, equal, shapes)
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


def _vectors(facts: RunFacts, equal: list[str], shapes: dict[str, Tensor]) -> Iterator[Seen]:
    """All vectors of one kind as they were, while other vectors moved by the same updates."""
    # A vector of a norm is about 1: by less than this an update of its type leaves it as it is.
    way = SURE_WAY * sum(facts.values("lr"))
    vectors = [
        name
        for name, tensor in shapes.items()
        if len(tensor.shape) == 1 and name.endswith((".weight", ".bias")) and way > LAST_BIT.get(tensor.dtype, 1.0)
        and not any(word in name for word in TOWERS)
    ]  # fmt: skip
    by_kind: dict[str, list[str]] = {}
    for name in vectors:
        by_kind.setdefault(NUMBER.sub(".*.", name), []).append(name)
    still = {kind: names for kind, names in by_kind.items() if len(names) > 1 and set(names) <= set(equal)}
    if not still or len(set(vectors) - set(equal)) < 2:
        return
    names = [name for kind in still.values() for name in kind]
    told = [seen_by("vectors that did not change", len(names), facts.step, names[:5])]
    told.append(seen_by("vectors that did", len(set(vectors) - set(equal))))
    summary = f"no {' and no '.join(still)} changed at all, while other vectors did"
    yield Seen("frozen_weights", 0.85, summary, evidence=told, before=1)


@detector("adapters and the model that they were merged into")
def not_merged(facts: RunFacts) -> Iterator[Seen]:
    """An exported model that is bit for bit the base, although adapters were trained."""
    before, after = facts.initial_model, facts.run.path / "final"
    if before is None or not after.is_dir() or facts.step < FEW_STEPS or not facts.setting("model.lora.enabled", False):
        return
    equal, compared = unmoved(before, after)
    if compared == 0 or len(equal) < compared or not any(value > 0 for value in facts.values("grad_norm")):
        return
    told = [seen_by("tensors of the exported model that are the base's", len(equal), facts.step, equal[:5])]
    summary = f"all {compared} tensors of the exported model are those of the base: the adapters are not merged into it"
    advice = "export again; look whether the adapters' B matrices are 0, and at their scale"
    yield Seen("weights_unmoved", 0.9, summary, evidence=told, next=advice, before=1)


@detector("the optimizer's memory of gradients")
def never_touched(facts: RunFacts) -> Iterator[Seen]:
    """Trained weights whose mean squared gradient is still exactly 0: no gradient ever came to them."""
    if facts.step < FEW_STEPS or not facts.checkpoint_steps:
        return
    folder = facts.run.checkpoints / f"step_{facts.checkpoint_steps[-1]:08d}"
    for place, whose, norm in ((folder, "model", "grad_norm"), (folder / "critic", "critic", "value/grad_norm")):
        if not any(value > 0 for value in facts.values(norm)):
            continue  # nothing could move: that has causes of its own
        moments = [tensor for name, tensor in tensors_of(place).items() if name.endswith("exp_avg_sq")]
        share = zero_share(moments)
        # Rows of the vocabulary that no text has are untouched in every run; they are never nearly all there is.
        if share > UNTOUCHED:
            told = [seen_by(f"weights of the {whose} that never had a gradient", share, facts.checkpoint_steps[-1])]
            summary = f"{share:.1%} of the {whose}'s weights that are to be trained never had a gradient"
            advice = f"look for what cuts the {whose}'s layers off from its loss: detached states, or a frozen backbone"
            yield Seen("frozen_weights", 0.92, summary, evidence=told, next=advice, before=1)


@detector("the exported model")
def empty(facts: RunFacts) -> Iterator[Seen]:
    final = facts.run.path / "final"
    tensors = tensors_of(final / "adapter") or tensors_of(final)
    hollow = [name for name, tensor in tensors.items() if tensor.count == 0]
    if hollow:
        told = [seen_by("empty tensors", len(hollow), facts.step, hollow[:5])]
        yield Seen("export_empty", 0.97, f"{len(hollow)} of {len(tensors)} exported tensors are empty", evidence=told)
