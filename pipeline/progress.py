"""Progress from what is on storage: commit records against plan.json, so that it is true on every runner."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

from predecode.transforms.commits import CommitRecord
from predecode.transforms.errors import OutputError
from predecode.transforms.format import MANIFEST_FILE, SPLITS
from predecode.transforms.plan_file import read_plan
from predecode.transforms.staging import staging_of
from predecode.transforms.storage import Folder

_COMMIT_FILE = re.compile(rf"({'|'.join(SPLITS)})/shard-\d+\.json")
_POLL_SECONDS = 0.5
_LINE_SECONDS = 10.0


class Progress:
    """Watches an output from a thread of its own while a job writes to it.

    On a terminal a bar, else a line now and then. It only looks: whatever goes wrong here never harms the job.
    """

    def __init__(self, output: Folder, *, extends: bool = False, stream: TextIO | None = None) -> None:
        """Prepares; nothing is looked at before the `with` block.

        Args:
            output: Where the job writes.
            extends: Whether it stages what is new beside a complete output.
            stream: Where to print; standard error if not given.
        """
        self._output = output
        self._extends = extends and output.size(MANIFEST_FILE) is not None
        self._folder = staging_of(output) if self._extends else output
        self._stream = stream or sys.stderr
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._seen: set[str] = set()
        self._frames = 0

    def __enter__(self) -> Self:
        """Notes what an earlier job committed, and starts watching."""
        self._seen = self._commit_files()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops watching."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        total = self._wait_for_plan()
        if not total:
            return
        is_terminal = self._stream.isatty()
        started = last_line = time.monotonic()
        first = len(self._seen)
        bar = tqdm(total=total, initial=min(first, total), unit="shard", file=self._stream, disable=not is_terminal)
        with bar:
            while True:
                stopped = self._stopped.wait(_POLL_SECONDS)
                done = self._poll()
                seconds = time.monotonic() - started
                bar.set_postfix_str(f"{self._frames / seconds:,.0f} frames/s", refresh=False)
                bar.update(min(done, total) - bar.n)
                if not is_terminal and done > first and (stopped or time.monotonic() - last_line >= _LINE_SECONDS):
                    last_line = time.monotonic()
                    print(self._line(done, first, total, seconds), file=self._stream, flush=True)
                if stopped:
                    return

    def _line(self, done: int, first: int, total: int, seconds: float) -> str:
        left = (total - done) * seconds / (done - first)
        rate = f"{self._frames:,} frames, {self._frames / seconds:,.0f} frames/s"
        return f"{done}/{total} shards, {rate}" + (f", about {left:.0f} s left" if done < total else "")

    def _wait_for_plan(self) -> int:
        """Number of shards planned; 0 where the job ended first."""
        while not self._stopped.wait(_POLL_SECONDS):
            try:
                plan = read_plan(self._folder)
                kept = (read_plan(self._output) or {}) if self._extends else {}
            except (OSError, OutputError):
                continue
            if plan:
                return _count_shards(plan, kept)
        return 0

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
        return len(self._seen | names)  # What was staged is gone in the end.

    def _commit_files(self) -> set[str]:
        try:
            return {name for name in self._folder.names() if _COMMIT_FILE.fullmatch(name)}
        except OSError:
            return self._seen


def _count_shards(plan: Mapping[str, Any], kept: Mapping[str, Any]) -> int:
    """Shards of those groups of a plan that another plan has not."""
    known = {name: split["groups"] for name, split in kept.get("splits", {}).items()}
    groups = [(name, group) for name, split in plan["splits"].items() for group in split["groups"]]
    return sum(group[-1] for name, group in groups if group not in known.get(name, []))
