#!/usr/bin/env python3
"""Ways to read training windows from an output, timed: `benchmark_reader` runs it as a process of its own.

It prints one JSON object per way. Each is measured in a forked process, so that libraries are imported once, and memory
is its own. "bare" decodes the same images into one buffer a thread and does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader

from predecode.reader import WindowDataset, WindowLoader
from predecode.reader.buffers import room_for_images
from predecode.reader.camera import CameraMember
from predecode.reader.ranges import open_ranges
from predecode.reader.selection import select_windows
from predecode.reader.split import SplitIndex
from predecode.transforms.images import image_codec
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder

BATCH_SIZE = 16
WARM_UP_BATCHES = 20
"""Fill caches and queues."""

WAYS = ("bare", "loader-uint8", "loader-float32", "workers0", "workers1", "workers2")
MORE_WAYS = ("loader-uint8-unverified", "workers0-float32", "workers1-float32", "workers2-float32")


@dataclass(frozen=True)
class Reading:
    """What is measured.

    Attributes:
        output: Of `predecode materialize`.
        way: One of `WAYS` or `MORE_WAYS`.
        threads: That decode.
        seconds: To measure.
    """

    output: str
    way: str
    threads: int
    seconds: float


def measure(reading: Reading) -> dict[str, Any]:
    """Rates, times and the peak memory of this process."""
    found = decode(reading) if reading.way == "bare" else read(reading)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"reader": reading.way, **found, "peak MB": peak_bytes / (1 << 20)}


def apart(function: Callable[[Any], dict[str, Any]], argument: object) -> dict[str, Any]:
    """Calls a function in a forked process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, argument).result()


def read(reading: Reading) -> dict[str, float]:
    """Reads by `WindowLoader`, or by PyTorch's DataLoader with so many workers; uint8 if not named otherwise."""
    started = time.perf_counter()
    kind, *flags = reading.way.split("-")
    dataset = WindowDataset(reading.output, return_uint8="float32" not in flags, verify="unverified" not in flags)
    opened = time.perf_counter()
    if kind == "loader":
        loader: Any = WindowLoader(dataset, BATCH_SIZE, num_threads=reading.threads)
    else:
        workers = int(kind.removeprefix("workers"))
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers)
    sizes = passes(loader)
    next(sizes)
    found = {"open s": opened - started, "first batch s": time.perf_counter() - opened}
    found |= timed(sizes, reading.seconds)
    if kind == "loader":
        found["resume s"] = resume_seconds(dataset, reading.threads)
    return found


def passes(batches: Any) -> Iterator[int]:
    """Sizes of the batches, pass after pass."""
    while True:
        for batch in batches:
            yield len(batch["index"])


def timed(sizes: Iterator[int], seconds: float) -> dict[str, float]:
    """Rate of what comes after the first batches."""
    for _ in range(WARM_UP_BATCHES):
        next(sizes)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += next(sizes)
    return {"samples/s": count / (time.perf_counter() - started)}


def resume_seconds(dataset: WindowDataset, threads: int) -> float:
    """From the middle of the third epoch on: time until the next batch is there."""
    loader = WindowLoader(dataset, BATCH_SIZE, num_threads=threads)
    state = loader.state_dict() | {"epoch": 2, "position": len(dataset) // 2}
    started = time.perf_counter()
    loader.load_state_dict(state)
    next(iter(loader))
    return time.perf_counter() - started


def decode(reading: Reading) -> dict[str, float]:
    """The bare loop: items whose images are decoded, per second."""
    contents, sizes, codec_name = encoded_images(reading.output)
    codec = image_codec(codec_name)

    def work(part: int) -> int:
        rooms = [room_for_images(math.prod(size)).reshape(size) for size in sizes]
        count, deadline = 0, time.perf_counter() + reading.seconds
        for item in itertools.cycle(contents[part :: reading.threads]):
            for images, room in zip(item, rooms, strict=True):
                for image in images:
                    codec.decode(image, out=room)
            count += 1
            if time.perf_counter() > deadline:
                break
        return count

    with ThreadPoolExecutor(reading.threads) as pool:
        return {"samples/s": sum(pool.map(work, range(reading.threads))) / reading.seconds}


def encoded_images(output: str, count: int = 500) -> tuple[list[list[list[Any]]], list[tuple[int, ...]], str]:
    """What the bare loop decodes.

    Returns:
        Per item, camera and frame of its window the encoded image; per camera the shape of one; the codec's name.
    """
    folder = Folder.of(output)
    manifest = read_manifest(folder)
    index, ranges = SplitIndex(folder, manifest, "train"), open_ranges(folder)
    item_format = index.item_format
    cameras = [
        CameraMember(window, item_format.camera_member(window.feature.name), item_format.has_runs)
        for window in select_windows(item_format, None).cameras
    ]
    located = index.locate(np.random.default_rng(0).permutation(index.num_items)[:count])
    frames = located.anchor_number * item_format.anchor_stride
    contents = []
    for shard, row, frame in zip(located.shard.tolist(), located.row.tolist(), frames.tolist(), strict=True):
        found = index.shard_index(shard)
        shown = [camera.shown(found, row, frame) if camera.is_run else camera.whole() for camera in cameras]
        contents.append(
            [
                ranges.read_ranges(camera.ranges(found, row, images))
                for camera, images in zip(cameras, shown, strict=True)
            ]
        )
    return contents, [camera.window.feature.shape for camera in cameras], manifest["image"]["image_codec"]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS + MORE_WAYS)}; default: the former")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that decode; default: the cores")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way; default %(default)s")
    given = parser.parse_args()
    if unknown := set(given.ways) - {*WAYS, *MORE_WAYS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    pa.scalar("")  # Arrow imports pandas here, where it is installed: it is not what is measured.
    for way in given.ways or WAYS:
        print(json.dumps(apart(measure, Reading(str(given.output), way, given.threads, given.seconds))), flush=True)


if __name__ == "__main__":
    main()
