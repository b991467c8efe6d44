"""What a file that is larger than LAZY_BYTES takes of memory: a file of each kind, read as a run reads it.

    python benchmarks/streaming.py [--mib 300] [--most-mib 120] [--kinds jsonl csv parquet folder]

Each file is generated, then read in a process of its own: read through, every row of an epoch taken in shuffled order,
the stream resumed in its middle. Printed is the growth of its peak of resident memory over the imported package; past
`--most-mib` the exit code is 1. `folder` has a file of each kind, each a third of the size; the parquet file is one
group of rows, the worst case.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from oxrl_core.datasets.sources import LAZY_BYTES

KINDS = ("jsonl", "csv", "parquet", "folder")
ROW_BYTES = 1200
WORDS = [f"word{number}" for number in range(5000)]


def rows_of(mib: int) -> Iterator[dict[str, str]]:
    """Rows of about 1,200 bytes that do not compress to nothing, as many as fill the size."""
    generator = random.Random(0)
    for number in range((mib << 20) // ROW_BYTES):
        text = " ".join(generator.choices(WORDS, k=130))
        yield {"prompt": f"{number}: {text}", "answer": str(number)}


def write(kind: str, folder: Path, mib: int) -> Path:
    """The path of a file of that kind and size."""
    if kind == "folder":
        whole = folder / "rows"
        whole.mkdir()
        for one in KINDS[:3]:
            write(one, whole, mib // 3)
        return whole
    path = folder / f"train.{kind}"
    if kind == "jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows_of(mib))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "answer"])
            writer.writeheader()
            writer.writerows(rows_of(mib))
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(list(rows_of(mib))), path, row_group_size=1 << 30)
    return path


def peak_mib() -> float:
    """The most memory that this process has held at once so far."""
    # Not ru_maxrss: it would begin with the peak of the process that started this one, and wrote the file.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def read(path: Path, lazy_bytes: int) -> dict[str, float]:
    """Reads the file as a run does: how long it took, and by how much the peak of memory has grown."""
    import pyarrow.parquet  # noqa: F401  (what is loaded before is not what the rows cost)

    from oxrl_core.config.schema import DatasetConfig
    from oxrl_core.data.stream import RowStream
    from oxrl_core.datasets.base import read_rows
    from oxrl_core.types import Progress

    before, started = peak_mib(), time.perf_counter()
    loaded = read_rows(DatasetConfig(name=str(path)), 0, strict=True, lazy_bytes=lazy_bytes)
    scanned = time.perf_counter()
    number = len(loaded.rows)
    stream = RowStream([loaded.rows], [1.0], 0, True, Progress())
    at_middle = ""
    total = 0
    for index in range(number):
        row = stream.take(1)[0]
        total += int(row["answer"])
        if index == number // 2:
            at_middle = row["id"]
    took = time.perf_counter() - scanned
    resumed = RowStream([loaded.rows], [1.0], 0, True, Progress(row_cursor=number // 2))
    assert resumed.take(1)[0]["id"] == at_middle
    return {
        "rows": number,
        "total": total,
        "scan_seconds": scanned - started,
        "row_microseconds": took / number * 1e6,
        "growth_mib": peak_mib() - before,
    }


def main() -> int:
    """The exit code: 0 where no kind of file takes more memory than asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=300)
    parser.add_argument("--most-mib", type=float, default=120.0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--lazy-bytes", type=int, default=LAZY_BYTES)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read, arguments.lazy_bytes)))
        return 0
    is_within = True
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = write(kind, Path(folder), arguments.mib)
            files = [path] if path.is_file() else list(path.iterdir())
            size = sum(file.stat().st_size for file in files) / 2**20
            command = [sys.executable, __file__, "--lazy-bytes", str(arguments.lazy_bytes), "--read", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
            if done.returncode:
                print(f"{kind}: {done.stderr.strip().splitlines()[-1]}")
                return 1
            found = json.loads(done.stdout)
        print(
            f"{kind:8} {size:5.0f} MiB, {found['rows']:.0f} rows: memory grew by {found['growth_mib']:.0f} MiB; "
            f"read through in {found['scan_seconds']:.1f} s, then {found['row_microseconds']:.0f} us a shuffled row"
        )
        is_within &= found["growth_mib"] <= arguments.most_mib
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
