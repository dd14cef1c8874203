"""The order of an epoch: each item once, looking random, the same for ever."""

from __future__ import annotations

import hashlib
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.reader.permutation import MAX_SIZE, Identity, Order, Permutation
from predecode.transforms.errors import UsageError

SEEDS = st.integers(-(2**63), 2**64)

# What an interrupted training run goes on with: this may never change. Eight positions in the middle of each.
GOLDEN = {
    (12, 0, 0): [10, 11, 9, 0, 7, 5, 1, 2],
    (12, 0, 1): [2, 6, 3, 8, 9, 0, 5, 1],
    (12, 1, 0): [9, 0, 8, 1, 4, 6, 2, 5],
    (1000, 0, 0): [925, 751, 463, 71, 965, 545, 550, 377],
    (30_000_000, 0, 0): [28306810, 17213062, 19373977, 3807150, 8533506, 7812236, 22392810, 17750108],
    (30_000_000, 1, 0): [17197487, 24649557, 24562981, 5420210, 24029389, 16496742, 15570558, 8939678],
    (2**40, 0, 1): [
        1017502974387,
        326430132180,
        111696147446,
        180613340381,
        664601893963,
        34105208048,
        615519638562,
        963289860517,
    ],
}


def whole(size: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return Permutation(size, seed=seed, epoch=epoch)(np.arange(size))


@pytest.mark.parametrize("key", GOLDEN)
def test_golden(key: tuple[int, int, int]) -> None:
    size, seed, epoch = key
    positions = (size - 8) // 2 + np.arange(8)
    assert Permutation(size, seed=seed, epoch=epoch)(positions).tolist() == GOLDEN[key]


def item_by_definition(position: int, *, size: int, seed: int, epoch: int) -> int:
    """Section "Definition" of docs/shuffling.md, in plain integers."""
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    while True:
        (x, y), radix, other = divmod(position, b), a, b
        for number in range(8):
            name = json.dumps(["permutation", seed, epoch, number], separators=(",", ":")).encode()
            z = y ^ int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
            z = z * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ z >> 32) * 0x94D049BB133111EB % 2**64
            x, y, radix, other = y, (x + (z >> 24)) % radix, other, radix
        position = x * b + y
        if position < size:
            return position


@given(size=st.integers(1, 50) | st.integers(1, MAX_SIZE), seed=SEEDS, epoch=st.integers(0, 1000), data=st.data())
def test_follows_the_definition(size: int, seed: int, epoch: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), max_size=5))
    expected = [item_by_definition(position, size=size, seed=seed, epoch=epoch) for position in positions]
    assert Permutation(size, seed=seed, epoch=epoch)(np.array(positions, np.int64)).tolist() == expected


@given(size=st.integers(0, 3000), seed=SEEDS, epoch=st.integers(0, 1000))
def test_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    items = whole(size, seed=seed, epoch=epoch)
    assert items.dtype == np.int64
    np.testing.assert_array_equal(np.sort(items), np.arange(size))


@given(size=st.integers(1, MAX_SIZE), seed=SEEDS, data=st.data())
def test_large_ones_hold_distinct_items(size: int, seed: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, max(0, size - 1000)))
    positions = np.arange(first, min(first + 1000, size))
    items = Permutation(size, seed=seed, epoch=0)(positions)
    assert len(np.unique(items)) == len(items)
    assert items.min() >= 0
    assert items.max() < size


@given(size=st.integers(1, 10_000), data=st.data())
def test_each_position_stands_for_itself(size: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), np.int64)
    np.testing.assert_array_equal(
        Permutation(size, seed=3, epoch=4)(positions), whole(size, seed=3, epoch=4)[positions]
    )


@pytest.mark.parametrize("order", [Permutation(10, seed=0, epoch=0), Identity(10)])
class TestOrders:
    def test_keeps_the_shape_and_leaves_the_positions_alone(self, order: Order) -> None:
        positions = np.arange(10).reshape(2, 5)
        items = order(positions)
        items += 1
        assert items.shape == (2, 5)
        np.testing.assert_array_equal(positions, np.arange(10).reshape(2, 5))

    def test_asked_for_nothing(self, order: Order) -> None:
        assert order(np.arange(0)).tolist() == []

    @pytest.mark.parametrize("position", [-1, 10, 2**62])
    def test_refuses_positions_out_of_range(self, order: Order, position: int) -> None:
        with pytest.raises(UsageError, match=r"Expected positions in \[0, 10\), got "):
            order(np.array([3, position]))

    def test_survives_pickling(self, order: Order) -> None:
        copy = pickle.loads(pickle.dumps(order))  # noqa: S301
        assert copy == order
        np.testing.assert_array_equal(copy(np.arange(10)), order(np.arange(10)))

    def test_length(self, order: Order) -> None:
        assert len(order) == 10


def test_identity() -> None:
    assert Identity(4)(np.array([3, 0, 1])).tolist() == [3, 0, 1]


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_refuses_sizes(size: int) -> None:
    with pytest.raises(UsageError, match="Expected from 0 to"):
        Permutation(size, seed=0, epoch=0)
    with pytest.raises(UsageError, match="Expected from 0 to"):
        Identity(size)


def test_seeds_and_epochs_differ() -> None:
    orders = [tuple(whole(50, seed=seed, epoch=epoch)) for seed in range(20) for epoch in range(20)]
    assert len(set(orders)) == len(orders)


def excess(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """By how many standard deviations chi-squared of counts that should be equal is above what chance gives."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    chi_squared = ((counts - expected) ** 2).sum() / expected
    return float((chi_squared - freedom) / np.sqrt(2 * freedom))


def test_each_item_is_as_likely_at_each_position() -> None:
    size = 40
    orders = np.stack([whole(size, seed=seed) for seed in range(2000)])
    for position in range(size):
        assert excess(np.bincount(orders[:, position], minlength=size)) < 5


def test_epochs_of_one_seed_are_independent() -> None:
    size = 40
    orders = np.stack([whole(size, epoch=epoch) for epoch in range(2001)])
    moves = (orders[1:] - orders[:-1]) % size
    assert excess(np.bincount(moves.ravel(), minlength=size)) < 5


@pytest.mark.parametrize("distance", [1, 2, 317, 1000])
def test_neighbours_are_not_related(distance: int) -> None:
    size = 100_489  # 317 * 317: positions at this distance have one digit in common.
    items = whole(size)
    steps = (items[distance:] - items[:-distance]) % size
    assert excess(np.bincount(steps * 256 // size, minlength=256)) < 5
    assert abs(np.corrcoef(items[distance:], items[:-distance])[0, 1]) < 5 / np.sqrt(size)


def test_order_is_not_related_to_positions() -> None:
    size = 100_489
    items = whole(size)
    assert abs(np.corrcoef(np.arange(size), items)[0, 1]) < 5 / np.sqrt(size)
    cells = np.arange(size) * 20 // size * 20 + items * 20 // size
    assert excess(np.bincount(cells, minlength=400)) < 5


def test_batches_are_spread_like_random_ones() -> None:
    """Distinct hundredths of the set in a batch of 64: 100 * (1 - 0.99 ** 64) = 47.4 in the mean."""
    size = 1_000_000
    batches = Permutation(size, seed=5, epoch=0)(np.arange(64_000)).reshape(1000, 64) * 100 // size
    distinct = np.mean([len(set(batch)) for batch in batches.tolist()])
    assert abs(distinct - 47.4) < 0.5
