"""How many threads decode where nobody says."""

from __future__ import annotations

import os

_PIXELS_PER_THREAD = 25_000
"""Python's part of a window is the same however small its images are, and threads take turns at it: where windows are
smaller than this, another thread only makes the others wait (docs/benchmarks.md, "More cores")."""

_MIN_THREADS = 2


def default_num_threads(window_pixels: int) -> int:
    """One per core, as far as they are a gain; ranks on one machine share its cores.

    Args:
        window_pixels: Of all images of a window.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")  # torchrun and accelerate say it.
    cores = len(os.sched_getaffinity(0)) // (int(ranks) if ranks.isdecimal() and int(ranks) else 1)
    return max(1, min(cores, max(_MIN_THREADS, window_pixels // _PIXELS_PER_THREAD)))
