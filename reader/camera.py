"""Which images of a sample a camera's window shows, where their bytes lie, and whether they are what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from predecode.reader.ranges import REMEDY, Range
from predecode.reader.selection import FeatureWindow
from predecode.reader.shard_index import ShardIndex
from predecode.transforms.errors import FormatError

Shown: TypeAlias = Mapping[int, tuple[int, ...]]
"""Images of a member, in the order in which they lie there, each with the slots of the window that show it."""


@dataclass(frozen=True, slots=True)
class CameraMember:
    """The member of a sample that holds the images of one camera.

    Attributes:
        window: What items show of the camera.
        member: Extension of the member.
        is_run: Whether it is a `frames` member; else it is one image, which has the number 0.
    """

    window: FeatureWindow
    member: str
    is_run: bool

    @property
    def name(self) -> str:
        """Of the camera."""
        return self.window.feature.name

    def whole(self) -> Shown:
        """The one image of a member that is no run: in all slots."""
        return {0: tuple(range(self.window.num_slots))}

    def shown(self, index: ShardIndex, row: int, anchor_frame: int) -> Shown:
        """What the window of an anchor shows of a run: the frames stored, which end where the episode does.

        Args:
            index: Of the shard.
            row: Of the sample in the index.
            anchor_frame: Number of the anchor in its episode.

        Raises:
            FormatError: the sample lacks a frame.
        """
        frames = index.frames[self.member]
        numbers = frames.number[frames.first[row] : frames.first[row + 1]]
        wanted = np.clip(anchor_frame + np.array(self.window.deltas or (0,)), numbers[0], numbers[-1])
        stored = np.searchsorted(numbers, wanted)
        if (numbers[stored] != wanted).any():
            raise FormatError(
                f"{index.tar_path}, sample {index.keys[row]}, {self.member}: the frames of a window are not there. "
                + REMEDY
            )
        slots: dict[int, tuple[int, ...]] = {}
        for slot, number in enumerate(stored.tolist()):
            slots[number] = (*slots.get(number, ()), slot)
        return dict(sorted(slots.items()))

    def ranges(self, index: ShardIndex, row: int, shown: Shown) -> list[Range]:
        """Where the bytes of images lie."""
        if self.is_run:
            return index.frame_ranges(row, self.member, list(shown))
        return [index.member_range(row, self.member)]

    def check(self, content: bytes | memoryview, index: ShardIndex, row: int, number: int) -> None:
        """Checks an image against its checksum.

        Raises:
            FormatError: it is not what was written.
        """
        if self.is_run:
            index.check_frame(content, row, self.member, number)
        else:
            index.check_member(content, row, self.member)
