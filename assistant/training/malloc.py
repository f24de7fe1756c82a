"""How the process allocates memory while it trains on a processor."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Option numbers of `mallopt`, from glibc's malloc.h."""
HEAP_STEP = 64 * 2**20
"""Bytes by which the heap grows."""


def keep_freed_memory() -> bool:
    """Keep freed memory for the next step, in large pages, instead of returning it to the system.

    By default glibc returns every large block, and the next step gets it again page by page, filled with zeros. That
    takes a seventh of a step of GPT-2 124M. The change holds for the whole process, so only commands that train make
    it.

    Returns:
        Whether it was done: only on Linux with glibc, and only if the user has set no MALLOC_ variable.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        set_option = libc.mallopt
    except (OSError, AttributeError):  # another libc
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first large block
    # oneDNN caches 1,024 kernels, about thirty for every batch size. 512 need 0.14 GB more than 64 and save no time.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    return all(
        set_option(number, value) == 1
        for number, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, HEAP_STEP))
    )
