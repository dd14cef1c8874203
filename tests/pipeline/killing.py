"""A program for tests: the command line in a process that kills itself, for real, at a chosen moment.

Usage: killing.py MOMENT ARGUMENT...

MOMENT is `before:TEXT:N` or `after:TEXT:N`: around the publishing of the N-th file whose name contains TEXT, or
`within:TEXT:N`: when half of that file is written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from predecode.pipeline.cli import main
from predecode.transforms import storage

_LOCK = threading.Lock()


def install(moment: str) -> None:
    """Puts the kill into the one place that publishes files."""
    when, text, number = moment.split(":")
    left = [int(number)]
    replace = os.replace

    def killing_replace(source: Any, target: Any) -> None:
        with _LOCK:
            if text in str(target) and when != "within":
                left[0] -= 1
                if left[0] == 0:
                    if when == "after":
                        replace(source, target)
                    os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

    fsync = os.fsync

    def killing_fsync(descriptor: int) -> None:
        with _LOCK:
            if when == "within" and text in os.readlink(f"/proc/self/fd/{descriptor}"):
                left[0] -= 1
                if left[0] == 0:
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                    os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

    storage.os.replace = killing_replace  # type: ignore[attr-defined]
    storage.os.fsync = killing_fsync  # type: ignore[attr-defined]


if __name__ == "__main__":
    install(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
