"""Adding up a split from the commit records of its shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from predecode.transforms.commits import CommitRecord, find_commit
from predecode.transforms.episodes import Quarantine
from predecode.transforms.errors import OutputError
from predecode.transforms.fidelity import CameraMeter
from predecode.transforms.format import ORDER_COLUMNS, SHARD_COLUMNS, tar_file
from predecode.transforms.statistics import MergedRows
from predecode.transforms.storage import Folder

_READERS = 16
"""Commit records read at a time: they are small, storage may be far away."""


@dataclass(slots=True)
class SplitTally:
    """Sums over the shards of one split.

    Attributes:
        shards: A row of the shard table per shard.
        segments: A row of the order table per segment, in shard order.
        cameras: Per camera sums over its frames.
        rows: Merged statistics of numbers.
        lost: Segments that could not be read.
        places: Where each shard lies.
    """

    shards: list[tuple[int | str, ...]] = field(default_factory=list)
    segments: list[tuple[int, ...]] = field(default_factory=list)
    cameras: dict[str, CameraMeter] = field(default_factory=dict)
    rows: MergedRows = field(default_factory=MergedRows)
    lost: list[Quarantine] = field(default_factory=list)
    places: list[Folder] = field(default_factory=list)

    def add(self, number: int, place: Folder, record: CommitRecord) -> None:
        """Adds the next shard."""
        self.places.append(place)
        self.shards.append(
            (
                record.num_anchors,
                sum(record.samples_per_segment),
                record.tar.size_bytes,
                record.tar.sha256,
                record.index.size_bytes,
                record.index.sha256,
                record.plan_hash,
                hashlib.sha256(record.to_bytes()).hexdigest(),
            )
        )
        first_sample = 0
        for segment, samples in zip(record.segments, record.samples_per_segment, strict=True):
            where = (number, first_sample, samples)
            self.segments.append((segment.episode_index, segment.first_anchor, segment.num_anchors, *where))
            first_sample += samples
        for name, meter in record.cameras.items():
            self.cameras.setdefault(name, CameraMeter()).add(meter)
        self.rows.add(record.rows)
        self.lost += record.lost

    @property
    def num_anchors(self) -> int:
        """Anchors in the split."""
        return sum(row[2] for row in self.segments)

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return sum(row[5] for row in self.segments)

    @property
    def tar_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(int(row[2]) for row in self.shards)

    def anchors_per_episode(self) -> dict[int, int]:
        """Anchors of each episode that has any, by episode_index, ascending."""
        counts: Counter[int] = Counter()
        for row in self.segments:
            counts[row[0]] += row[2]
        return dict(sorted(counts.items()))

    def shard_table(self) -> pa.Table:
        """One row per shard."""
        return _table(self.shards, SHARD_COLUMNS)

    def order_table(self) -> pa.Table:
        """One row per segment in source order: by episode, then anchor."""
        return _table(sorted(self.segments), ORDER_COLUMNS)


def tally_split(places: Sequence[Folder], split: str, plan_hashes: Mapping[int, str]) -> SplitTally:
    """Reads all commit records of a split, in shard order.

    Args:
        places: Where the shards may be; the first that has one of the right plan counts.
        split: "train" or "val".
        plan_hashes: Per shard the plan that it must have been written from.

    Raises:
        OutputError: a shard is not committed, or by another plan.
    """
    tally = SplitTally()
    with ThreadPoolExecutor(_READERS) as pool:
        numbers = sorted(plan_hashes)
        found = pool.map(lambda number: find_commit(places, split, number, plan_hashes[number]), numbers)
        for number, commit in zip(numbers, found, strict=True):
            if commit is None:
                raise OutputError(
                    f"{places[0].path(tar_file(split, number))} is not committed by this plan any more. Does another "
                    "job write to the same output? Run the same command again, alone."
                )
            tally.add(number, *commit)
    return tally


def _table(rows: list[tuple[int, ...]] | list[tuple[int | str, ...]], columns: Mapping[str, pa.DataType]) -> pa.Table:
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pa.table(
        {name: pa.array(column, kind) for (name, kind), column in zip(columns.items(), values, strict=True)}
    )
