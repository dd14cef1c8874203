"""Watching an output while a job writes it, as a reader that does not wait, and as an accountant of what is written."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

from predecode.reader import WindowDataset
from predecode.transforms.errors import FormatError
from predecode.transforms.storage import TEMPORARY_MARK
from tests.pipeline.running import tree

_POLL_SECONDS = 0.02
_OPENED_AT_MOST = 3


class Watch:
    """Polls an output from a thread of its own until the `with` block ends.

    Attributes:
        opened: The output's files, as a reader found them when it could open it; the first few times.
        refused: How often the reader could not open it.
    """

    def __init__(self, output: Path) -> None:
        self.opened: list[dict[str, str]] = []
        self.refused = 0
        self._output = output
        self._versions: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def wait_for_commits(self, number: int, seconds: float = 180) -> set[str]:
        """Waits until so many shards are committed; returns the names of their tars."""
        deadline = time.monotonic() + seconds
        while len(committed := self._committed()) < number:
            assert time.monotonic() < deadline, f"{len(committed)} of {number} shards after {seconds} s"
            time.sleep(_POLL_SECONDS)
        return committed

    def wait_until_opened(self, seconds: float = 30) -> None:
        """Waits until the reader has opened the output as often as it will."""
        deadline = time.monotonic() + seconds
        while len(self.opened) < _OPENED_AT_MOST:
            assert time.monotonic() < deadline, "the reader cannot open the output"
            time.sleep(_POLL_SECONDS)

    @property
    def written_again(self) -> list[str]:
        """Names of the tars that were written more than once, each as often as that."""
        tars = [(name, found) for name, found in list(self._versions.items()) if name.endswith(".tar")]
        return [name for name, found in tars for _ in range(len(found) - 1)]

    def _committed(self) -> set[str]:
        return {name.removesuffix("json") + "tar" for name in list(self._versions) if name.endswith(".json")}

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            for path in self._output.glob("*/shard-*"):
                if TEMPORARY_MARK not in path.name:
                    found = path.stat()
                    self._versions[path.name].add((found.st_ino, found.st_mtime_ns))
            if len(self.opened) < _OPENED_AT_MOST:
                self._open()

    def _open(self) -> None:
        try:
            WindowDataset(str(self._output))
        except FormatError:
            self.refused += 1
        else:
            self.opened.append(tree(self._output))
