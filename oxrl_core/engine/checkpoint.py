"""Checkpoints that are either whole or not there: the rename of a finished folder is the only commit.

    .tmp-<step>-<uuid>/   being written; whatever is found here at the next start is rubbish
    step_%08d/            committed: manifest.json lists every file with size and hash; all on disk before the rename
    bad_step_.../         was committed but no longer matches its manifest; kept for inspection, never loaded
    .trash-<uuid>/        on its way out
There is no `latest` file that could be torn. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from oxrl_core.errors import CheckpointError
from oxrl_core.types import Progress

FORMAT = 1
MANIFEST = "manifest.json"
STEP = re.compile(r"^step_\d{8,}$")
READ_BYTES = 1 << 22


class CheckpointStore:
    """The checkpoints of one run. One process writes; any number may read."""

    def __init__(self, root: Path, keep: int) -> None:
        self.root = root
        self.keep = keep
        self.quarantined: list[Path] = []  # found torn by newest(), for the caller to report
        self._open: tuple[int, Path] | None = None

    def commit(self, step: int, write: Callable[[Path], None], progress: Progress, **facts: Any) -> Path:
        """The committed folder of a checkpoint that one process writes: `write(folder)` fills it."""
        write(self.begin(step))
        return self.finish(progress, **facts)

    def begin(self, step: int) -> Path:
        """An empty folder for the ranks to write into; nothing counts before finish()."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.iterdir():
            if leftover.name.startswith((".tmp-", ".trash-")):
                shutil.rmtree(leftover)
        folder = self.root / f".tmp-{step}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        self._open = (step, folder)
        return folder

    def finish(self, progress: Progress, **facts: Any) -> Path:
        """The committed folder, after every rank has written: hashes, manifest, fsync, rename, then old ones go.

        `facts` (config hash, run id, ...) go into the manifest. A valid checkpoint of the same step is kept as it is.
        """
        if self._open is None:
            raise CheckpointError("finish() without begin()", str(self.root), "call begin(step) first")
        step, folder = self._open
        entries = {str(file.relative_to(folder)): _seal(file) for file in _files_below(folder)}
        if not entries:
            raise CheckpointError(f"nothing was written for step {step}", str(folder), "let every rank save first")
        _compare_with_ranks(folder, entries)
        parent = next(iter(self._steps()), None)
        manifest = {
            "format": FORMAT,
            "step": step,
            "progress": asdict(progress),
            "parent": parent.name if parent is not None else None,
            "time": time.time(),
            "oxrl": _own_version(),
            **facts,
            "files": entries,
        }
        with (folder / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        for below in {folder, *(path for path in folder.rglob("*") if path.is_dir())}:
            _fsync_folder(below)
        target = self.root / f"step_{step:08d}"
        if target.is_dir() and read_manifest(target) is not None:
            shutil.rmtree(folder)  # a resumed run came by here again; replacing would open a moment without it
        else:
            if target.exists():
                self._quarantine(target)
            folder.rename(target)
            _fsync_folder(self.root)
        self._open = None
        for old in self._steps()[self.keep :]:
            trash = self.root / f".trash-{uuid.uuid4().hex[:8]}"
            old.rename(trash)
            shutil.rmtree(trash)
        return target

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that matches its manifest, hashes included, and the manifest; None where there is none.

        Torn ones that are newer are renamed to bad_* and listed in `quarantined`.
        """
        for folder in self._steps():
            manifest = read_manifest(folder)
            if manifest is not None:
                return folder, manifest
            self._quarantine(folder)
        return None

    def _steps(self) -> list[Path]:
        """Committed folders, newest first."""
        if not self.root.is_dir():
            return []
        folders = [path for path in self.root.iterdir() if STEP.match(path.name) and path.is_dir()]
        return sorted(folders, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)

    def _quarantine(self, folder: Path) -> None:
        bad = self.root / f"bad_{folder.name}-{uuid.uuid4().hex[:6]}"
        folder.rename(bad)
        self.quarantined.append(bad)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a committed checkpoint if every file is as it was written, else None."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return None
        for name, entry in manifest["files"].items():
            if (folder / name).stat().st_size != entry["size"] or hash_file(folder / name) != entry["xxh3"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # torn in whatever way: the caller quarantines it and reports that
    return manifest


def hash_file(path: Path) -> str:
    """xxh3-128 of a file, in hex: 3.4 GB/s, so that checking does not cost more than writing."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_rank_receipt(folder: Path, rank: int, files: list[Path]) -> None:
    """Writes rank-k.ok: what this rank wrote, hashed where it was written, for finish() to compare."""
    receipt = {str(file.relative_to(folder)): hash_file(file) for file in files}
    (folder / f"rank-{rank:05d}.ok").write_text(json.dumps(receipt), encoding="utf-8")


def _compare_with_ranks(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Raises where a file is not what its rank wrote (a shared disk that has not caught up, a full disk)."""
    for receipt in sorted(folder.rglob("rank-*.ok")):  # a critic has receipts of its own in a folder below
        below = receipt.parent.relative_to(folder)
        for name, digest in json.loads(receipt.read_text(encoding="utf-8")).items():
            if entries.get(str(below / name), {}).get("xxh3") != digest:
                raise CheckpointError(
                    f"{below / name} is not what {receipt.stem} wrote",
                    str(folder),
                    "all ranks must see one file system; check that the disk is not full",
                )


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _seal(file: Path) -> dict[str, Any]:
    """Size and hash of a file that is on disk afterwards."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"size": file.stat().st_size, "xxh3": hash_file(file)}


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _own_version() -> str:
    try:
        return version("oxrl")
    except PackageNotFoundError:
        return "uninstalled"
