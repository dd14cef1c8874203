"""Memory that is freed stays with the process: what the next frames need is not cleared by the kernel again."""

from __future__ import annotations

import ctypes
import functools
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names in glibc's malloc.h."""

_MMAP_BYTES = 32 << 20
"""Larger pieces come from the kernel one by one, and go back to it: the most that glibc allows (mallopt(3))."""

_TRIM_BYTES = 64 << 20
"""As much free memory at the end of a heap stays there."""


@functools.cache
def keep_freed_memory() -> None:
    """Has the allocator of this process keep memory for the next piece of its size.

    Frames are decoded some megabytes at a time, and their encoded images stay. Left to itself, glibc gives the pieces
    between these back to the kernel and soon asks for others, each page of which the kernel clears first
    (docs/pixels.md). Elsewhere than with glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
