"""Where a model's files are: a listing with sizes, and bounded reads. Nothing is written, nothing is run."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MAX_FILES = 5000


class OutOfTime(Exception):
    """The time for this model is used up."""


class Budget:
    """The seconds that a look at one model may take in all."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self, most: float = 3.0) -> float:
        """Seconds for the next wait; raises OutOfTime where there are none."""
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise OutOfTime
        return min(seconds, most)


@dataclass
class Repository:
    """What a hub says about a repository, or a folder about itself."""

    sizes: dict[str, int | None]  # path -> bytes, None where nobody says
    revision: str = ""
    license: str = ""
    gated: bool | None = None
    downloads: int | None = None
    tags: list[str] = field(default_factory=list[str])
    pipeline: str = ""
    links: list[str] = field(default_factory=list[str])  # symbolic links that lead out, and what is no plain file


class Source(Protocol):
    """A place with the files of one model."""

    repository: Repository

    def read(self, path: str, most: int) -> bytes:
        """At most `most` + 1 bytes from the beginning of a file: one more than `most` says that there are more."""
        ...

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """So many bytes of a file from `start` on; fewer where it ends before."""
        ...


class FolderSource:
    """A local folder. Links that lead out of it (but for those of the hub's own cache) are listed, never followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder.resolve()
        # A snapshot of the hub's cache holds links to the blobs beside it.
        self.blobs = self.root.parent.parent / "blobs" if self.root.parent.name == "snapshots" else None
        self.repository = Repository(sizes={})
        for parent, folders, files in os.walk(folder, followlinks=False):
            for name in [*files, *(name for name in folders if (Path(parent) / name).is_symlink())]:
                if len(self.repository.sizes) + len(self.repository.links) < MAX_FILES:
                    self._note(Path(parent) / name)

    def _note(self, file: Path) -> None:
        name = file.relative_to(self.folder).as_posix()
        try:
            target = file.resolve(strict=True)
            state = target.stat()
        except (OSError, RuntimeError):  # a link to nowhere, or in a circle
            self.repository.links.append(name)
            return
        inside = target.is_relative_to(self.root) or (self.blobs is not None and target.is_relative_to(self.blobs))
        if inside and stat.S_ISREG(state.st_mode):
            self.repository.sizes[name] = state.st_size
        else:
            self.repository.links.append(name)

    def read(self, path: str, most: int) -> bytes:
        return self.read_range(path, 0, most + 1)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        if path not in self.repository.sizes:
            raise FileNotFoundError(path)
        target = (self.folder / path).resolve(strict=True)
        # Neither a link that was put there since nor a pipe that never answers.
        with os.fdopen(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            stream.seek(start)
            return stream.read(length)
