"""The two tables of a split, opened and checked: its segments in source order, and its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.reader.tables import Condition, map_described, numbers, read_columns, require
from predecode.transforms.errors import FormatError
from predecode.transforms.format import (
    MANIFEST_FILE,
    ORDER_COLUMNS,
    SHARD_COLUMNS,
    SPLITS,
    order_file,
    shard_table_file,
)
from predecode.transforms.manifest import MANIFEST_REMEDY
from predecode.transforms.storage import Folder

MAX_COUNT = 1 << 40
"""No episode, anchor, sample or byte of a shard has a greater number: sums and products stay far below 2 ** 63."""

_NEEDED = ("anchors", "samples", "tar_bytes", "index_bytes", "index_sha256")
_SHARD_TYPES = {name: SHARD_COLUMNS[name] for name in _NEEDED}


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What the manifest says that a split has."""

    anchors: int
    episodes: int
    samples: int
    shards: int

    @classmethod
    def of(cls, folder: Folder, manifest: Mapping[str, Any], split: str) -> SplitCounts:
        """From the content of a manifest.

        Raises:
            FormatError: there is no such split.
        """
        try:
            splits = manifest["splits"]
            if split not in splits:
                there = ", ".join(name for name in SPLITS if name in splits)
                raise FormatError(f"{folder} has no split {split!r}. It has: {there}. Give one of these.")
            counts = [splits[split][name] for name in ("anchors", "episodes", "samples", "shards")]
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"{folder.path(MANIFEST_FILE)} lacks counts of split {split}: {error!r:.200}. {MANIFEST_REMEDY}"
            ) from error
        sound = all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts)
        require(sound, f"counts of split {split}, got {counts}", where=folder.path(MANIFEST_FILE))
        return cls(*counts)


@dataclass(frozen=True, slots=True)
class ShardTable:
    """A row per shard, by number.

    Attributes:
        anchors: int64, (shards,).
        samples: int64, (shards,).
        tar_bytes: int64, (shards,).
        index_bytes: int64, (shards,).
        index_sha256: Strings, (shards,).
    """

    anchors: NDArray[np.int64]
    samples: NDArray[np.int64]
    tar_bytes: NDArray[np.int64]
    index_bytes: NDArray[np.int64]
    index_sha256: pa.StringArray

    @classmethod
    def open(
        cls, folder: Folder, manifest: Mapping[str, Any], split: str, counts: SplitCounts, *, verify: bool
    ) -> ShardTable:
        """Reads and checks the table.

        Raises:
            FormatError: it is not what was written.
            OSError: storage fails.
        """
        name = shard_table_file(split)
        where = folder.path(name)
        columns = read_columns(map_described(folder, manifest, name, verify=verify), _SHARD_TYPES, where=where)
        index_sha256 = columns.pop("index_sha256")
        table = cls(**{key: numbers(column, where=where) for key, column in columns.items()}, index_sha256=index_sha256)
        require(len(table.anchors) == counts.shards, f"{counts.shards} shards, as in the manifest", where=where)
        for column in (table.anchors, table.samples, table.tar_bytes, table.index_bytes):
            require((column >= 0) & (column <= MAX_COUNT), f"counts from 0 to {MAX_COUNT}", where=where)
        sums = (int(table.anchors.sum()), int(table.samples.sum()))
        require(sums == (counts.anchors, counts.samples), "as many anchors and samples as the manifest", where=where)
        return table


@dataclass(frozen=True, slots=True)
class ShardRows:
    """What the order says that the rows of one shard's index are.

    Attributes:
        episode: int64, (samples,).
        first_anchor: int64, (samples,): number of the first anchor in its episode.
        anchors: int64, (samples,): how many.
    """

    episode: NDArray[np.int64]
    first_anchor: NDArray[np.int64]
    anchors: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """A row per segment, by episode and anchor; segments don't overlap.

    Attributes:
        episode_index: int64, (segments,).
        first_anchor: int64, (segments,): in anchor numbers.
        anchors: int64, (segments,): at least 1.
        shard: int32, (segments,).
        first_sample: int32, (segments,): row of the shard's index.
        samples: int32, (segments,).
        anchors_per_sample: Of every sample but the last of a segment.
        where: What to call the table in messages.
    """

    episode_index: NDArray[np.int64]
    first_anchor: NDArray[np.int64]
    anchors: NDArray[np.int64]
    shard: NDArray[np.int32]
    first_sample: NDArray[np.int32]
    samples: NDArray[np.int32]
    anchors_per_sample: int
    where: str

    @classmethod
    def open(
        cls,
        folder: Folder,
        manifest: Mapping[str, Any],
        split: str,
        counts: SplitCounts,
        shards: ShardTable,
        *,
        anchors_per_sample: int,
        verify: bool,
    ) -> SegmentTable:
        """Reads and checks the table.

        Raises:
            FormatError: it is not what was written.
            OSError: storage fails.
        """
        name = order_file(split)
        where = folder.path(name)
        columns = read_columns(map_described(folder, manifest, name, verify=verify), ORDER_COLUMNS, where=where)
        places = {key: numbers(column, where=where) for key, column in columns.items()}
        table = cls(**places, anchors_per_sample=anchors_per_sample, where=where)
        table._check(shards, counts)
        return table

    def _check(self, shards: ShardTable, counts: SplitCounts) -> None:
        """What a segment says can be, as far as the two tables tell, and nothing is missing."""

        def check(condition: Condition, expected: str) -> None:
            require(condition, expected, where=self.where)

        episode, first_anchor, anchors = self.episode_index, self.first_anchor, self.anchors
        for column in (episode, first_anchor, anchors, self.first_sample):
            check((column >= 0) & (column <= MAX_COUNT), f"numbers from 0 to {MAX_COUNT}")
        check(anchors >= 1, "at least one anchor in each segment")
        check((self.shard >= 0) & (self.shard < counts.shards), f"shards below {counts.shards}")
        follows = (episode[1:] == episode[:-1]) & (first_anchor[1:] >= first_anchor[:-1] + anchors[:-1])
        check(follows | (episode[1:] > episode[:-1]), "segments by episode and anchor that don't overlap")
        check(self.samples == -(-anchors // self.anchors_per_sample), f"{self.anchors_per_sample} anchors a sample")
        stops = self.first_sample.astype(np.int64) + self.samples
        check(stops <= shards.samples[self.shard], "samples that are in their shard")
        check(int(anchors.sum()) == counts.anchors, f"{counts.anchors} anchors, as in the manifest")
        check(len(self.episodes) == counts.episodes, f"{counts.episodes} episodes, as in the manifest")

    @property
    def episodes(self) -> NDArray[np.int64]:
        """Numbers of the episodes, ascending."""
        is_first = np.ones(len(self.episode_index), np.bool_)
        np.not_equal(self.episode_index[1:], self.episode_index[:-1], out=is_first[1:])
        return self.episode_index[is_first]

    def rows_of_shard(self, number: int, num_samples: int) -> ShardRows:
        """What the rows of a shard's index must be.

        Args:
            number: Of the shard.
            num_samples: Rows that its index has.

        Raises:
            FormatError: the segments of the shard don't fill these rows.
        """
        segments = np.flatnonzero(self.shard == number)
        segments = segments[np.argsort(self.first_sample[segments])]
        samples = self.samples[segments].astype(np.int64)
        starts = np.cumsum(samples) - samples
        whole = int(samples.sum()) == num_samples and np.array_equal(starts, self.first_sample[segments])
        require(whole, f"segments that fill the {num_samples} samples of shard {number}", where=self.where)
        segment = np.repeat(segments, samples)
        skipped = (np.arange(num_samples) - np.repeat(starts, samples)) * self.anchors_per_sample
        return ShardRows(
            self.episode_index[segment],
            self.first_anchor[segment] + skipped,
            np.minimum(self.anchors_per_sample, self.anchors[segment] - skipped),
        )
