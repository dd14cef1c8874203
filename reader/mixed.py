"""`MixedWindows`: several outputs read together, each with its share of every epoch.

An epoch has as many windows of each dataset as its weight says. Which ones, is a true permutation of the dataset's
windows, over and over: an epoch goes on where the one before stopped, so that no window comes once more before all
others of its dataset have come. All of it is computed from (seed, epoch); nothing is drawn beforehand or remembered.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from predecode.reader.batch import Batch, Fetched
from predecode.reader.dataset import WindowDataset, window_number
from predecode.reader.permutation import Items, Order, Permutation, Positions
from predecode.reader.split import Located
from predecode.transforms.errors import UsageError
from predecode.transforms.hashing import order_key

DATASET_INDEX = "dataset_index"
"""Key of an item that says which dataset it is of, as in lerobot's `MultiLeRobotDataset`."""


class MixedWindows(Dataset[dict[str, Any]]):
    """Datasets behind one another, for `WindowLoader` to mix by their weights.

    As a map-style dataset it has all windows of the first, then those of the second and so on, whatever the weights.
    """

    def __init__(self, parts: Sequence[tuple[WindowDataset, float]], *, num_windows: int | None = None) -> None:
        """Checks that the datasets go together; reads nothing.

        Args:
            parts: Datasets and weights: an epoch has windows of each in the proportion of the weights.
            num_windows: Of an epoch; as many as the datasets have together if not given.

        Raises:
            UsageError: datasets that differ in what their items hold, a weight that is not above 0, or so small that an
                epoch has no window of its dataset.
        """
        if not parts:
            raise UsageError("MixedWindows: expected at least one dataset with its weight, got none.")
        self.datasets = tuple(dataset for dataset, _ in parts)
        for dataset in self.datasets[1:]:
            _check_alike(self.datasets[0], dataset)
        self._starts = np.cumsum([0, *map(len, self.datasets)])
        self.shares = share_out(len(self) if num_windows is None else num_windows, [weight for _, weight in parts])
        """Windows of an epoch, per dataset."""
        for dataset, share in zip(self.datasets, self.shares, strict=True):
            if share == 0 or not len(dataset):
                raise UsageError(
                    f"MixedWindows: {dataset.root} has {len(dataset)} windows and {share} of the {sum(self.shares)} "
                    "of an epoch: expected at least one of each. Leave it out, raise its weight or num_windows."
                )

    def __len__(self) -> int:
        """Windows of all datasets together."""
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One window, as its dataset gives it, with its `dataset_index`; a negative index counts from the end.

        Raises:
            IndexError: there is no such window.
            FormatError: what is read is not what was written.
            OSError: storage fails.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several windows at once: what PyTorch's DataLoader calls for a batch."""
        places: list[list[int]] = [[] for _ in self.datasets]
        numbers = [window_number(index, len(self)) for index in indices]
        for place, number in enumerate(numbers):
            places[self._dataset_of(number)].append(place)
        items: list[dict[str, Any]] = [{} for _ in numbers]
        for which, (dataset, here) in enumerate(zip(self.datasets, places, strict=True)):
            start = int(self._starts[which])
            found = dataset.__getitems__([numbers[place] - start for place in here]) if here else []
            for place, item in zip(here, found, strict=True):
                items[place] = item | {DATASET_INDEX: torch.tensor(which)}
        return items

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All windows, in order."""
        return (self[index] for index in range(len(self)))

    @property
    def window_pixels(self) -> int:
        """Pixels of all images of a window: all datasets have the same."""
        return self.datasets[0].window_pixels

    @property
    def epoch_size(self) -> int:
        """Windows of an epoch."""
        return sum(self.shares)

    @property
    def reader(self) -> _MixedReader:
        """What fetches and decodes."""
        return _MixedReader(self.datasets)

    def epoch_order(self, order: Order, *, seed: int, epoch: int, shuffle: bool) -> Order:
        """The windows of an epoch, in an order.

        Args:
            order: Of the epoch's positions among themselves.
            seed: Of the order in which each dataset is gone through.
            epoch: Its number.
            shuffle: Whether that order is a permutation; else it is the dataset's own.
        """
        return MixedOrder(
            order,
            sizes=tuple(map(len, self.datasets)),
            shares=self.shares,
            seed=seed if shuffle else None,
            epoch=epoch,
        )

    def arranged(self, items: Items) -> Items:
        """The items of a batch by dataset, so that each dataset fills consecutive places of it."""
        return items[np.argsort(self._datasets_of(items), kind="stable")]

    def locate(self, items: Items) -> MixedLocated:
        """Says where items lie: what `reader` fetches by."""
        which = self._datasets_of(items)
        located: list[Located | None] = [None] * len(self.datasets)
        numbers = np.zeros(len(items), np.int64)
        for number in np.unique(which).tolist():
            here = which == number
            located[number] = self.datasets[number].locate(items[here] - self._starts[number])
            numbers[here] = np.arange(np.count_nonzero(here))
        return MixedLocated(which, numbers, tuple(located))

    def open_shards(self, located: MixedLocated) -> None:
        """Makes ready what items need that lie far away, as `WindowDataset.open_shards` does."""
        for _, which, part in located.runs():
            self.datasets[which].open_shards(part)

    def expect_shards(self, shards: Sequence[int]) -> None:
        """As `WindowDataset.expect_shards` does, of none: here they are read in no order."""
        for dataset in self.datasets:
            dataset.expect_shards(shards)

    @property
    def is_far(self) -> bool:
        """Whether reading waits for a network."""
        return any(dataset.is_far for dataset in self.datasets)

    def collate(self, batch: Batch, items: Items, *, seeds: tuple[int, int]) -> dict[str, Any]:
        """A filled batch as `default_collate` would make it of its items, image transforms included."""
        tensors = self.datasets[0].collate(batch, items, seeds=seeds)
        return tensors | {DATASET_INDEX: torch.from_numpy(self._datasets_of(items))}

    def storage_order(self) -> NoReturn:
        """Refused: shards of several datasets have no order.

        Raises:
            UsageError: always.
        """
        raise UsageError('MixedWindows are shuffled as a whole: expected shuffle=True or False, got "windowed".')

    def identity(self) -> dict[str, Any]:
        """What a saved position belongs to: plain JSON."""
        mixed = [
            {**dataset.identity(), "share": share} for dataset, share in zip(self.datasets, self.shares, strict=True)
        ]
        return {"mixed": mixed}

    def _datasets_of(self, items: Items) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, items, side="right") - 1

    def _dataset_of(self, item: int) -> int:
        return bisect.bisect_right(self._starts.tolist(), item) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A dataset's part in an epoch: places of its endless order.

    Attributes:
        size: Windows of the dataset.
        first: The place that its part begins at.
        key: Seed of the passes; None for the dataset's own order.
    """

    size: int
    first: int
    key: int | None

    def __call__(self, numbers: NDArray[np.int64]) -> Items:
        """The dataset's items at some places of its part, counted from 0."""
        passes, items = np.divmod(self.first + numbers, self.size)
        if self.key is not None:
            for number in np.unique(passes).tolist():
                here = passes == number
                items[here] = Permutation(self.size, seed=self.key, epoch=number)(items[here])
        return items


class MixedOrder:
    """An order of an epoch in which each dataset has its share of the positions.

    >>> from predecode.reader.permutation import Identity
    >>> epochs = [MixedOrder(Identity(4), sizes=(3, 4), shares=(2, 2), seed=None, epoch=epoch) for epoch in range(3)]
    >>> [order(np.arange(4)).tolist() for order in epochs]
    [[0, 1, 3, 4], [2, 0, 5, 6], [1, 2, 3, 4]]
    """

    def __init__(
        self, order: Order, *, sizes: Sequence[int], shares: Sequence[int], seed: int | None, epoch: int
    ) -> None:
        """Computes nothing yet.

        Args:
            order: Of the epoch's positions among themselves.
            sizes: Windows of the datasets.
            shares: Of the epoch.
            seed: Of the datasets' own orders; None for those that they have.
            epoch: Its number.
        """
        self._order = order
        self._shares = np.cumsum([0, *shares])
        self._starts = np.cumsum([0, *sizes])
        self._parts = [
            _Part(size=size, first=epoch * share, key=None if seed is None else _key(seed, number))
            for number, (size, share) in enumerate(zip(sizes, shares, strict=True))
        ]

    def __len__(self) -> int:
        return int(self._shares[-1])

    def __call__(self, positions: Positions) -> Items:
        """Item numbers, those of all datasets behind one another, at some positions.

        Raises:
            UsageError: a position is out of range.
        """
        numbers = self._order(positions)
        which = np.searchsorted(self._shares, numbers, side="right") - 1
        items = np.empty_like(numbers)
        for number in np.unique(which).tolist():
            here = which == number
            items[here] = self._starts[number] + self._parts[number](numbers[here] - self._shares[number])
        return items


@dataclass(frozen=True, slots=True)
class MixedLocated:
    """Where items of several datasets lie. A slice of it is that of some of them.

    Attributes:
        which: (items,) number of the dataset.
        numbers: (items,) place in what `located` has of that dataset.
        located: Per dataset; None where none of its items is asked for.
    """

    which: NDArray[np.int64]
    numbers: NDArray[np.int64]
    located: tuple[Located | None, ...]

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, part: slice) -> MixedLocated:
        return MixedLocated(self.which[part], self.numbers[part], self.located)

    def runs(self) -> Iterator[tuple[int, int, Located]]:
        """Runs of items of one dataset: the place of the first, the dataset's number, and where they lie."""
        starts = [0, *(np.flatnonzero(np.diff(self.which)) + 1).tolist(), len(self)]
        for start, stop in pairwise(starts):
            which = int(self.which[start])
            located = self.located[which]
            assert located is not None
            # Neighbours here were neighbours when all were located: the order within a dataset is kept.
            first = int(self.numbers[start])
            yield start, which, located[first : first + stop - start]


class _MixedReader:
    """Fills batches with items of several datasets, each by its own reader."""

    def __init__(self, datasets: Sequence[WindowDataset]) -> None:
        self._readers = [dataset.reader for dataset in datasets]

    def allocate(self, size: int, *, pinned: bool = False) -> Batch:
        """Makes room for so many items, of whatever datasets: they are alike."""
        return self._readers[0].allocate(size, pinned=pinned)

    def fetch(self, items: MixedLocated) -> list[Fetched]:
        """Fetches the bytes of some items, for `fill`, as `BatchReader.fetch` does."""
        return [self._readers[which].fetch(located) for _, which, located in items.runs()] if len(items) else []

    def fill(
        self, batch: Batch, first_place: int, items: MixedLocated, fetched: Sequence[Fetched] | None = None
    ) -> None:
        """Fills consecutive places of a batch, as `BatchReader.fill` does."""
        if not len(items):
            return
        for number, (start, which, located) in enumerate(items.runs()):
            self._readers[which].fill(batch, first_place + start, located, fetched[number] if fetched else None)


def share_out(num_windows: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in the proportion of the weights, as nearly as can be, with a given sum.

    >>> share_out(10, [1, 1, 1]), share_out(7, [0.7, 0.3])
    ((4, 3, 3), (5, 2))

    Raises:
        UsageError: a weight is not above 0, or no number.
    """
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UsageError(f"MixedWindows: expected weights above 0, got {weight!r}.")
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * num_windows / total for weight in weights]
    shares = [int(share) for share in exact]
    # The largest remainders are rounded up; of equal ones the first.
    by_remainder = sorted(range(len(shares)), key=lambda number: shares[number] - exact[number])
    for number in by_remainder[: num_windows - sum(shares)]:
        shares[number] += 1
    return tuple(shares)


def _key(seed: int, number: int) -> int:
    """A seed of its own for each dataset."""
    return int.from_bytes(order_key("mixed", seed, number), "big")


def _check_alike(first: WindowDataset, other: WindowDataset) -> None:
    """Refuses a dataset whose items would not stack with those of the first.

    Raises:
        UsageError: the message names the first difference.
    """
    for name, mine, others in _facts(first, other):
        if mine != others:
            raise UsageError(
                f"MixedWindows: {other.root} does not go with {first.root}: {name} is {_shown(others)}, expected "
                f"{_shown(mine)}. Materialize both alike (--image-size, --exclude-features, --rename), or open them "
                "with the same delta_timestamps and options."
            )


def _facts(first: WindowDataset, other: WindowDataset) -> Iterator[tuple[str, Any, Any]]:
    """What must be equal, by name."""
    mine, others = first.item_facts(), other.item_facts()
    for name in [*mine, *(name for name in others if name not in mine)]:
        yield name, mine.get(name), others.get(name)


def _shown(value: Any) -> str:
    return "not there" if value is None else str(value)
