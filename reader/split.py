"""One split of an output: how many items it has, and where each of them lies."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from predecode.reader.item_format import ItemFormat
from predecode.reader.ranges import missing
from predecode.reader.shard_cache import CachedShard
from predecode.reader.shard_index import ShardIndex
from predecode.reader.split_tables import SegmentTable, ShardTable, SplitCounts
from predecode.reader.tables import map_file, require
from predecode.reader.windowed import StorageOrder
from predecode.transforms.errors import FormatError, UsageError
from predecode.transforms.format import index_file, shard_number, tar_file
from predecode.transforms.storage import Folder

MAX_MAPPED_INDICES = 1 << 14
"""Indices of local shards that stay mapped into memory: more than nearly every output has shards."""

MAX_FETCHED_BYTES = 256 << 20
"""Indices of far shards are held in memory up to this much: those of the shards used last."""

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


@dataclass(frozen=True, slots=True)
class Located:
    """Where items lie; all arrays are (items,). A slice of it is that of some of them.

    Attributes:
        shard: int32, number of the shard.
        row: int64, the sample: row of the shard's index.
        anchor: int64, number of the anchor within the sample.
        episode: int64, episode_index.
        anchor_number: int64, number of the anchor within its episode; its frame is this times the stride.
    """

    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    anchor: NDArray[np.int64]
    episode: NDArray[np.int64]
    anchor_number: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, part: slice) -> Located:
        return Located(
            self.shard[part], self.row[part], self.anchor[part], self.episode[part], self.anchor_number[part]
        )


_OPENED_AT_ONCE = 16


class SplitIndex:
    """One split, opened. Threads may share it; forked processes too; pickled, it opens the split again.

    Its tables are read and checked at once, the index of a shard when the shard is first touched. Local files are
    mapped into memory, not loaded.
    """

    def __init__(
        self,
        folder: Folder,
        manifest: Mapping[str, Any],
        split: str,
        *,
        episodes: Sequence[int] | None = None,
        verify: bool = True,
    ) -> None:
        """Opens a split.

        Args:
            folder: The output.
            manifest: As `read_manifest` gives it.
            split: "train" or "val".
            episodes: Only items of these; in any order, None for all.
            verify: Whether files are checked against their checksums. What they say is checked in any case.

        Raises:
            FormatError: there is no such split, or a table is not what was written.
            UsageError: an episode is not in the split.
            OSError: storage fails.
        """
        self._arguments = (folder, manifest, split, episodes, verify)
        self.item_format = ItemFormat.of(manifest)
        counts = SplitCounts.of(folder, manifest, split)
        self._shards = shards = ShardTable.open(folder, manifest, split, counts, verify=verify)
        per_sample = self.item_format.anchors_per_sample
        self._segments = SegmentTable.open(
            folder, manifest, split, counts, shards, anchors_per_sample=per_sample, verify=verify
        )
        self._chosen = None if episodes is None else _rows_of(self._segments, episodes, split)
        self._stop_item = np.cumsum(self._of_chosen(self._segments.anchors))
        limit = MAX_MAPPED_INDICES if folder.is_local else MAX_FETCHED_BYTES // int(shards.index_bytes.max(initial=1))
        self._is_far = not folder.is_local
        self._touched: set[int] = set()
        opener = _ShardOpener(folder, split, self.item_format, shards, self._segments, verify)
        self._open_shard = functools.lru_cache(max(1, limit))(opener.open)

    def __reduce__(self) -> tuple[Any, ...]:
        folder, manifest, split, episodes, verify = self._arguments
        return functools.partial(SplitIndex, episodes=episodes, verify=verify), (folder, manifest, split)

    @property
    def num_items(self) -> int:
        """Anchors of the selection."""
        return int(self._stop_item[-1]) if len(self._stop_item) else 0

    @property
    def episodes(self) -> list[int]:
        """Numbers of the selection's episodes, ascending."""
        found: list[int] = np.unique(self._of_chosen(self._segments.episode_index)).tolist()
        return found

    def items_of(self, episode_index: int) -> range:
        """Numbers of the items of an episode; empty where the selection has none."""
        episode = self._of_chosen(self._segments.episode_index)
        first, stop = (int(np.searchsorted(episode, episode_index, side=side)) for side in _SIDES)
        return range(*(int(self._stop_item[place - 1]) if place else 0 for place in (first, stop)))

    def storage_order(self) -> StorageOrder:
        """The selection's items in the order in which they lie in the shards."""
        table = self._segments
        rows = np.arange(len(table.anchors)) if self._chosen is None else self._chosen
        return StorageOrder.of(
            shard=table.shard[rows], first_sample=table.first_sample[rows], anchors=table.anchors[rows]
        )

    def locate(self, items: NDArray[np.int64]) -> Located:
        """Says where items lie.

        Args:
            items: Numbers of items, (items,), in any order.

        Raises:
            IndexError: there is no such item.
        """
        items = np.asarray(items, np.int64)
        if items.size and not 0 <= items.min() <= items.max() < self.num_items:
            raise IndexError(f"Expected items from 0 to {self.num_items}, got {items.min()} to {items.max()}.")
        place = np.searchsorted(self._stop_item, items, side="right")
        table, segment = self._segments, place if self._chosen is None else self._chosen[place]
        skipped = items - self._stop_item[place] + table.anchors[segment]
        sample, anchor = np.divmod(skipped, table.anchors_per_sample)
        return Located(
            shard=table.shard[segment],
            row=table.first_sample[segment].astype(np.int64) + sample,
            anchor=anchor,
            episode=table.episode_index[segment],
            anchor_number=table.first_anchor[segment] + skipped,
        )

    def find_sample(self, episode_index: int, first_anchor: int) -> tuple[int, int] | None:
        """Number of the shard of a sample, and its row there; None where the split has no such sample.

        Args:
            episode_index: Of its episode, whether selected or not.
            first_anchor: Number of its first anchor in the episode.
        """
        table = self._segments
        first, stop = (int(np.searchsorted(table.episode_index, episode_index, side=side)) for side in _SIDES)
        segment = first - 1 + int(np.searchsorted(table.first_anchor[first:stop], first_anchor, side="right"))
        if segment < first:
            return None
        skipped = first_anchor - int(table.first_anchor[segment])
        sample, within = divmod(skipped, table.anchors_per_sample)
        if within or skipped >= table.anchors[segment]:
            return None
        return int(table.shard[segment]), int(table.first_sample[segment]) + sample

    def shard_index(self, shard: int) -> ShardIndex:
        """The index of a shard; opened, and checked, when it is asked for first.

        Args:
            shard: Its number, as `Located` has it.

        Raises:
            FormatError: index or tar is missing or is not what was written.
            OSError: storage fails.
        """
        return self._open_shard(shard)

    def cached_shard(self, tar: str) -> CachedShard:
        """What tells a tar of the split from all others.

        Args:
            tar: Relative path.
        """
        folder, table, number = self._arguments[0], self._shards, shard_number(tar)
        return CachedShard.of(
            folder.url,
            tar,
            size_bytes=int(table.tar_bytes[number]),
            index_sha256=table.index_sha256[number].as_py(),
        )

    def tar_files(self, shards: NDArray[np.int32] | Sequence[int]) -> list[str]:
        """Relative paths of the tars of some shards, each once, in their order."""
        return [tar_file(self._arguments[2], number) for number in dict.fromkeys(np.asarray(shards).tolist())]

    def open_shards(self, located: Located) -> None:
        """Opens the indices that some items need, where they are far away: all at once, not each when its turn comes.

        Raises:
            OSError: storage fails.
        """
        if not self._is_far or self._touched.issuperset(needed := np.unique(located.shard).tolist()):
            return
        with ThreadPoolExecutor(_OPENED_AT_ONCE, thread_name_prefix="indices") as pool:
            for opening in [pool.submit(self._open_shard, shard) for shard in needed]:
                with contextlib.suppress(FormatError):  # Said when it is read, with what is to be done about it.
                    opening.result()
        self._touched.update(needed)

    def _of_chosen(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        return column if self._chosen is None else column[self._chosen]


@dataclass(frozen=True)
class _ShardOpener:
    """What is needed to open the index of a shard."""

    folder: Folder
    split: str
    item_format: ItemFormat
    shards: ShardTable
    segments: SegmentTable
    verify: bool

    def open(self, number: int) -> ShardIndex:
        """See `SplitIndex.shard_index`. The tar is not read, but must be whole."""
        tar, tar_bytes = tar_file(self.split, number), int(self.shards.tar_bytes[number])
        found_bytes = self.folder.size(tar)
        if found_bytes is None:
            raise missing(self.folder, tar)
        require(found_bytes == tar_bytes, f"{tar_bytes} bytes, got {found_bytes}", where=self.folder.path(tar))
        name = index_file(self.split, number)
        content = map_file(
            self.folder,
            name,
            size_bytes=int(self.shards.index_bytes[number]),
            sha256=self.shards.index_sha256[number].as_py() if self.verify else None,
        )
        num_samples = int(self.shards.samples[number])
        index = ShardIndex.parse(
            content,
            self.item_format,
            folder=self.folder,
            split=self.split,
            number=number,
            tar_bytes=tar_bytes,
            num_samples=num_samples,
        )
        index.check_rows(self.segments.rows_of_shard(number, num_samples), self.item_format.anchor_stride)
        return index


def _rows_of(segments: SegmentTable, episodes: Sequence[int], split: str) -> NDArray[np.int64]:
    """Rows of the segments of some episodes.

    Raises:
        UsageError: an episode has none.
    """
    there = segments.episodes
    try:
        wanted = np.array([operator.index(episode) for episode in episodes], np.int64)
    except (TypeError, OverflowError):
        raise UsageError(f"Expected numbers of episodes, got {episodes!r:.200}.") from None
    absent = wanted[~np.isin(wanted, there)].tolist()
    if absent or not len(wanted):
        got = f"got {absent[:10]}" if absent else "got none"
        raise UsageError(f"Expected episodes that split {split} has, which are {_in_words(there)}; {got}.")
    return np.flatnonzero(np.isin(segments.episode_index, wanted))


def _in_words(episodes: NDArray[np.int64]) -> str:
    """Ascending numbers for a person.

    >>> _in_words(np.array([0, 1, 2, 5]))
    '0 to 2, 5'
    """
    runs = np.split(episodes, np.flatnonzero(np.diff(episodes) > 1) + 1)
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:20] if len(run)]
    return ", ".join(parts) + (", ..." if len(runs) > 20 else "")
