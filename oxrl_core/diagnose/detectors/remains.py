"""What it leaves behind: the files of checkpoints against their manifests, and an exported model that is whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.weights import Tensor, tensors_of, zero_share
from oxrl_core.runs.records import read_json

NOT_NUMBERS = {"F32": ("<f", 4), "F64": ("<d", 8), "F16": ("<e", 2)}  # how a value of the type is read, and its bytes
PLACES = 64  # of a tensor that are looked at
OUTPUT = ("lm_head", "embed_out", "output_layer")  # heads that may be tied to the embeddings, or taken off
HEADS = ("score", "value_head", "v_head", "classifier", "head")


@detector("the files of the checkpoints")
def torn(facts: RunFacts) -> Iterator[Seen]:
    """Sizes only: the hashes are checked when a checkpoint is loaded."""
    for step in facts.checkpoint_steps:
        folder = facts.run.checkpoints / f"step_{step:08d}"
        files: Any = (read_json(folder / "manifest.json") or {}).get("files")
        if not isinstance(files, dict):
            continue
        bad: list[str] = []
        for name, entry in cast("dict[str, Any]", files).items():
            path, size = folder / name, cast("dict[str, Any]", entry).get("size") if isinstance(entry, dict) else None
            if not path.is_file():
                bad.append(f"{name} is missing")
            elif isinstance(size, int) and path.stat().st_size != size:
                bad.append(f"{name} has {path.stat().st_size} of {size} bytes")
        if bad:
            told = [seen_by(f"checkpoint of step {step}", text, step) for text in bad[:4]]
            summary = f"the checkpoint of step {step} is not what was saved: {bad[0]}"
            yield Seen("bad_checkpoint", 0.93, summary, evidence=told)
            return


@detector("the exported weights")
def exported(facts: RunFacts) -> Iterator[Seen]:
    folder = facts.run.path / "final"
    if facts.state != "finished" or not folder.is_dir() or facts.setting("model.lora.enabled", False):
        return
    tensors = tensors_of(folder)
    if not tensors:
        if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
            return
        told = [seen_by("files", ", ".join(sorted(path.name for path in folder.iterdir()))[:200])]
        yield Seen("export_empty", 0.93, "the run finished, and its exported model has no weights", evidence=told)
        return
    before = tensors_of(facts.initial_model) if facts.initial_model else {}
    lost = [name for name in before if name not in tensors and not any(word in name for word in OUTPUT)]
    if lost and len(lost) < len(before):
        told = [seen_by("tensors of the initial model that are missing", len(lost), facts.step, sorted(lost)[:5])]
        yield Seen("export_empty", 0.93, f"{len(lost)} of {len(before)} tensors are missing in the exported model",
                   evidence=told)  # fmt: skip
    headless = str(facts.setting("algorithm.name")) == "rm" and not any(
        word in name for name in tensors for word in HEADS if not any(output in name for output in OUTPUT)
    )
    if headless:
        summary = "the exported reward model has no head: whoever loads it gets a random one"
        yield Seen("export_empty", 0.93, summary, evidence=[seen_by("tensors", len(tensors), facts.step)])
    hollow = [name for name, tensor in tensors.items() if _is_zero(tensor) and not _is_zero(before.get(name))]
    if hollow:
        told = [seen_by("tensors of nothing but zeros", len(hollow), facts.step, sorted(hollow)[:5])]
        yield Seen("export_empty", 0.9, f"{len(hollow)} exported tensors hold nothing but zeros", evidence=told)
    broken = [name for name, tensor in tensors.items() if _has_nan(tensor)]
    if broken:
        told = [seen_by("exported tensors with NaN or infinity", len(broken), facts.step, sorted(broken)[:5])]
        yield Seen("not_finite", 0.93, f"{len(broken)} exported tensors hold NaN or infinity", evidence=told)


@detector("the weights that it began with")
def initial(facts: RunFacts) -> Iterator[Seen]:
    """NaN or infinity in the model as it was loaded: no step made them."""
    before = tensors_of(facts.initial_model) if facts.initial_model else {}
    broken = [name for name, tensor in before.items() if _has_nan(tensor)]
    if broken:
        told = [seen_by("tensors with NaN or infinity in the initial model", len(broken), 0, sorted(broken)[:5])]
        summary = f"{len(broken)} of {len(before)} tensors of the model that it began with hold NaN or infinity"
        advice = "fetch the model again, or convert it again: float16 holds nothing above 65504"
        yield Seen("not_finite", 0.97, summary, evidence=told, next=advice, before=1)


def _is_zero(tensor: Tensor | None) -> bool:
    """Matrices only: the vectors of some models begin with zeros."""
    return tensor is not None and len(tensor.shape) >= 2 and zero_share([tensor]) == 1.0


def _has_nan(tensor: Tensor) -> bool:
    """Whether one of a sample of its values is not finite: all exponent bits are set."""
    form = NOT_NUMBERS.get(tensor.dtype)
    size = form[1] if form else 2 if tensor.dtype == "BF16" else 0
    if not size or tensor.size < size:
        return False
    number = min(PLACES, tensor.size // size)
    with Path(tensor.path).open("rb") as file:
        for index in range(number):
            file.seek(tensor.start + (tensor.size // size - 1) * index // max(1, number - 1) * size)
            raw = file.read(size)
            if len(raw) < size:
                return False
            # A bfloat16 is the upper half of a float32.
            value = struct.unpack(form[0], raw)[0] if form else struct.unpack("<f", b"\0\0" + raw)[0]
            if value - value != 0:
                return True
    return False
