"""A program for tests: the command line in a process that kills itself, for real, at a chosen moment.

Usage: killing.py MOMENT[:SIGNAL[+SIGNAL]] ARGUMENT...

MOMENT is `before:TEXT:N` or `after:TEXT:N`: around the publishing of the N-th file whose name contains TEXT, or
`within:TEXT:N`: when half of that file is written. SIGNAL is SIGKILL if not given; a second one comes a little later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from predecode.pipeline.cli import main
from predecode.transforms import storage

_LOCK = threading.Lock()


def install(moment: str) -> None:
    """Puts the kill into the one place that publishes files."""
    when, text, number, *rest = moment.split(":")
    signals = [signal.Signals[name] for name in (rest or ["SIGKILL"])[0].split("+")]
    left = [int(number)]
    replace = os.replace

    def killing_replace(source: Any, target: Any) -> None:
        with _LOCK:
            if text in str(target) and when != "within":
                left[0] -= 1
                if left[0] == 0:
                    if when == "after":
                        replace(source, target)
                    kill(signals)
                    if when == "after":
                        return
            replace(source, target)

    fsync = os.fsync

    def killing_fsync(descriptor: int) -> None:
        with _LOCK:
            if when == "within" and text in os.readlink(f"/proc/self/fd/{descriptor}"):
                left[0] -= 1
                if left[0] == 0:
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                    kill(signals)
            fsync(descriptor)

    storage.os.replace = killing_replace  # type: ignore[attr-defined]
    storage.os.fsync = killing_fsync  # type: ignore[attr-defined]


def kill(signals: list[signal.Signals]) -> None:
    """Sends this process signals, with time in between for what each begins."""
    for number, each in enumerate(signals):
        time.sleep(2 * number)  # The main thread may be busy in C for a while, and two signals would be one.
        os.kill(os.getpid(), each)
    if len(signals) > 1:
        time.sleep(20)  # The second ends the process when its main thread comes to it: nothing is published till then.


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background ignores it.
    install(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
