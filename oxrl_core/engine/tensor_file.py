"""Files of a checkpoint, hashed while they are written and on disk afterwards: safetensors and JSON, nothing else.

The safetensors library writes a file without saying what it wrote; hashed here as it goes out, a byte that the disk
changed is found. What a full disk says arrives as OSError, not as the text of a foreign library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

BLOCK_BYTES = 1 << 24
DTYPES = {  # names of https://github.com/huggingface/safetensors#format
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class HashedFile:
    """A new file whose content is hashed on its way out. Leaving it without an error means that it is on disk."""

    def __init__(self, path: Path) -> None:
        self.digest = xxhash.xxh3_128()
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        """Writes all of it, in blocks."""
        left = memoryview(data)
        while left:
            written = self._file.write(left[:BLOCK_BYTES])
            self.digest.update(left[:written])
            left = left[written:]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """The xxh3-128, in hex, of the safetensors file that now holds these CPU tensors."""
    # Wide numbers first: each tensor then begins where its numbers are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        shape = list(tensors[name].shape)
        header[name] = {"dtype": DTYPES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with HashedFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            numbers = tensors[name].detach().contiguous().flatten()
            if numbers.numel():
                file.write(memoryview(numbers.view(torch.uint8).numpy()))
    return file.digest.hexdigest()


def write_record(path: Path, record: Mapping[str, Any]) -> str:
    """The xxh3-128, in hex, of the JSON file that now holds this record."""
    with HashedFile(path) as file:
        file.write(json.dumps(record).encode())
    return file.digest.hexdigest()
