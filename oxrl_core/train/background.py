"""A save that goes on while a rank trains: its copy is taken at once, the files are written by a thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.errors import OxrlError, RunFailure

if TYPE_CHECKING:
    from oxrl_core.engine.state import Snapshot


class BackgroundSave:
    """The snapshots of one rank on their way to the disk. The last receipt is that of the first snapshot."""

    def __init__(self, snapshots: Sequence[tuple[Snapshot, Path]]) -> None:
        self.snapshots = list(snapshots)
        self.error: OxrlError | None = None
        self.thread = threading.Thread(target=self._write, name="save", daemon=True)

    def write(self) -> None:
        """Writes them here and now."""
        # The policy's last: its receipt says that this rank has written everything.
        for snapshot, folder in reversed(self.snapshots):
            snapshot.write(folder)
        self.snapshots = []  # host memory of three times the weights

    def start(self) -> None:
        """Writes them in a thread."""
        self.thread.start()

    def failure(self, wait: bool) -> OxrlError | None:
        """Why it failed; none while it goes on and after it went well. `wait` for its end first."""
        if wait and self.thread.ident is not None:
            self.thread.join()
        return self.error

    def _write(self) -> None:
        try:
            self.write()
        except OxrlError as error:
            self.error = error
        except Exception as error:  # the end of the thread: whoever asks next must hear of it
            self.error = RunFailure(f"the save failed: {type(error).__name__}: {error}", "the thread that saves")
