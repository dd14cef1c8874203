#!/usr/bin/env python3
"""lerobot's own loaders, timed: `benchmark_reader` runs it by a Python that has lerobot 0.4.4.

It prints one JSON object per loader: "map0" and "map2", by PyTorch's DataLoader with so many workers, and "streaming".
Each is measured in a forked process, as `read_loop.py` does it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset
from torch.utils.data import DataLoader
from torchvision.transforms import v2

BATCH_SIZE = 16
LOADERS = ("map0", "map2", "streaming")


def batches(kind: str, root: str, deltas: dict[str, list[float]], size: int | None) -> Iterator[int]:
    """Sizes of the batches, pass after pass."""
    options = {
        "delta_timestamps": deltas,
        "image_transforms": v2.Resize((size, size), antialias=True) if size else None,
    }
    while True:
        if kind == "streaming":
            loader = DataLoader(StreamingLeRobotDataset("any/name", root=root, **options), BATCH_SIZE)
        else:
            dataset = LeRobotDataset("any/name", root=root, **options)
            loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=int(kind.removeprefix("map")))
        for batch in loader:
            yield len(batch["index"])


def measure(kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """Rate, time until the first batch, and the peak memory of this process."""
    started = time.perf_counter()
    sizes = batches(kind, given.root, given.deltas, given.size)
    next(sizes)
    first_seconds = time.perf_counter() - started
    next(sizes)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < given.seconds:
        count += next(sizes)
    rate = count / (time.perf_counter() - started)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"reader": kind, "samples/s": rate, "first batch s": first_seconds, "peak MB": peak_mb}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("deltas", type=json.loads, help="JSON: seconds by feature")
    parser.add_argument("--size", type=int, help="side of the images, where they are resized")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each loader; default %(default)s")
    given = parser.parse_args()
    for kind in LOADERS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            print(json.dumps(pool.submit(measure, kind, given).result()), flush=True)


if __name__ == "__main__":
    main()
