"""Running a program and measuring it from outside, for the benchmarks."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """A program that ended well.

    Attributes:
        started: When it was started: seconds since 1970, as files have them.
        seconds: Wall time, from start to end.
        cpu_seconds: Processor time of all its threads.
        peak_bytes: The most memory that was resident.
        output: What it printed.
    """

    started: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def run(command: Sequence[str | Path]) -> Finished:
    """Runs a program in a fresh process and waits for it.

    Raises:
        ChildProcessError: it failed; it has said why on stderr.
    """
    started = time.time()
    clock = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - clock
    if process.returncode:
        raise ChildProcessError(f"{' '.join(map(str, command))} failed with exit status {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(started, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, output)


def materialize(source: Path, output: Path, options: Sequence[str], *, threads: int) -> Finished:
    """Runs the job in a fresh process."""
    settings = ["--no-progress", "--json", f"--direct_num_workers={threads}", *options]
    return run([sys.executable, "-m", "predecode.pipeline", "materialize", source, output, *settings])


@contextlib.contextmanager
def watching_workers() -> Iterator[dict[str, int]]:
    """Peak memory of each Python worker that an engine starts on this machine meanwhile, in bytes, by its process."""
    peaks: dict[str, int] = {}
    others = {path.name for path in Path("/proc").glob("[0-9]*")}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for path in Path("/proc").glob("[0-9]*"):
                if path.name in others:
                    continue
                with contextlib.suppress(OSError):
                    if b"predecode-worker-boot" in (path / "cmdline").read_bytes():
                        lines = (path / "status").read_text().splitlines()
                        peak = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
                        peaks[path.name] = int(peak.split()[1]) << 10

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows of the same keys in columns, numbers with few digits."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for number, line in enumerate(cells):
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |", flush=True)
        if not number:
            print("|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
