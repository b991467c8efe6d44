"""Parameters, types and names of the tensors out of the headers of safetensors files: not one byte of a weight."""

from __future__ import annotations

import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from swarm.scout.documents import UnreadableDocument, read_document
from swarm.scout.source import Source

INDEX = "model.safetensors.index.json"
MAX_HEADER = 32 << 20
MAX_INDEX = 16 << 20
MAX_SHARDS = 200
READERS = 8
WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "U8": "uint8"}
# 2-D weights that are tables, heads of the whole model or positions: no adapter belongs on them.
NO_TARGETS = ("embed", "lm_head", "wte", "wpe", "position", "norm", "score", "patch", "router", "shared_head")


class TornWeights(ValueError):
    """A header that lies about its file."""


@dataclass
class Weights:
    """What the headers say."""

    parameters: int = 0
    bytes: int = 0
    dtype: str = ""
    files: list[str] = field(default_factory=list[str])
    shapes: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    torn: str = ""  # what is wrong with a header


def look_at_weights(source: Source) -> Weights:
    """Parameters and names of all safetensors files that a loader would read; `torn` where a header lies."""
    found = Weights()
    try:
        found.files = _files(source)
        with ThreadPoolExecutor(READERS) as pool:
            headers = list(pool.map(partial(read_header, source), found.files))
    except (TornWeights, UnreadableDocument) as error:
        found.torn = str(error)
        return found
    counts: Counter[str] = Counter()
    for header in headers:
        for name, (kind, shape) in header.items():
            size = math.prod(shape)
            counts[kind] += size
            found.bytes += size * WIDTHS[kind]
            found.shapes[name] = shape
    found.parameters = sum(counts.values())
    found.dtype = NAMES.get(counts.most_common(1)[0][0], "other") if counts else ""
    return found


def _files(source: Source) -> list[str]:
    """The weight files at the top of the repository; those that the index names, where there is one."""
    sizes = source.repository.sizes
    if INDEX in sizes:
        index = read_document(source.read(INDEX, MAX_INDEX), INDEX, MAX_INDEX)
        table = index.get("weight_map")
        table = cast("dict[str, object]", table) if isinstance(table, dict) else {}
        names = {str(name) for name in table.values()}
        missing = sorted(name for name in names if name not in sizes)
        if not names or missing:
            raise TornWeights(f"its index names {len(missing)} of {len(names)} weight files that are not there")
        files = sorted(names)
    elif "model.safetensors" in sizes:
        files = ["model.safetensors"]
    else:
        files = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    if len(files) > MAX_SHARDS:
        raise TornWeights(f"it has {len(files)} weight files; {MAX_SHARDS} are looked at")
    return files


def read_header(source: Source, name: str) -> dict[str, tuple[str, list[int]]]:
    """Tensor name -> type and shape; TornWeights where lengths and offsets do not fit together or into the file."""
    size = source.repository.sizes.get(name)
    length = int.from_bytes(source.read_range(name, 0, 8), "little")
    if not 2 <= length <= MAX_HEADER or (size is not None and 8 + length > size):
        raise TornWeights(f"the header of a weight file claims {length:,} bytes")
    text = source.read_range(name, 8, length)
    if len(text) < length:
        raise TornWeights(f"a weight file ends within its header ({len(text):,} of {length:,} bytes)")
    try:
        header: object = json.loads(text)
    except (ValueError, RecursionError):
        raise TornWeights("the header of a weight file is no JSON") from None
    if not isinstance(header, dict):
        raise TornWeights("the header of a weight file is no object")
    tensors: dict[str, tuple[str, list[int]]] = {}
    spans: list[tuple[int, int]] = []
    for tensor, entry in cast("dict[str, object]", header).items():
        if tensor != "__metadata__":
            kind, shape, span = _checked(entry)
            tensors[tensor] = (kind, shape)
            spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise TornWeights("the tensors of a weight file overlap, or leave holes between them")
        end = last
    if size is not None and 8 + length + end != size:
        raise TornWeights(f"a weight file has {size:,} bytes; its header describes {8 + length + end:,}")
    return tensors


def _checked(entry: object) -> tuple[str, list[int], tuple[int, int]]:
    """Type, shape and span of one tensor of a header."""
    facts = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    kind, shape, span = str(facts.get("dtype")), _sizes(facts.get("shape")), _sizes(facts.get("data_offsets"))
    if kind not in WIDTHS or shape is None or span is None or len(span) != 2:
        raise TornWeights("a tensor has an unknown type, or a shape or place that is none")
    if math.prod(shape) * WIDTHS[kind] != span[1] - span[0]:
        raise TornWeights("the shape of a tensor does not fit its place in the file")
    return kind, shape, (span[0], span[1])


def _sizes(value: object) -> list[int] | None:
    """The list of sizes, or None where it is no list of them."""
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    sizes = [item for item in items if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 50]
    return sizes if len(sizes) == len(items) else None


def linear_names(shapes: dict[str, list[int]]) -> list[str]:
    """Last names of the matrices of the language model that an adapter can sit on, in the order of the files."""
    found: dict[str, None] = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and not any(word in name.lower() for word in (*NO_TARGETS, *TOWERS)):
            last = module.rpartition(".")[2]
            if last.isidentifier():
                found[last] = None
    return list(found)


TOWERS = ("visual", "vision", "audio", "multi_modal", "connector", "projector.")
