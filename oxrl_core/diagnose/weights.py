"""Weights on disk without any library: the headers of safetensors files, and which tensors are equal in two of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

MAX_HEADER = 100 * 2**20
MAX_COMPARED = 256 * 2**20  # bytes that are compared of each side: enough for a small model, a sample of a large one
BLOCK = 2**20
MINUS = b"\x80"  # the sign of a zero
SAMPLED_BLOCK, SAMPLED_BLOCKS = 1024, 256  # bytes, and how many such blocks of a tensor are looked at


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    size: int

    @property
    def count(self) -> int:
        total = 1
        for length in self.shape:
            total *= length
        return total


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of all safetensors files of a folder by name; torn files are passed by."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > MAX_HEADER:
                    continue
                header: Any = json.loads(file.read(length))
        except (OSError, ValueError, struct.error):
            continue
        for name, entry in cast("dict[str, Any]", header).items():
            if name == "__metadata__" or not isinstance(entry, dict):
                continue
            value = cast("dict[str, Any]", entry)
            start, end = value["data_offsets"]
            found[name] = Tensor(
                name, str(value["dtype"]), tuple(value["shape"]), path, 8 + length + start, end - start
            )
    return found


def num_parameters(folder: Path) -> int:
    """Parameters of a model folder; 0 where it holds no safetensors."""
    return sum(tensor.count for tensor in tensors_of(folder).values())


def unmoved(before: Path, after: Path) -> tuple[list[str], int]:
    """Names of the tensors that are bit for bit equal in two folders, and how many were compared."""
    old, new = tensors_of(before), tensors_of(after)
    equal: list[str] = []
    compared = budget = 0
    for name in sorted(set(old) & set(new)):
        mine, other = old[name], new[name]
        if mine.shape != other.shape or mine.dtype != other.dtype or budget > MAX_COMPARED:
            continue
        compared += 1
        budget += mine.size
        if _are_equal(mine, other):
            equal.append(name)
    return equal, compared


def zero_share(tensors: Iterable[Tensor]) -> float:
    """The share of blocks of these tensors that hold nothing but zeros, by a sample of each; 0 where there are none."""
    zeros = total = 0.0
    for tensor in tensors:
        if tensor.size < SAMPLED_BLOCK:
            continue
        number = min(SAMPLED_BLOCKS, tensor.size // SAMPLED_BLOCK)
        with tensor.path.open("rb") as file:
            hits = 0
            for index in range(number):
                file.seek(tensor.start + (tensor.size - SAMPLED_BLOCK) * index // max(1, number - 1))
                hits += not any(file.read(SAMPLED_BLOCK).translate(None, MINUS))
        zeros += tensor.size * hits / number
        total += tensor.size
    return zeros / total if total else 0.0


def _are_equal(one: Tensor, two: Tensor) -> bool:
    with one.path.open("rb") as left, two.path.open("rb") as right:
        left.seek(one.start)
        right.seek(two.start)
        rest = one.size
        while rest > 0:
            block = min(BLOCK, rest)
            if left.read(block) != right.read(block):
                return False
            rest -= block
    return True
