"""Doing a small part of the work, spread over the dataset, to know what all of it will take."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from predecode.transforms.episodes import Episode
from predecode.transforms.errors import DataError
from predecode.transforms.layout import Layout
from predecode.transforms.recipe import Recipe
from predecode.transforms.samples import SegmentEncoder
from predecode.transforms.shard_writer import index_table, tar_blocks
from predecode.transforms.shards import Segment
from predecode.transforms.sources.base import SourceReader

MIN_SEGMENTS = 16
"""Fewer say too little of how much segments differ."""

RELATIVE_ERROR = 0.01
"""It is enough when the mean size of a window is known this well: one standard error."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(slots=True)
class Trial:
    """What came of some segments.

    Attributes:
        anchors: Of each segment.
        tar_bytes: Of each, in a tar.
        thread_seconds: Time of all threads together.
        failures: Why others could not be read.
    """

    anchors: list[int] = field(default_factory=list)
    tar_bytes: list[int] = field(default_factory=list)
    thread_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def bytes_per_anchor(self) -> float:
        """Mean, over all anchors that were tried."""
        return sum(self.tar_bytes) / max(1, sum(self.anchors))

    @property
    def seconds_per_anchor(self) -> float:
        """Of one thread while all work."""
        return self.thread_seconds / max(1, sum(self.anchors))

    @property
    def relative_error(self) -> float:
        """Standard error of `bytes_per_anchor`, as a part of it: that of a ratio, as segments differ in length."""
        count, mean = len(self.anchors), self.bytes_per_anchor
        if count < 2 or not mean:
            return math.inf
        squares = sum((size - mean * anchors) ** 2 for size, anchors in zip(self.tar_bytes, self.anchors, strict=True))
        return math.sqrt(squares / (count * (count - 1))) / (sum(self.anchors) / count) / mean

    @property
    def is_enough(self) -> bool:
        """Whether more segments would tell little more."""
        return len(self.anchors) >= MIN_SEGMENTS and self.relative_error <= RELATIVE_ERROR


def try_segments(
    recipe: Recipe,
    layout: Layout,
    episodes: Mapping[int, Episode],
    segments: Sequence[Segment],
    *,
    num_threads: int,
    seconds_at_most: float,
) -> Trial:
    """Reads, decodes, encodes and hashes segments as the job does, in as many threads; keeps only the figures.

    Args:
        recipe: What to make.
        layout: How it is laid out.
        episodes: By episode_index.
        segments: All of the job, in source order; not all are tried where there are many.
        num_threads: That work at a time.
        seconds_at_most: No segment is begun later.
    """
    trial, lock = Trial(), threading.Lock()
    until = time.monotonic() + seconds_at_most
    waiting = (segments[place] for place in spread_order(len(segments)))

    def next_segment() -> Segment | None:
        with lock:
            begun = bool(trial.anchors or trial.failures)
            is_over = trial.is_enough or (begun and time.monotonic() > until)
            return None if is_over else next(waiting, None)

    def work() -> None:
        encoder = SegmentEncoder(recipe, layout)
        if recipe.options.image_size:
            import torch

            torch.set_num_threads(1)  # As in the job.
        with recipe.source.reader(tolerance_s=recipe.options.tolerance_s) as reader:
            while (segment := next_segment()) is not None:
                started = time.perf_counter()
                try:
                    size_bytes = _try(encoder, reader, episodes[segment.episode_index], segment)
                except DataError as error:
                    with lock:
                        trial.failures.append(str(error))
                    continue
                with lock:
                    trial.thread_seconds += time.perf_counter() - started
                    trial.anchors.append(segment.num_anchors)
                    trial.tar_bytes.append(size_bytes)

    with ThreadPoolExecutor(num_threads) as pool:
        for future in [pool.submit(work) for _ in range(num_threads)]:
            future.result()
    return trial


def _try(encoder: SegmentEncoder, reader: SourceReader, episode: Episode, segment: Segment) -> int:
    """Does with a segment all that the job does but for writing; gives its size in a tar."""
    samples = encoder.encode(reader, episode, segment).samples
    content = b"".join(block for sample in samples for block in tar_blocks(sample))
    hashlib.sha256(content)
    index_table(samples, {extension: isinstance(part, list) for extension, part in samples[0].members.items()})
    return len(content)


def spread_order(count: int) -> Iterator[int]:
    """The numbers below `count`, each once, such that those of any beginning lie evenly between 0 and `count`.

    >>> list(spread_order(8))
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    # Multiples of the golden ratio lie evenly however many there are; of whole numbers that does not hold.
    points = np.arange(count) * _GOLDEN % 1.0
    ranks = np.argsort(np.argsort(points))
    return iter(ranks.tolist())
