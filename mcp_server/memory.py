"""What the server weighs: hosts start one for each of their windows."""

from __future__ import annotations

import ctypes
import gc
import linecache

_M_ARENA_MAX = -8  # of glibc's malloc.h


def keep_one_heap() -> None:
    """Threads of this process share one heap; glibc would give each its own, which only ever grows."""
    _of_libc("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """Gives back what building the tools has used: sources read for their docstrings, and garbage."""
    linecache.clearcache()
    gc.collect()
    _of_libc("malloc_trim", 0)


def _of_libc(name: str, *numbers: int) -> None:
    """Calls a function of glibc; another libc has none of that name, and does well without."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return
    function(*numbers)
