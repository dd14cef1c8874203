#!/usr/bin/env python3
"""One way to read training windows from an output, timed: `benchmark_reader` runs it as a process of its own.

It prints one JSON object. "bare" decodes the same images into one buffer a thread and does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from predecode.reader import WindowDataset, WindowLoader
from predecode.reader.ranges import open_ranges
from predecode.reader.split import SplitIndex
from predecode.transforms.images import image_codec
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder

BATCH_SIZE = 16


def passes(make: Callable[[], Any]) -> Iterator[int]:
    """Sizes of the batches, pass after pass."""
    batches = make()
    while True:
        for batch in batches:
            yield len(batch["index"])


def timed(sizes: Iterator[int], seconds: float) -> dict[str, float]:
    """Rate of what comes after the first batches, which fill caches and queues."""
    for _ in range(20):
        next(sizes)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += next(sizes)
    return {"samples/s": count / (time.perf_counter() - started)}


def read(kind: str, output: str, *, uint8: bool, threads: int, seconds: float) -> dict[str, float]:
    """Reads by `WindowLoader`, "loader" or "loader-unverified", or by PyTorch's DataLoader, "workers0" and on."""
    started = time.perf_counter()
    dataset = WindowDataset(output, return_uint8=uint8, verify=kind != "loader-unverified")
    if kind.startswith("loader"):
        sizes = passes(lambda: WindowLoader(dataset, BATCH_SIZE, num_threads=threads))
    else:
        workers = int(kind.removeprefix("workers"))
        sizes = passes(lambda: DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers))
    next(sizes)
    first_seconds = time.perf_counter() - started
    return timed(sizes, seconds) | {"first batch s": first_seconds}


def decode(output: str, *, threads: int, seconds: float) -> dict[str, float]:
    """The bare loop: items whose images are decoded, per second; of outputs with one image a camera."""
    folder = Folder.of(output)
    manifest = read_manifest(folder)
    index, codec = SplitIndex(folder, manifest, "train"), image_codec(manifest["image"]["image_codec"])
    cameras = index.item_format.cameras
    items = np.random.default_rng(0).permutation(index.num_items)[:2000]
    located = index.locate(items)
    reader = open_ranges(folder)
    contents = []
    for shard, row in zip(located.shard.tolist(), located.row.tolist(), strict=True):
        shard_index = index.shard_index(shard)
        members = [index.item_format.camera_member(camera.name) for camera in cameras]
        contents.append(reader.read_ranges([shard_index.member_range(row, member) for member in members]))

    def work(part: int) -> int:
        rooms = [np.empty(camera.shape, np.uint8) for camera in cameras]
        count, deadline = 0, time.perf_counter() + seconds
        for images in itertools.cycle(contents[part::threads]):
            for image, room in zip(images, rooms, strict=True):
                codec.decode(image, out=room)
            count += 1
            if time.perf_counter() > deadline:
                break
        return count

    with ThreadPoolExecutor(threads) as pool:
        return {"samples/s": sum(pool.map(work, range(threads))) / seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("bare", "loader", "loader-unverified", "workers0", "workers1", "workers2"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--uint8", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args(arguments)
    settings = {"threads": given.threads, "seconds": given.seconds}
    if given.kind == "bare":
        print(json.dumps(decode(str(given.output), **settings)))
    else:
        print(json.dumps(read(given.kind, str(given.output), uint8=given.uint8, **settings)))


if __name__ == "__main__":
    main()
