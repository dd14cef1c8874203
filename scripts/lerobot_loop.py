#!/usr/bin/env python3
"""lerobot's own loaders, timed: `benchmark_reader` runs it by a Python that has lerobot 0.4.4.

It prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset
from torch.utils.data import DataLoader
from torchvision.transforms import v2

BATCH_SIZE = 16


def batches(kind: str, root: str, deltas: dict[str, list[float]], size: int | None) -> Iterator[int]:
    """Sizes of the batches, pass after pass: "map0" and "map2" with so many workers, or "streaming"."""
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


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("map0", "map2", "streaming"))
    parser.add_argument("root")
    parser.add_argument("deltas", type=json.loads, help="JSON: seconds by feature")
    parser.add_argument("--size", type=int)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    started = time.perf_counter()
    sizes = batches(given.kind, given.root, given.deltas, given.size)
    next(sizes)
    first_seconds = time.perf_counter() - started
    next(sizes)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < given.seconds:
        count += next(sizes)
    print(json.dumps({"samples/s": count / (time.perf_counter() - started), "first batch s": first_seconds}))


if __name__ == "__main__":
    main()
