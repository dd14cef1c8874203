"""Quick turns at the interpreter's lock, while threads decode.

A thread that is done with an image needs the interpreter for some microseconds until its next one. By default another
that is in Python keeps it waiting for up to 5 ms, a batch's worth of images, with a core idle meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

SWITCH_SECONDS = 1e-4
"""Measured on two cores (docs/benchmarks.md): shorter gives no more."""

_lock = threading.Lock()
_found: list[float] = []
"""The interval that was found, once for each block that is open."""


@contextlib.contextmanager
def quick_turns() -> Iterator[None]:
    """Within the block threads of this process switch after a tenth of a millisecond, if not sooner already.

    The interval is the interpreter's, so that all threads have it: one that trains gets its turns sooner, too. The last
    of several blocks, in whatever order they end, puts back what the first found.
    """
    with _lock:
        _found.append(sys.getswitchinterval() if not _found else _found[0])
        sys.setswitchinterval(min(SWITCH_SECONDS, _found[0]))
    try:
        yield
    finally:
        with _lock:
            first = _found.pop()
            if not _found:
                sys.setswitchinterval(first)
