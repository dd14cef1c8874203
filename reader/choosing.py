"""Which windows a person looks at: those asked for, or some that show padding and variety."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from predecode.reader.split import SplitIndex
from predecode.transforms.errors import UsageError
from predecode.transforms.hashing import fraction, order_key

MAX_WINDOWS = 100

_DEFAULT_WINDOWS = 6
_DEFAULT_OF_RANGE = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is asked for.

    Attributes:
        num_windows: How many at most; None for 6, or for 24 of a range of frames.
        episode: Only windows of this episode.
        frames: Only those whose anchors are among these of its frames, half-open.
        index: Only this window: its number in `WindowDataset`.
    """

    num_windows: int | None = None
    episode: int | None = None
    frames: tuple[int, int] | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the output.

        Raises:
            UsageError: the number of windows is out of range, or two things exclude each other.
        """
        if self.num_windows is not None and not 1 <= self.num_windows <= MAX_WINDOWS:
            raise UsageError(f"--windows: expected 1 to {MAX_WINDOWS}, got {self.num_windows}.")
        if self.frames is not None and self.episode is None:
            raise UsageError("--frames are those of one episode: give --episode, too.")
        if self.index is not None and self.episode is not None:
            raise UsageError("--index and --episode exclude each other: give one of them.")

    @property
    def most(self) -> int:
        """How many windows at most."""
        return self.num_windows or (_DEFAULT_WINDOWS if self.frames is None else _DEFAULT_OF_RANGE)

    def items(self, index: SplitIndex) -> list[int]:
        """The chosen items of a split.

        Raises:
            UsageError: there is no such window.
        """
        if self.index is not None:
            if not 0 <= self.index < index.num_items:
                raise UsageError(
                    f"--index: expected 0 to {index.num_items - 1}, the split's windows, got {self.index}."
                )
            return [self.index]
        if self.episode is None:
            return choose_items(index, self.most)
        items = index.items_of(self.episode)
        if not items:
            there = index.episodes
            raise UsageError(
                f"--episode: the split has no episode {self.episode}. It has {len(there)}, from {there[0]} to "
                f"{there[-1]}; is it in the other --split, or was it left out?"
            )
        return _spread(items if self.frames is None else self._in_range(index, items), self.most)

    def _in_range(self, index: SplitIndex, items: range) -> list[int]:
        assert self.frames is not None
        start, stop = self.frames
        frames = index.locate(np.array(items)).anchor_number * index.item_format.anchor_stride
        found = [item for item, frame in zip(items, frames.tolist(), strict=True) if start <= frame < stop]
        if not found:
            raise UsageError(
                f"--frames: episode {self.episode} has no anchor at the frames {start} to {stop - 1}; its {len(items)} "
                f"anchors are at {frames[0]} to {frames[-1]}."
            )
        return found


def choose_items(index: SplitIndex, num_windows: int) -> list[int]:
    """Chooses distinct items: both ends of an episode first, then others here and there."""
    first, *others = index.episodes
    items = index.items_of(first)
    chosen = {items[0]: None, items[-1]: None}
    rest = [*sorted(others, key=lambda episode: order_key("preview", episode)), first]
    for attempt in range(MAX_WINDOWS):
        for episode in rest:
            if len(chosen) >= num_windows:
                return list(chosen)[:num_windows]
            items = index.items_of(episode)
            chosen[items[int(fraction("preview", episode, attempt) * len(items))]] = None
    return list(chosen)[:num_windows]


def _spread(items: range | list[int], num_windows: int) -> list[int]:
    """So many of them, evenly, both ends among them."""
    places = np.linspace(0, len(items) - 1, min(num_windows, len(items))).round().astype(int)
    return [items[place] for place in places.tolist()]
