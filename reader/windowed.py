"""The order of an epoch where bytes are far away: mixed within windows of a few shards.

A true permutation asks for one small range of bytes here and one there. This one takes the shards in a seeded order, so
many at a time, and mixes the items of these: whoever reads a window's shards ahead, in sequence, has all bytes that the
window's positions ask for. docs/shuffling.md says how well that mixes.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predecode.reader.permutation import Items, Permutation, Positions, unsigned_positions
from predecode.transforms.errors import UsageError
from predecode.transforms.hashing import order_key


@dataclass(frozen=True, slots=True, eq=False)
class StorageOrder:
    """Items in the order in which they lie in the shards: of a whole split, or of some of its episodes.

    A place is an item's number in that order. It is the same in every epoch.

    Attributes:
        shards: (S,) numbers of the shards that hold items, ascending.
        shard_starts: (S + 1,) place of each shard's first item; at last the number of items.
        run_starts: (R + 1,) place of each run's first item; at last the number of items.
        run_items: (R,) number of each run's first item.
    """

    shards: NDArray[np.int64]
    shard_starts: NDArray[np.int64]
    run_starts: NDArray[np.int64]
    run_items: NDArray[np.int64]

    @classmethod
    def of(cls, *, shard: ArrayLike, first_sample: ArrayLike, anchors: ArrayLike) -> StorageOrder:
        """From columns of `order.arrow`, a row per segment in source order; items are numbered along it.

        >>> order = StorageOrder.of(shard=[1, 0, 1], first_sample=[5, 0, 0], anchors=[2, 1, 2])
        >>> order.items(np.arange(5)).tolist()
        [2, 3, 4, 0, 1]
        """
        shard_of_run, counts = np.asarray(shard, np.int64), np.asarray(anchors, np.int64)
        by_place = np.lexsort((np.asarray(first_sample), shard_of_run))
        run_starts = _starts(counts[by_place])
        shards, first_runs = np.unique(shard_of_run[by_place], return_index=True)
        shard_starts = run_starts[np.append(first_runs, len(counts))]
        return cls(shards, shard_starts, run_starts, _starts(counts)[by_place])

    def __len__(self) -> int:
        return int(self.run_starts[-1])

    def items(self, places: NDArray[np.int64]) -> Items:
        """Item numbers at some places, of the same shape."""
        runs = np.searchsorted(self.run_starts, places, side="right") - 1
        return self.run_items[runs] + (places - self.run_starts[runs])


@dataclass(frozen=True, slots=True)
class Window:
    """Shards whose items are mixed with each other.

    Attributes:
        start: First position of the epoch that asks for one of them.
        stop: One past the last.
        shards: Their numbers, in the order to read them.
    """

    start: int
    stop: int
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WindowedShuffle:
    """A seeded order that stays within a few shards for a long while; another one in each epoch.

    Memory grows with the number of shards, not with that of items.

    Attributes:
        storage: Where the items lie.
        seed: Any number.
        epoch: Any number.
        window_shards: Shards of a window at most; windows have equally many, give or take one.
    """

    storage: StorageOrder
    _: KW_ONLY
    seed: int
    epoch: int
    window_shards: int
    _shards: NDArray[np.int64] = field(init=False, repr=False)  # (S,) indices into storage.shards, as they are read.
    _shard_starts: NDArray[np.int64] = field(init=False, repr=False)  # (S + 1,) positions.
    _window_shards: NDArray[np.int64] = field(init=False, repr=False)  # (windows + 1,) indices into _shards.

    def __post_init__(self) -> None:
        if self.window_shards < 1:
            raise UsageError(f"Expected windows of at least 1 shard, got {self.window_shards}.")
        num_shards = len(self.storage.shards)
        shards = Permutation(num_shards, seed=self.seed, epoch=self.epoch)(np.arange(num_shards))
        num_windows = -(-num_shards // self.window_shards)
        bounds = np.arange(num_windows + 1) * num_shards // max(1, num_windows)
        object.__setattr__(self, "_shards", shards)
        object.__setattr__(self, "_shard_starts", _starts(np.diff(self.storage.shard_starts)[shards]))
        object.__setattr__(self, "_window_shards", bounds)

    def __len__(self) -> int:
        return len(self.storage)

    def __call__(self, positions: Positions) -> Items:
        """Item numbers at some positions, of the same shape.

        Raises:
            UsageError: a position is out of range.
        """
        mixed = unsigned_positions(positions, len(self)).view(np.int64)
        windows = np.searchsorted(self._window_starts, mixed, side="right") - 1
        for number in np.unique(windows).tolist():
            here = windows == number
            start, stop = self._window_starts[number : number + 2].tolist()
            mixed[here] = start + _mixing(stop - start, self.seed, self.epoch, number)(mixed[here] - start)
        shards = np.searchsorted(self._shard_starts, mixed, side="right") - 1
        return self.storage.items(mixed - self._shard_starts[shards] + self.storage.shard_starts[self._shards[shards]])

    def window_at(self, position: int) -> Window:
        """The window that a position belongs to.

        Raises:
            UsageError: the position is out of range.
        """
        unsigned_positions(np.array([position]), len(self))
        number = int(np.searchsorted(self._window_starts, position, side="right")) - 1
        start, stop = self._window_starts[number : number + 2].tolist()
        first, end = self._window_shards[number : number + 2].tolist()
        return Window(start, stop, tuple(self.storage.shards[self._shards[first:end]].tolist()))

    @property
    def _window_starts(self) -> NDArray[np.int64]:
        """(windows + 1,) positions."""
        return self._shard_starts[self._window_shards]


@lru_cache(maxsize=8)  # A batch needs one or two of them, and making one costs more than asking it.
def _mixing(size: int, seed: int, epoch: int, window: int) -> Permutation:
    """How the items of one window are mixed."""
    return Permutation(size, seed=int.from_bytes(order_key("window", seed, window), "big"), epoch=epoch)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of some things that lie side by side begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
