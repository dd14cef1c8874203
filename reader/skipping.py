"""Leaving damaged windows out of a pass over a dataset: counted, logged, and never more than a few.

Only who iterates can leave a window out; a window that is asked for by its number is given, or an error is raised. Only
damage is left out, which will be the same next time: what storage raises as an OSError always ends the pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from predecode.reader.batch import Batch
from predecode.transforms.errors import FormatError, UsageError
from predecode.transforms.wording import counted

OnError: TypeAlias = Literal["raise", "skip"]
"""What a pass does with a window that is damaged."""

Damaged: TypeAlias = tuple[int, FormatError]
"""A place in a batch, and why it is empty."""

MAX_WORKERS = 1024
"""DataLoader workers of one process that can be told apart."""

_ALWAYS_ALLOWED = 16
_ALLOWED_SHARE = 0.01
_FIRST = 5

_LOGGER = logging.getLogger("predecode.reader")
_Part = TypeVar("_Part")


class Places(Protocol):
    """Where items lie; a slice of it is that of some of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Places: ...


class Filler(Protocol):
    """What fills places of a batch: `BatchReader`, or several of them, with the places that they know."""

    def fill(self, batch: Batch, first_place: int, items: Any, fetched: Any = None) -> None:
        """Fills consecutive places of a batch."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What a pass has left out so far.

    Attributes:
        count: Windows, those of all worker processes together.
        first: The first errors that this process met; workers log theirs.
    """

    count: int = 0
    first: tuple[str, ...] = ()


class Skipping:
    """Decides about damaged windows, and keeps count of them over the workers of one rank."""

    def __init__(
        self,
        on_error: OnError,
        max_skipped: int | None,
        *,
        num_windows: int,
        world_size: int,
        has_workers: bool = False,
    ) -> None:
        """Has skipped nothing.

        Args:
            on_error: "raise" or "skip".
            max_skipped: How many windows of an epoch each rank may skip; 16 and one in a hundred if not given.
            num_windows: Of an epoch, over all ranks.
            world_size: How many ranks share them.
            has_workers: Whether copies of it in worker processes are to count together.

        Raises:
            UsageError: another word for `on_error`, or a negative number.
        """
        if on_error not in get_args(OnError):
            raise UsageError(f"Expected as on_error one of {', '.join(get_args(OnError))}, got {on_error!r}.")
        if max_skipped is not None and max_skipped < 0:
            raise UsageError(f"Expected as max_skipped no negative number, got {max_skipped}.")
        self._skips = on_error == "skip"
        self._num_windows = -(-num_windows // world_size)
        allowed = _ALWAYS_ALLOWED + int(self._num_windows * _ALLOWED_SHARE)
        self._max_skipped = allowed if max_skipped is None else max_skipped
        self._ranks_keep_in_step = world_size > 1
        # Per worker the epoch that it is in, and what it has skipped of it. Each writes its own row only.
        counts = torch.full((MAX_WORKERS if has_workers else 1, 2), -1, dtype=torch.int64)
        self._counts = counts.share_memory_() if has_workers else counts
        self._worker = 0
        self._first: list[str] = []

    @property
    def skipped(self) -> Skipped:
        """Of the pass that was begun last: worker 0 takes part in all of them."""
        return Skipped(self._count(int(self._counts[0, 0])), tuple(self._first))

    def begin(self, epoch: int, *, worker: int = 0) -> None:
        """A pass begins, or goes on after a stop: what was skipped before is not known any more."""
        self._counts[worker] = torch.tensor([epoch, 0])
        self._worker = worker
        self._first = []

    def fill(
        self, reader: Filler, batch: Batch, first_place: int, items: Places, fetching: Future[Any] | None = None
    ) -> list[Damaged]:
        """Fills places of a batch as `BatchReader.fill` does; several threads may do so at once.

        Args:
            reader: Whose batch and items these are.
            batch: To be filled.
            first_place: Of the first item.
            items: Where they lie.
            fetching: Gives what `BatchReader.fetch` does.

        Returns:
            The places that could not be filled.

        Raises:
            FormatError: a window is damaged and none is to be skipped.
            OSError: storage fails.
        """

        def fill(start: int, stop: int) -> None:
            fetched = fetching.result() if fetching is not None and stop - start == len(items) else None
            reader.fill(batch, first_place + start, items[start:stop], fetched)

        parts = self._read(fill, len(items))
        return [(first_place + place, part) for place, part in parts if isinstance(part, FormatError)]

    def without(
        self, batch: Batch, items: NDArray[np.int64], damaged: Sequence[Damaged]
    ) -> tuple[Batch, NDArray[np.int64]]:
        """A filled batch and its items without the damaged ones.

        Raises:
            FormatError: too many windows are damaged, or all of a batch that other ranks wait for.
        """
        if not damaged:
            return batch, items
        for place, error in damaged:
            self._skip(int(items[place]), error)
        places = np.delete(np.arange(len(items)), [place for place, _ in damaged])
        if self._ranks_keep_in_step and not len(places):
            raise FormatError(
                f"A batch of {counted(len(items), 'window')} is damaged throughout. It cannot be left out, since the "
                "other ranks take this step too: run `predecode verify` with --repair, then the job. The first: "
                f"{damaged[0][1]}"
            )
        kept = replace(
            batch,
            numbers={name: values[places] for name, values in batch.numbers.items()},
            masks={name: values[places] for name, values in batch.masks.items()},
            frames={name: values[places] for name, values in batch.frames.items()},
            texts={name: [values[place] for place in places.tolist()] for name, values in batch.texts.items()},
        )
        return kept, items[places]

    def windows(
        self, read: Callable[[list[int]], list[dict[str, Any]]], items: list[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Reads some windows; yields each that is not damaged with its place among them.

        Raises:
            FormatError: a window is damaged and none is to be skipped, or too many are.
            OSError: storage fails.
        """
        for first, part in self._read(lambda start, stop: read(items[start:stop]), len(items)):
            if isinstance(part, FormatError):
                self._skip(items[first], part)
            else:
                yield from enumerate(part, first)

    def end(self) -> None:
        """A pass is over."""
        epoch, count = self._counts[self._worker].tolist()
        if count:
            _LOGGER.warning("Left out %d damaged windows of epoch %d.", count, epoch)

    def _read(self, read: Callable[[int, int], _Part], size: int) -> Iterator[tuple[int, _Part | FormatError]]:
        return read_around_damage(read, 0, size) if self._skips else iter([(0, read(0, size))])

    def _skip(self, item: int, error: FormatError) -> None:
        epoch = int(self._counts[self._worker, 0])
        self._counts[self._worker, 1] += 1
        if len(self._first) < _FIRST:
            self._first.append(str(error))
            _LOGGER.warning("Left out window %d: %s", item, error)
        if (count := self._count(epoch)) > self._max_skipped:
            raise FormatError(
                f"{count} windows are damaged, of {self._num_windows} in an epoch: more than the {self._max_skipped} "
                "that may be left out (max_skipped). Run `predecode verify` with --repair, then the job. The first: "
                f"{self._first[0]}"
            ) from error

    def _count(self, epoch: int) -> int:
        return int(self._counts[self._counts[:, 0] == epoch, 1].clamp(min=0).sum())


def read_around_damage(
    read: Callable[[int, int], _Part], start: int, stop: int
) -> Iterator[tuple[int, _Part | FormatError]]:
    """Reads a run of windows, in halves where one is damaged, until that one stands alone.

    Args:
        read: Reads the windows of a half-open range of places.
        start: The first place.
        stop: One past the last.

    Yields:
        The first place of a part and what was read; the place of a damaged window and why it is. In order.
    """
    try:
        part = read(start, stop)
    except FormatError as error:
        if stop - start == 1:
            yield start, error
            return
        middle = (start + stop) // 2
        yield from read_around_damage(read, start, middle)
        yield from read_around_damage(read, middle, stop)
        return
    yield start, part
