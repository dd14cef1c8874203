"""The order for storage that is far away: each item once, a few shards at a time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.reader.windowed import StorageOrder, WindowedShuffle
from predecode.transforms.errors import UsageError


@st.composite
def storages(draw: st.DrawFn) -> StorageOrder:
    """Runs of anchors, scattered over shards whose numbers may have gaps, as where only some episodes are read."""
    shards = draw(st.lists(st.integers(0, 8), max_size=40))
    counts = draw(st.lists(st.integers(1, 12), min_size=len(shards), max_size=len(shards)))
    first_samples = draw(st.permutations(range(len(shards))))
    return StorageOrder.of(shard=shards, first_sample=first_samples, anchors=counts)


def regular(num_shards: int, *, runs: int = 6, anchors: int = 5) -> StorageOrder:
    """Run r of each shard is the shard's r-th in the source too."""
    shard = np.tile(np.arange(num_shards), runs)
    return StorageOrder.of(shard=shard, first_sample=np.arange(len(shard)), anchors=np.full(len(shard), anchors))


# What an interrupted training run goes on with: this may never change.
GOLDEN = [33, 3, 30, 4]


def test_golden() -> None:
    order = WindowedShuffle(regular(4, runs=3, anchors=4), seed=1, epoch=2, window_shards=2)
    assert order(np.array([0, 1, 24, 47])).tolist() == GOLDEN


def test_storage_order_follows_shards_then_samples() -> None:
    order = StorageOrder.of(shard=[7, 2, 7, 2], first_sample=[3, 0, 0, 1], anchors=[1, 2, 3, 4])
    assert order.items(np.arange(len(order))).tolist() == [1, 2, 6, 7, 8, 9, 3, 4, 5, 0]
    assert order.shards.tolist() == [2, 7]
    assert order.shard_starts.tolist() == [0, 6, 10]


@given(storages(), st.integers(0, 2**64), st.integers(0, 100), st.integers(1, 12))
def test_each_item_once(storage: StorageOrder, seed: int, epoch: int, window_shards: int) -> None:
    order = WindowedShuffle(storage, seed=seed, epoch=epoch, window_shards=window_shards)
    items = order(np.arange(len(order)))
    np.testing.assert_array_equal(np.sort(items), np.arange(len(storage)))


@given(storages(), st.integers(1, 12), st.data())
def test_each_position_stands_for_itself(storage: StorageOrder, window_shards: int, data: st.DataObject) -> None:
    order = WindowedShuffle(storage, seed=1, epoch=2, window_shards=window_shards)
    chosen = data.draw(st.lists(st.integers(0, len(order) - 1), max_size=20)) if len(order) else []
    positions = np.array(chosen, np.int64)
    np.testing.assert_array_equal(order(positions), order(np.arange(len(order)))[positions])


@given(storages(), st.integers(1, 12))
def test_windows_cover_the_epoch_and_hold_their_shards_items(storage: StorageOrder, window_shards: int) -> None:
    order = WindowedShuffle(storage, seed=0, epoch=3, window_shards=window_shards)
    items_of = {
        shard: storage.items(np.arange(start, stop)).tolist()
        for shard, start, stop in zip(
            storage.shards.tolist(), storage.shard_starts[:-1].tolist(), storage.shard_starts[1:].tolist(), strict=True
        )
    }
    position, seen, sizes = 0, list[int](), list[int]()
    while position < len(order):
        window = order.window_at(position)
        assert window.start == position
        assert order.window_at(window.stop - 1) == window
        items = order(np.arange(window.start, window.stop)).tolist()
        assert sorted(items) == sorted(item for shard in window.shards for item in items_of[shard])
        position, sizes = window.stop, [*sizes, len(window.shards)]
        seen += window.shards
    assert sorted(seen) == storage.shards.tolist()
    assert max(sizes, default=1) <= window_shards
    assert max(sizes, default=1) - min(sizes, default=1) <= 1


def test_seeds_and_epochs_differ() -> None:
    storage = regular(8)
    orders = {
        tuple(WindowedShuffle(storage, seed=seed, epoch=epoch, window_shards=3)(np.arange(len(storage))))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_windows_are_mixed_each_in_its_own_way() -> None:
    order = WindowedShuffle(regular(6), seed=0, epoch=0, window_shards=1)
    windows = [order(np.arange(start, start + 30)) for start in range(0, 180, 30)]
    assert len({tuple(np.argsort(window)) for window in windows}) == 6


def test_one_window_of_all_shards_mixes_like_a_permutation() -> None:
    storage = regular(16, runs=20, anchors=32)
    items = WindowedShuffle(storage, seed=0, epoch=0, window_shards=16)(np.arange(len(storage)))
    assert abs(np.corrcoef(items, np.arange(len(items)))[0, 1]) < 5 / np.sqrt(len(items))
    assert abs(np.corrcoef(items[1:], items[:-1])[0, 1]) < 5 / np.sqrt(len(items))


def test_no_items() -> None:
    order = WindowedShuffle(StorageOrder.of(shard=[], first_sample=[], anchors=[]), seed=0, epoch=0, window_shards=4)
    assert len(order) == 0
    assert order(np.arange(0)).tolist() == []


def test_survives_pickling() -> None:
    order = WindowedShuffle(regular(5), seed=0, epoch=0, window_shards=2)
    copy = pickle.loads(pickle.dumps(order))  # noqa: S301
    np.testing.assert_array_equal(copy(np.arange(len(order))), order(np.arange(len(order))))


def test_refuses() -> None:
    order = WindowedShuffle(regular(5), seed=0, epoch=0, window_shards=2)
    with pytest.raises(UsageError, match=r"Expected positions in \[0, 150\), got 150"):
        order(np.array([150]))
    with pytest.raises(UsageError, match=r"Expected positions in \[0, 150\), got -1"):
        order.window_at(-1)
    with pytest.raises(UsageError, match="windows of at least 1 shard, got 0"):
        WindowedShuffle(regular(5), seed=0, epoch=0, window_shards=0)
