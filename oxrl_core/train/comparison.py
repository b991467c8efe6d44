"""Whether two recordings of the same numbers are the same, bit for bit; and if not, which of them differ."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from oxrl_core.runs.replay import Difference

TIMES = ("seconds", "tokens_per_second", "time")  # and all below time/ and memory/: no two runs take equally long
UNREPEATED = ("sync/",)  # what another engine said
RANDOM = "random."  # states of generators: the sampler of a run in one process uses them as well


def is_repeatable(name: str) -> bool:
    """Whether a metric must be the same when its step is repeated."""
    return name not in TIMES and not name.startswith(("time/", "memory/", *UNREPEATED))


def compare_metrics(
    step: int, recorded: Mapping[str, Any], replayed: Mapping[str, float]
) -> tuple[int, list[Difference]]:
    """How many metrics were compared, and which differ; a number that is not finite is null in the record."""
    names = [name for name in replayed if name in recorded and is_repeatable(name)]
    differences: list[Difference] = []
    for name in names:
        theirs, ours = recorded[name], finite_or_none(replayed[name])
        if not is_same(theirs, ours):
            gap = abs(ours - theirs) if ours is not None and theirs is not None else None
            differences.append(
                Difference(step=step, kind="metric", name=name, recorded=theirs, replayed=ours, largest=gap)
            )
    return len(names), differences


def compare_rollouts(
    step: int, recorded: Sequence[Mapping[str, Any]], replayed: Sequence[Mapping[str, Any]]
) -> tuple[int, list[Difference]]:
    """How many numbers of completions were compared, and which differ: one difference for each completion and column.

    A difference shows the first token at which a column differs.
    """
    by_seed = {row["seed"]: row for row in recorded}
    count, differences = 0, []
    for row in replayed:
        theirs = by_seed.pop(row["seed"])
        sample = f"{row['prompt_id']}, sample {row['sample_index']}"
        for name in row:
            if name not in theirs:
                continue  # recorded by an older version
            ours, their = row[name], theirs[name]
            if isinstance(ours, list) and isinstance(their, list) and len(ours) == len(their):
                count += len(ours)
                at = [index for index, pair in enumerate(zip(ours, their, strict=True)) if not is_same(*pair)]
                if at:
                    gaps = [abs(ours[index] - their[index]) for index in at]
                    where = f"{sample}, token {at[0]}"
                    differences.append(_rollout(step, name, where, their[at[0]], ours[at[0]], _largest(gaps), len(at)))
            else:
                count += 1
                if not is_same(their, ours):
                    differences.append(_rollout(step, name, sample, _shown(their), _shown(ours), None, 1))
    for row in by_seed.values():
        where = f"{row['prompt_id']}, sample {row['sample_index']}"
        differences.append(_rollout(step, "draw", where, "drawn", "not asked for", None, 1))
    return count, differences


def compare_states(step: int, recorded: Path, replayed: Path) -> tuple[int, list[Difference]]:
    """How many tensors of two checkpoints were compared, and which differ; and the facts that stand beside them."""
    count, differences = 0, []
    for file in sorted(recorded.rglob("rank-*.safetensors")):
        name = file.relative_to(recorded)
        theirs, ours = load_file(file), load_file(replayed / name)
        for key in sorted(theirs):
            if key.startswith(RANDOM):
                continue
            count += 1
            one = _tensor(step, "state", f"{name.with_suffix('')}/{key}", theirs[key], ours[key])
            differences += [one] if one is not None else []
    for file in sorted(recorded.rglob("rank-*.json")):
        name = file.relative_to(recorded)
        theirs, ours = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (recorded, replayed))
        for key in sorted({*theirs, *ours} - {"random"}):
            if theirs.get(key) != ours.get(key):
                texts = json.dumps(theirs.get(key)), json.dumps(ours.get(key))
                what = f"{name.with_suffix('')}/{key}"
                differences.append(Difference(step=step, kind="state", name=what, recorded=texts[0], replayed=texts[1]))
    return count, differences


def weight_differences(
    step: int, recorded: Mapping[str, Tensor], replayed: Mapping[str, Tensor]
) -> Iterator[Difference]:
    """The weights that differ, under the names of the model's files."""
    for name, tensor in recorded.items():
        one = _tensor(step, "weight", name, tensor, replayed[name])
        if one is not None:
            yield one


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the very same: numbers by their bits, and any NaN like any other."""
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        one, other = float(one), float(other)
        return struct.pack("<d", one) == struct.pack("<d", other) or (math.isnan(one) and math.isnan(other))
    return one == other


def finite_or_none(value: float) -> float | None:
    """The number as JSON can say it."""
    return float(value) if math.isfinite(value) else None


def _tensor(step: int, kind: Any, name: str, recorded: Tensor, replayed: Tensor) -> Difference | None:
    if recorded.shape != replayed.shape:
        shapes = str(tuple(recorded.shape)), str(tuple(replayed.shape))
        return Difference(step=step, kind=kind, name=name, recorded=shapes[0], replayed=shapes[1])
    if _bits(recorded) == _bits(replayed):
        return None
    gaps = (recorded.double() - replayed.double()).abs().flatten()
    differs = torch.nonzero(gaps != 0).flatten().tolist()  # NaN is not 0 either
    at = differs[0] if differs else 0
    return Difference(
        step=step,
        kind=kind,
        name=name,
        where=f"element {at}",
        recorded=finite_or_none(float(recorded.flatten()[at])),
        replayed=finite_or_none(float(replayed.flatten()[at])),
        largest=finite_or_none(float(gaps.max())),
        count=max(1, len(differs)),
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _rollout(step: int, name: str, where: str, recorded: Any, replayed: Any, largest: Any, count: int) -> Difference:
    return Difference(
        step=step, kind="rollout", name=name, where=where, recorded=_shown(recorded), replayed=_shown(replayed),
        largest=largest, count=count,
    )  # fmt: skip


def _largest(gaps: Sequence[float]) -> float | None:
    return None if any(math.isnan(gap) for gap in gaps) else finite_or_none(max(gaps))


def _shown(value: Any) -> float | str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return finite_or_none(value)
    return None if value is None else str(value)[:80]
