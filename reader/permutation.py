"""The order of an epoch as arithmetic: position to item number, with nothing to store and nothing to draw beforehand.

A permutation of [0, n) is a Feistel network on pairs of digits in [0, a) x [0, b), where a is the root of n, rounded
up, and b the least that makes a * b >= n. Each round adds to one digit a keyed hash of the other, which can be undone
whatever the hash: the network permutes all pairs. A result that is no item number is fed in again until it is one
(cycle walking), which keeps the permutation; fewer than a of the a * b pairs need it.

What is computed here decides what an interrupted training run sees next: changing it breaks resume.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.errors import UsageError
from predecode.transforms.hashing import order_key

MAX_SIZE = 1 << 40
"""Up to here digits are so small (20 bits) that reducing 40 bits of hash to one is even to one in a million."""

_NUM_ROUNDS = 8  # With 6, neighbours of a dozen items are visibly related; large sets would do with fewer.
_MULTIPLIER_1, _MULTIPLIER_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # Odd, with irregular bits: splitmix64's.

Positions: TypeAlias = NDArray[np.int64]
"""Places in the order of an epoch, from 0."""

Items: TypeAlias = NDArray[np.int64]
"""Numbers of items in source order, from 0."""


class Order(Protocol):
    """Which item comes at each position of an epoch: each item at exactly one."""

    def __len__(self) -> int:
        """Number of items."""

    def __call__(self, positions: Positions) -> Items:
        """Item numbers at some positions, of the same shape.

        Raises:
            UsageError: a position is negative, or not below the number of items.
        """


@dataclass(frozen=True, slots=True)
class Identity:
    """Source order.

    >>> Identity(3)(np.array([2, 0])).tolist()
    [2, 0]

    Attributes:
        size: Number of items.
    """

    size: int

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __len__(self) -> int:
        return self.size

    def __call__(self, positions: Positions) -> Items:
        """The positions themselves.

        Raises:
            UsageError: a position is out of range.
        """
        return unsigned_positions(positions, self.size).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Permutation:
    """A seeded order, another one in each epoch.

    >>> Permutation(5, seed=0, epoch=0)(np.arange(5)).tolist()
    [1, 4, 3, 0, 2]

    Attributes:
        size: Number of items, at most 2**40.
        seed: Any number.
        epoch: Any number.
    """

    size: int
    _: KW_ONLY
    seed: int
    epoch: int
    _radices: tuple[int, int] = field(init=False, repr=False, compare=False)
    _keys: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_size(self.size)
        high = math.isqrt(max(0, self.size - 1)) + 1
        digests = (order_key("permutation", self.seed, self.epoch, number) for number in range(_NUM_ROUNDS))
        object.__setattr__(self, "_radices", (high, max(1, -(-self.size // high))))
        object.__setattr__(self, "_keys", tuple(int.from_bytes(digest, "big") for digest in digests))

    def __len__(self) -> int:
        return self.size

    def __call__(self, positions: Positions) -> Items:
        """Item numbers at some positions, of the same shape.

        Raises:
            UsageError: a position is out of range.
        """
        items = self._permute_pairs(unsigned_positions(positions, self.size))
        while (outside := items >= self.size).any():
            items[outside] = self._permute_pairs(items[outside])
        return items.view(np.int64)

    def _permute_pairs(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The network, on numbers below the product of the radices."""
        radix, other_radix = self._radices
        digit, other = np.divmod(numbers, other_radix)
        for key in self._keys:
            digit += _hash(other, key)
            digit %= radix
            digit, other, radix, other_radix = other, digit, other_radix, radix
        return digit * other_radix + other


def _hash(digits: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """40 bits that depend on all bits of a digit and of the key: multiply, fold, multiply, and take the upper bits."""
    hashes = digits ^ np.uint64(key)
    hashes *= _MULTIPLIER_1
    hashes ^= hashes >> 32
    hashes *= _MULTIPLIER_2
    hashes >>= 24
    return hashes


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise UsageError(f"Expected from 0 to {MAX_SIZE:,} items to order, got {size:,}.")


def unsigned_positions(positions: Positions, size: int) -> NDArray[np.uint64]:
    """A copy of positions in an order of so many items.

    Raises:
        UsageError: one is out of range.
    """
    numbers = positions.astype(np.uint64)  # A negative one becomes large: one comparison for both ends.
    if numbers.size and int(numbers.max()) >= size:
        raise UsageError(
            f"Expected positions in [0, {size}), got {positions.min()} to {positions.max()}. "
            "The order of an epoch ends with its last item: go on with the next epoch."
        )
    return numbers
