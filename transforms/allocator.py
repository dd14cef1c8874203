"""How the C library's allocator treats the memory of this process. With another than glibc's nothing is done."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Names in glibc's malloc.h; mallopt(3) describes them."""

_MMAP_BYTES = 32 << 20
"""Larger pieces come from the kernel one by one, and go back to it: the most that glibc allows."""

_TRIM_BYTES = 64 << 20
"""As much free memory at the end of a heap stays there."""

MAX_ARENAS = 2
"""As in the Containerfile, for workers that Beam's own program starts."""


def keep_freed_memory() -> None:
    """Has the allocator keep memory for the next piece of its size.

    Frames are decoded some megabytes at a time, and their encoded images stay. Left to itself, glibc gives the pieces
    between these back to the kernel and soon asks for others, each page of which the kernel clears first
    (docs/pixels.md).
    """
    _set(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    _set(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def share_heaps() -> None:
    """Has all threads of this process take memory from two heaps; to be called before there are threads.

    A worker has some thirty threads, of which a few work at a time, and each heap keeps what was once needed of it
    (docs/benchmarks.md, "Planning").
    """
    _set(_M_ARENA_MAX, MAX_ARENAS)


def _set(name: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(name, value)
