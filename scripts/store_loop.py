"""Reads windows from an output, wherever it lies, and prints as JSON how fast; benchmark_stores runs it on one core."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from predecode.reader import WindowDataset, WindowLoader


def main() -> None:
    """Reads for some seconds; the first batch is timed apart, from the opening of the output on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--storage-options", default="{}")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--server-core", type=int, default=1, help="whose load is told, too")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--ahead", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--warm-batches", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--cache", help="a folder for copies of shards")
    parser.add_argument("--cache-bytes", default="100GB")
    parser.add_argument("--window-shards", type=int, default=16)
    parser.add_argument("--windowed", action="store_true", help="the order for bytes that are far away")
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})
    started = time.perf_counter()
    options = json.loads(given.storage_options)
    cache = {"cache_dir": given.cache, "cache_bytes": given.cache_bytes}
    dataset = WindowDataset(given.output, storage_options=options, return_uint8=True, **cache)
    loader = WindowLoader(
        dataset,
        given.batch_size,
        num_threads=given.threads,
        prefetch_batches=given.ahead,
        drop_last=True,
        shuffle="windowed" if given.windowed else True,
        window_shards=given.window_shards,
    )
    batches = passes(loader)
    next(batches)
    first = time.perf_counter() - started
    for _ in range(given.warm_batches):  # Indices are opened and connections made by then.
        next(batches)
    started, idle_before = time.perf_counter(), idle_seconds(given.server_core)
    done = 0
    while (seconds := time.perf_counter() - started) < given.seconds:
        next(batches)
        done += given.batch_size
    idle = (idle_seconds(given.server_core) - idle_before) / seconds
    print(json.dumps({"first batch s": first, "samples/s": done / seconds, "server's core busy": 1 - idle}))


def idle_seconds(core: int) -> float:
    """How long a core has had nothing to do since the machine started."""
    lines = Path("/proc/stat").read_text().splitlines()
    fields = next(line.split() for line in lines if line.startswith(f"cpu{core} "))
    return int(fields[4]) / os.sysconf("SC_CLK_TCK")


def passes(loader: WindowLoader) -> Iterator[dict[str, Any]]:
    """Batches of one epoch after the other."""
    while True:
        yield from loader


if __name__ == "__main__":
    main()
