"""Looking at single windows of a split, one after the other, everything checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predecode.reader.ranges import RangeReader
from predecode.reader.sample_rows import SampleRows
from predecode.reader.shard_index import ShardIndex
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import FormatError
from predecode.transforms.format import DATA_MEMBER, JSON_MEMBER
from predecode.transforms.images import image_codec


@dataclass(frozen=True, slots=True)
class FoundWindow:
    """An anchor in its sample.

    Attributes:
        rows: Strings and numbers of the sample.
        anchor: Number of the anchor within the sample.
        index: Of the shard.
        row: Of the sample in the index.
        reader: Of the output's bytes.
    """

    rows: SampleRows
    anchor: int
    index: ShardIndex
    row: int
    reader: RangeReader

    def frame_numbers(self, camera: str) -> list[int | None]:
        """Per delta the number of the frame shown, in its episode; None for an unknown last one."""
        item_format, anchor_frame = self.rows.item_format, self.rows.frame_number(self.anchor)
        if item_format.has_runs:
            frames = self.index.frames[item_format.camera_member(camera)]
            numbers = frames.number[frames.first[self.row] : frames.first[self.row + 1]]
            return [int(numbers[place]) for place in self.rows.frame_index(camera)[self.anchor]]
        (delta,) = item_format.delta_indices.get(camera, (0,))
        if not self.is_pad(camera)[0]:
            return [anchor_frame + delta]
        return [0 if delta < 0 else None]

    def is_pad(self, name: str) -> NDArray[np.bool_]:
        """(T,) mask of a feature; one False where it has no deltas."""
        if name not in self.rows.item_format.delta_indices:
            return np.zeros(1, np.bool_)
        return self.rows.is_pad(name, self.anchor).numpy()

    def frames(self, camera: str, slots: list[int]) -> list[NDArray[np.uint8]]:
        """Decodes the frames that some slots of a camera's window show; fetches those and no others.

        Raises:
            FormatError: what is fetched is not what was written.
            OSError: storage fails.
        """
        item_format = self.rows.item_format
        member = item_format.camera_member(camera)
        if not item_format.has_runs:
            return [self._decode(camera, _read_member(self.reader, self.index, self.row, member))]
        places = self.rows.frame_index(camera)[self.anchor][slots].tolist()
        parts = self.reader.read_ranges(self.index.frame_ranges(self.row, member, places))
        for place, part in zip(places, parts, strict=True):
            self.index.check_frame(part, self.row, member, place)
        return [self._decode(camera, part) for part in parts]

    def _decode(self, camera: str, content: bytes | memoryview) -> NDArray[np.uint8]:
        item_format = self.rows.item_format
        (shape,) = (feature.shape for feature in item_format.cameras if feature.name == camera)
        try:
            return image_codec(item_format.image_codec).decode(content, np.empty(shape, np.uint8))
        except FormatError as error:
            raise FormatError(f"{self.rows.where}, {camera}: {error}") from error


def find_window(split: SplitIndex, reader: RangeReader, item: int) -> FoundWindow:
    """Fetches strings and numbers of one item.

    Raises:
        IndexError: there is no such item.
        FormatError: what is fetched is not what was written.
        OSError: storage fails.
    """
    located = split.locate(np.array([item]))
    index, row = split.shard_index(int(located.shard[0])), int(located.row[0])
    text, tensors = (_read_member(reader, index, row, member) for member in (JSON_MEMBER, DATA_MEMBER))
    where = f"{index.tar_path}, sample {index.keys[row]}"
    rows = SampleRows.parse(split.item_format, text, tensors, where=where)
    return FoundWindow(rows, int(located.anchor[0]), index, row, reader)


def _read_member(reader: RangeReader, index: ShardIndex, row: int, member: str) -> bytes:
    (content,) = reader.read_ranges([index.member_range(row, member)])
    index.check_member(content, row, member)
    return bytes(content)
