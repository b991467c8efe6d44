"""What went wrong with a disk, said so that it can be mended. Imports nothing but the standard library."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from oxrl_core.errors import MachineError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def disk_error(error: OSError, where: Path | str, go_on: str = "") -> MachineError:
    """The error of a disk as one that says what to do; `go_on` says what comes after the mending."""
    place = str(error.filename or where)
    reason = error.strerror or str(error)
    if error.errno in FULL:
        what = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}.get(
            error.errno or 0, "a file may not grow that large here (ulimit -f)"
        )
        mend = "free some space"
    elif error.errno in FORBIDDEN:
        what, mend = f"the folder cannot be written: {reason}", "make it writable"
    elif error.errno == errno.EIO:
        what, mend = "the disk failed (input/output error)", "look at the kernel's log (dmesg), copy the run elsewhere"
    else:
        what, mend = f"it cannot be written: {reason}", "see that the disk is there and writable"
    return MachineError(what, place, f"{mend}; {go_on}" if go_on else mend)


@contextmanager
def disk_errors(where: Path | str, go_on: str = "") -> Generator[None]:
    """Within it whatever the disk refuses is a MachineError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, where, go_on) from error


@contextmanager
def disk_refusals(where: Path | str, go_on: str = "") -> Generator[None]:
    """Within it what a full, a locked or a failing disk says is a MachineError; other errors stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS, errno.EIO):
            raise
        raise disk_error(error, where, go_on) from error
