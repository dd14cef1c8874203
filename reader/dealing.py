"""Which rank gets what: the positions of an epoch, dealt out in steps.

All ranks take a step together: `world_size * batch_size` consecutive positions, the first batch of which is rank 0's,
the next rank 1's. So the order of an epoch is the same whatever the number of ranks, and where all ranks have taken
the same steps, one number says what is left: an interrupted epoch goes on with any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from predecode.transforms.errors import UsageError

Tail: TypeAlias = Literal["exact", "even"]
"""How the last step, which has fewer positions than the others, is dealt out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """The batches of one rank in an epoch, or in what is left of it.

    >>> [list(Deal(num_items=10, batch_size=2, rank=r, world_size=2, tail="exact").batches()) for r in (0, 1)]
    [[(0, 2), (4, 6), (8, 9)], [(2, 4), (6, 8), (9, 10)]]

    Attributes:
        num_items: Of the whole epoch.
        batch_size: Positions a batch, but for the last.
        rank: Of those who read, in [0, world_size).
        world_size: How many read.
        tail: "exact": what is left for the last step is dealt as evenly as can be; where that is less than a position
            for each, some ranks have a batch less. "even": all ranks get equally many positions, and fewer than
            `world_size` of the epoch's last ones are left out.
        drop_last: Whether a last step that is short is left out altogether.
        first_position: Where to begin: `position_after` of the interrupted deal, of whatever number of ranks.
    """

    num_items: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    tail: Tail = "exact"
    drop_last: bool = False
    first_position: int = 0

    def __post_init__(self) -> None:
        if self.num_items < 0 or self.batch_size < 1:
            raise UsageError(
                f"Expected a batch size of at least 1 and no negative number of items, got {self.batch_size} and "
                f"{self.num_items}."
            )
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"Expected a rank in [0, world_size), got rank {self.rank} of {self.world_size}.")
        if not 0 <= self.first_position <= self.num_items:
            raise UsageError(
                f"Expected a first position from 0 to {self.num_items}, the number of items, got "
                f"{self.first_position}. Was it saved with another dataset or split?"
            )
        if self.tail not in get_args(Tail):
            raise UsageError(f"Expected as tail one of {', '.join(get_args(Tail))}, got {self.tail!r}.")

    def batches(self) -> Iterator[tuple[int, int]]:
        """Half-open ranges of positions: this rank's batches, in order, none of them empty."""
        return map(self.batch, range(self.num_batches()))

    def num_batches(self) -> int:
        """Batches of this rank; the same for all ranks, but for a last one with tail "exact"."""
        start, stop = self._short_batch()
        return self._num_full_steps + (start < stop)

    def position_after(self, num_batches: int) -> int:
        """Where to go on when each rank has had so many batches of this deal, or all of its own.

        After the last step that is the end of the epoch, also where some positions were left out.
        """
        if num_batches >= self._num_full_steps + self._has_short_step:
            return self.num_items
        return self.first_position + num_batches * self._step_size

    @property
    def _step_size(self) -> int:
        return self.world_size * self.batch_size

    @property
    def _num_full_steps(self) -> int:
        return (self.num_items - self.first_position) // self._step_size

    @property
    def _num_left(self) -> int:
        """Positions of the short step."""
        return (self.num_items - self.first_position) % self._step_size

    @property
    def _has_short_step(self) -> bool:
        """Whether some rank gets a batch of the short step."""
        needed = 1 if self.tail == "exact" else self.world_size
        return not self.drop_last and self._num_left >= needed

    def batch(self, step: int) -> tuple[int, int]:
        """Half-open range of positions of this rank's batch in a step, counted from where this deal begins."""
        if step == self._num_full_steps:
            return self._short_batch()
        start = self.first_position + step * self._step_size + self.rank * self.batch_size
        return start, start + self.batch_size

    def _short_batch(self) -> tuple[int, int]:
        """This rank's part of the short step; may be empty."""
        first = self.num_items - self._num_left
        if not self._has_short_step:
            return first, first
        # A multiple of world_size is dealt out equally.
        dealt = self._num_left if self.tail == "exact" else self._num_left - self._num_left % self.world_size
        return first + dealt * self.rank // self.world_size, first + dealt * (self.rank + 1) // self.world_size
