"""Reads windows from an output, wherever it lies, and prints as JSON how fast; benchmark_stores runs it on one core."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from predecode.reader import WindowDataset, WindowLoader


def main() -> None:
    """Reads for some seconds; the first batch is timed apart, from the opening of the output on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--storage-options", default="{}")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--ahead", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--warm-batches", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--cache", help="a folder for copies of shards")
    parser.add_argument("--windowed", action="store_true", help="the order for bytes that are far away")
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})
    started = time.perf_counter()
    options = json.loads(given.storage_options)
    dataset = WindowDataset(given.output, storage_options=options, return_uint8=True, cache_dir=given.cache)
    loader = WindowLoader(
        dataset,
        given.batch_size,
        num_threads=given.threads,
        prefetch_batches=given.ahead,
        drop_last=True,
        shuffle="windowed" if given.windowed else True,
    )
    batches = passes(loader)
    next(batches)
    first = time.perf_counter() - started
    for _ in range(given.warm_batches):  # Indices are opened and connections made by then.
        next(batches)
    started = time.perf_counter()
    done = 0
    while (seconds := time.perf_counter() - started) < given.seconds:
        next(batches)
        done += given.batch_size
    print(json.dumps({"first batch s": first, "samples/s": done / seconds}))


def passes(loader: WindowLoader) -> Iterator[dict[str, Any]]:
    """Batches of one epoch after the other."""
    while True:
        yield from loader


if __name__ == "__main__":
    main()
