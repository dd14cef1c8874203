"""Ctrl-C: once ends a command in order, twice ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_STANDARD_ERROR = 2
_FIRST = b"\nStopping: what is in work is finished, which can take some seconds. Ctrl-C again leaves at once.\n"
_SECOND = b"\nLeft at once. What is committed is kept: run the same command again to go on.\n"


class Interrupts:
    """Within its block, the first SIGINT raises KeyboardInterrupt, and the second ends the process.

    A library may make something else of the KeyboardInterrupt: Beam an error of the step that it happened in, an import
    that it breaks off an ImportError. So whoever catches any exception asks whether there was one.

    Leaving at once is safe: a file appears under its name when it is complete, and the next run removes the others.

    Attributes:
        happened: Whether there was a SIGINT.
    """

    def __init__(self, exit_status: int) -> None:
        """Changes nothing yet.

        Args:
            exit_status: Of the process, where it is ended.
        """
        self.happened = False
        self._exit_status = exit_status
        self._previous: Any = None

    def __enter__(self) -> Self:
        """Takes over, where this is the main thread and a SIGINT is not to be ignored, as in a shell's background."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Puts back what was there."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        # Not by print: the signal may have come while something is being printed.
        if self.happened:
            os.write(_STANDARD_ERROR, _SECOND)
            os._exit(self._exit_status)
        self.happened = True
        os.write(_STANDARD_ERROR, _FIRST)
        raise KeyboardInterrupt
