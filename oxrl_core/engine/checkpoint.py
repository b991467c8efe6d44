"""Checkpoints that are either whole or not there: the rename of a finished folder is the only commit.

    .tmp-<step>-<uuid>/   being written; whatever is found here at the next start is rubbish
    step_%08d/            committed: manifest.json lists every file with size and hash, and itself carries the hash of
                          what it says; all on disk before the rename
    bad_step_.../         was committed but no longer matches its manifest; kept for inspection, never loaded
    old_step_.../         of an earlier attempt in the same run directory, set aside by a start from scratch
    .trash-<uuid>/        on its way out
There is no `latest` file that could be torn. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from oxrl_core.errors import CheckpointError
from oxrl_core.types import Progress

FORMAT = 2
MANIFEST = "manifest.json"
PACKAGES = ("oxrl", "torch", "transformers", "deepspeed")  # whose versions the manifest tells
STEP = re.compile(r"^step_\d{8,}$")
READ_BYTES = 1 << 22


class CheckpointStore:
    """The checkpoints of one run. One process writes; any number may read."""

    def __init__(self, root: Path, keep: int, keep_best: int = 0) -> None:
        self.root = root
        self.keep = keep
        self.keep_best = keep_best
        self.quarantined: list[Path] = []  # found torn by newest(), for the caller to report
        self._open: tuple[int, Path] | None = None

    def commit(self, step: int, write: Callable[[Path], None], progress: Progress, **facts: Any) -> Path:
        """The committed folder of a checkpoint that one process writes: `write(folder)` fills it."""
        write(self.begin(step))
        return self.finish(progress, **facts)

    def begin(self, step: int) -> Path:
        """An empty folder for the ranks to write into; nothing counts before finish()."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        folder = self.root / f".tmp-{step}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        self._open = (step, folder)
        return folder

    def sweep(self) -> None:
        """Removes what an unfinished save or removal left behind: it may be what fills the disk."""
        if self.root.is_dir():
            for leftover in self.root.iterdir():
                if leftover.name.startswith((".tmp-", ".trash-")):
                    shutil.rmtree(leftover)

    def finish(self, progress: Progress, score: float | None = None, **facts: Any) -> Path:
        """The committed folder, after every rank has written: hashes, manifest, fsync, rename, then old ones go.

        `score` is what the best are chosen by, higher is better; `facts` (config hash, run id, ...) go into the
        manifest. A valid checkpoint of the same step is kept as it is.
        """
        if self._open is None:
            raise CheckpointError("finish() without begin()", str(self.root), "call begin(step) first")
        step, folder = self._open
        entries = {str(file.relative_to(folder)): _seal(file) for file in _files_below(folder)}
        if not entries:
            raise CheckpointError(f"nothing was written for step {step}", str(folder), "let every rank save first")
        _compare_with_ranks(folder, entries)
        parent = next((path for path in self.committed() if step_of(path) < step), None)
        manifest = {
            "format": FORMAT,
            "step": step,
            "progress": asdict(progress),
            "parent": parent.name if parent is not None else None,
            "saved_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "score": score,
            "versions": {package: _version(package) for package in PACKAGES},
            **facts,
            "files": entries,
        }
        with (folder / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(_render(manifest))
            file.flush()
            os.fsync(file.fileno())
        _sync_folders(folder)
        target = self.root / f"step_{step:08d}"
        if target.is_dir() and read_manifest(target) is not None:
            shutil.rmtree(folder)  # a resumed run came by here again; replacing would open a moment without it
        else:
            if target.exists():
                self._quarantine(target)
            folder.rename(target)
            sync_folder(self.root)
        self._open = None
        for old in self._outdated():
            trash = self.root / f".trash-{uuid.uuid4().hex[:8]}"
            old.rename(trash)
            shutil.rmtree(trash)
        return target

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that matches its manifest, hashes included, and the manifest; None where there is none.

        Torn ones that are newer are renamed to bad_* and listed in `quarantined`.
        """
        for folder in self.committed():
            manifest = read_manifest(folder)
            if manifest is not None:
                return folder, manifest
            self._quarantine(folder)
        return None

    def bad(self) -> list[Path]:
        """All that were ever set aside as torn and are still there."""
        return sorted(self.root.glob("bad_step_*")) if self.root.is_dir() else []

    def set_aside(self) -> list[Path]:
        """What was there before a start from scratch, under names that no resume looks at."""
        aside: list[Path] = []
        for folder in [*self.committed(), *self.bad()]:
            aside.append(self.root / f"old_{folder.name}-{uuid.uuid4().hex[:6]}")
            folder.rename(aside[-1])
        return aside

    def _outdated(self) -> list[Path]:
        """Committed folders that are neither among the newest few nor among the best few."""
        steps = self.committed()
        kept = set(steps[: self.keep])
        if self.keep_best:
            scores = {folder: _score_of(folder) for folder in steps}
            judged = [folder for folder in steps if scores[folder] is not None]  # newest first, so it wins a tie
            kept.update(sorted(judged, key=lambda folder: scores[folder] or 0.0, reverse=True)[: self.keep_best])
        return [folder for folder in steps if folder not in kept]

    def committed(self) -> list[Path]:
        """Committed folders, newest first."""
        if not self.root.is_dir():
            return []
        folders = [path for path in self.root.iterdir() if STEP.match(path.name) and path.is_dir()]
        return sorted(folders, key=step_of, reverse=True)

    def _quarantine(self, folder: Path) -> None:
        bad = self.root / f"bad_{folder.name}-{uuid.uuid4().hex[:6]}"
        folder.rename(bad)
        self.quarantined.append(bad)


def step_of(folder: Path) -> int:
    """The step that a committed folder is named after."""
    return int(folder.name.removeprefix("step_"))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a committed checkpoint if it and every file are as they were written, else None."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        # Byte for byte what was rendered: neither a changed number nor a changed blank passes.
        digest = manifest.pop("digest")
        if manifest["format"] != FORMAT or _render(manifest) != text:
            return None
        manifest["digest"] = digest
        for name, entry in manifest["files"].items():
            if (folder / name).stat().st_size != entry["size"] or hash_file(folder / name) != entry["xxh3"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # torn in whatever way: the caller quarantines it and reports that
    return manifest


def _render(manifest: Mapping[str, Any]) -> str:
    """The manifest as text, with the hash of all that it says; the same for the same manifest."""
    digest = xxhash.xxh3_128(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "digest": digest}, indent=1) + "\n"


def _score_of(folder: Path) -> float | None:
    """The score in a manifest; files are not looked at."""
    try:
        score = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("score")
    except (OSError, ValueError, AttributeError):
        return None
    return float(score) if isinstance(score, (int, float)) else None


def hash_file(path: Path) -> str:
    """xxh3-128 of a file, in hex: 3.4 GB/s, so that checking does not cost more than writing."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_rank_receipt(folder: Path, rank: int, files: Mapping[str, str]) -> None:
    """Writes rank-k.ok: name and hash of what this rank wrote, for finish() to compare. It is whole or not there."""
    unfinished = folder / f".rank-{rank:05d}.ok"
    unfinished.write_text(json.dumps(dict(files)), encoding="utf-8")
    unfinished.rename(folder / f"rank-{rank:05d}.ok")


def num_receipts(folder: Path) -> int:
    """How many ranks have written all of theirs; what a critic left in a folder below is older."""
    return sum(1 for _ in folder.glob("rank-*.ok"))


def _compare_with_ranks(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Raises where a file is not what its rank wrote (a shared disk that has not caught up, a full disk)."""
    for receipt in sorted(folder.rglob("rank-*.ok")):  # a critic's stand in a folder below
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


def sync_below(folder: Path) -> None:
    """Every file and folder below it is on disk afterwards."""
    for file in _files_below(folder):
        _sync(file, os.O_RDONLY)
    _sync_folders(folder)


def sync_folder(folder: Path) -> None:
    """The names in a folder are on disk afterwards."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync_folders(folder: Path) -> None:
    for below in {folder, *(path for path in folder.rglob("*") if path.is_dir())}:
        sync_folder(below)


def _seal(file: Path) -> dict[str, Any]:
    """Size and hash of a file that is on disk afterwards."""
    _sync(file, os.O_RDONLY)
    return {"size": file.stat().st_size, "xxh3": hash_file(file)}


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
