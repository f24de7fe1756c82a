"""How the process gets its memory while it trains on a processor."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Numbers of `mallopt` in glibc's malloc.h."""
GROWS_BY = 64 * 2**20
"""Bytes that the heap is made larger by."""

TRIM_EVERY = 8
"""Steps. Batches of all sizes leave gaps between what they used, and what is kept would grow from step to step."""
_trim: Callable[[int], int] | None = None


def keep_memory() -> bool:
    """Keep what was freed for the next step, in large pages, instead of giving it back to the system.

    glibc gives every large block back, and the next step gets it again page by page, each filled with zeros: a seventh
    of a step of GPT-2 124M. What is set here holds for the process, so it is for those that do nothing else.

    Returns:
        Whether it was done: on Linux with glibc, and where the user has set none of this.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        set_option, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another libc
        return False
    global _trim
    _trim = trim
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first large block
    # oneDNN keeps 1,024 kernels, and every size of batch has some thirty of its own that none needs again: half a GB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    return all(
        set_option(number, value) == 1
        for number, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, GROWS_BY))
    )


def trim_memory(step: int) -> None:
    """Behind every TRIM_EVERY-th step, give back what nothing uses, if it is kept in this process."""
    if _trim is not None and step % TRIM_EVERY == 0:
        _trim(0)
