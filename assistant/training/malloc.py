"""How the process gets its memory while it trains on a processor."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Numbers of `mallopt` in glibc's malloc.h."""
GROWS_BY = 64 * 2**20
"""Bytes that the heap is made larger by."""


def keep_freed_memory() -> bool:
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
        set_option = libc.mallopt
    except (OSError, AttributeError):  # another libc
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first large block
    # oneDNN keeps 1,024 kernels, some thirty for every size of batch. 512 take 0.14 GB more than 64 and win nothing.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    return all(
        set_option(number, value) == 1
        for number, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, GROWS_BY))
    )
