"""A quicker start and end: imports are not looked through for garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kept_for_good() -> Iterator[None]:
    """What the block imports is there until the process ends, and is never looked through for garbage.

    Beam and torch make some hundred thousand objects, which Python's collector goes through while they are imported and
    once more at the end of the process: a second in all. Where Beam is loaded already, nothing is changed: this process
    may have garbage of its own.
    """
    if "apache_beam" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
