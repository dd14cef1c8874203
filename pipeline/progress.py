"""Progress from what is on storage: commit records against plan.json, so that it is true on every runner."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from predecode.pipeline.committed import commit_files, count_planned
from predecode.transforms.commits import CommitRecord
from predecode.transforms.errors import OutputError
from predecode.transforms.format import MANIFEST_FILE
from predecode.transforms.plan_file import read_plan
from predecode.transforms.staging import staging_of
from predecode.transforms.storage import Folder

_POLL_SECONDS = 0.5
_FAR_POLL_SECONDS = 5.0
"""An object store is asked for a listing each time, which is paid for."""

_JOIN_SECONDS = 5.0
"""Storage that does not answer is waited for by the job, not by who watches it."""

_LINE_SECONDS = 10.0
_PLANNING_SECONDS = 5.0


class Progress:
    """Watches an output from a thread of its own while a job writes to it.

    On a terminal a bar, else a line now and then; both say when the job plans, and when it writes what describes the
    shards. It only looks: whatever goes wrong here never harms the job.
    """

    def __init__(
        self, output: Folder, *, overwrite: bool = False, extends: bool = False, stream: TextIO | None = None
    ) -> None:
        """Prepares; nothing is looked at before the `with` block.

        Args:
            output: Where the job writes.
            overwrite: Whether the job may replace the plan and the shards that are there: these count at the end only.
            extends: Whether it stages what is new beside a complete output.
            stream: Where to print; standard error if not given.
        """
        self._output = output
        self._extends = extends and output.size(MANIFEST_FILE) is not None
        self._folder = staging_of(output) if self._extends else output
        self._stream = stream or sys.stderr
        self._poll_seconds = _POLL_SECONDS if output.is_local else _FAR_POLL_SECONDS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._seen: set[str] = set()
        self._stale: set[str] = set()
        self._overwrite = overwrite
        self._frames = 0

    def __enter__(self) -> Self:
        """Notes what an earlier job committed, and starts watching."""
        self._seen = self._commit_files()
        self._stale = set(self._seen) if self._overwrite else set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops watching."""
        self._stopped.set()
        self._thread.join(_JOIN_SECONDS)

    def _watch(self) -> None:
        total = self._wait_for_plan()
        if not total:
            return
        is_terminal = self._stream.isatty()
        started = last_line = time.monotonic()
        first = len(self._seen - self._stale)
        is_finishing = False
        bar = tqdm(total=total, initial=min(first, total), unit="shard", file=self._stream, disable=not is_terminal)
        with bar:
            while True:
                stopped = self._stopped.wait(self._poll_seconds)
                done = self._poll()
                if self._overwrite and done > first:  # The plan that is replaced may have been read.
                    total = bar.total = self._planned() or total
                if stopped and self._overwrite:  # Of the old shards those are left that the new plan has, too.
                    done = len(self._commit_files())
                seconds = time.monotonic() - started
                bar.set_postfix_str(f"{self._frames / seconds:,.0f} frames/s", refresh=False)
                bar.update(min(done, total) - bar.n)
                if not is_terminal and done > first and (stopped or time.monotonic() - last_line >= _LINE_SECONDS):
                    last_line = time.monotonic()
                    print(self._line(done, first, total, seconds), file=self._stream, flush=True)
                if stopped:
                    return
                if done >= total and not is_finishing:
                    is_finishing = True
                    self._say("all shards are there: checking the counts, writing what describes them")

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)

    def _line(self, done: int, first: int, total: int, seconds: float) -> str:
        left = (total - done) * seconds / (done - first)
        rate = f"{self._frames:,} frames, {self._frames / seconds:,.0f} frames/s"
        return f"{done}/{total} shards, {rate}" + (f", about {left:.0f} s left" if done < total else "")

    def _wait_for_plan(self) -> int:
        """Number of shards planned; 0 where the job ended first."""
        started = time.monotonic()
        said = False
        while not self._stopped.wait(self._poll_seconds):
            if total := self._planned():
                return total
            if not said and time.monotonic() - started > _PLANNING_SECONDS:
                said = True
                self._say("planning: reading the source's metadata, trying its first episodes")
        return 0

    def _planned(self) -> int:
        """Number of shards to be committed in the folder that is watched; 0 where there is no plan yet."""
        try:
            plan, kept = read_plan(self._folder), read_plan(self._output) if self._extends else None
        except (OSError, OutputError):
            return 0
        return count_planned(plan or {}, kept=kept or {})

    def _poll(self) -> int:
        """Adds the frames of new commit records; returns how many records there are."""
        names = self._commit_files()
        for name in sorted(names - self._seen):
            try:
                record = CommitRecord.from_bytes(self._folder.read(name))
            except (OSError, ValueError):
                continue
            self._frames += sum(meter.num_frames for meter in record.cameras.values())
            self._seen.add(name)
        return len((self._seen | names) - self._stale)  # What was staged is gone in the end.

    def _commit_files(self) -> set[str]:
        try:
            return commit_files(self._folder)
        except OSError:
            return self._seen
