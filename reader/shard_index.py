"""Where every byte of one shard lies: its index, opened and checked, so that nothing in it can lead astray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from predecode.reader.item_format import ItemFormat
from predecode.reader.ranges import REMEDY, Range
from predecode.reader.split_tables import MAX_COUNT, ShardRows
from predecode.reader.tables import numbers, read_columns, require
from predecode.transforms.errors import FormatError
from predecode.transforms.format import index_file, tar_file
from predecode.transforms.storage import Folder

MAX_PART_BYTES = 1 << 30
"""Of a member or a frame that is read as a whole: a tar may be a file with holes, which costs nobody that much."""

_LIST_OF_INT64 = pa.list_(pa.int64())
_LIST_OF_UINT64 = pa.list_(pa.uint64())


@dataclass(frozen=True, slots=True)
class MemberColumns:
    """Where the members with one extension lie: all (samples,).

    Attributes:
        offset: int64, of the first byte in the tar.
        size: int64, bytes.
        xxh3: uint64, of the content.
    """

    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    xxh3: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class FrameColumns:
    """Where the frames within the `frames` members of one camera lie.

    Frames of sample r are places `first[r]` to `first[r + 1]` of `number` and `xxh3`, and their offsets are places
    `first[r] + r` to `first[r + 1] + r + 1` of `offset`: one more, the last is the member's size.

    Attributes:
        first: int64, (samples + 1,).
        number: int64, (frames,): of the frame in its episode.
        offset: int64, (frames + samples,): within the member.
        xxh3: uint64, (frames,): of the encoded frame.
    """

    first: NDArray[np.int64]
    number: NDArray[np.int64]
    offset: NDArray[np.int64]
    xxh3: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The index of one shard.

    Attributes:
        tar: Path of the tar, relative to the output.
        tar_path: The same in full, for messages.
        index_path: Of the index in full, for messages.
        keys: Strings, (samples,).
        episode_index: int64, (samples,).
        frame_index: int64, (samples,): of the first anchor.
        anchors: int32, (samples,).
        members: By extension.
        frames: By extension, of the `frames` members.
    """

    tar: str
    tar_path: str
    index_path: str
    keys: pa.StringArray
    episode_index: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    anchors: NDArray[np.int32]
    members: Mapping[str, MemberColumns]
    frames: Mapping[str, FrameColumns]

    @classmethod
    def parse(
        cls,
        content: pa.Buffer,
        item_format: ItemFormat,
        *,
        folder: Folder,
        split: str,
        number: int,
        tar_bytes: int,
        num_samples: int,
    ) -> ShardIndex:
        """Reads and checks an index.

        Args:
            content: Of the file, as `map_file` gives it.
            item_format: Of the output.
            folder: The output.
            split: Of the shard.
            number: Of the shard.
            tar_bytes: Size of the tar, which no member leaves.
            num_samples: Rows that there must be.

        Raises:
            FormatError: it is not an index of such a shard.
        """
        tar, where = tar_file(split, number), folder.path(index_file(split, number))
        types = _column_types(item_format)
        columns = read_columns(content, types, where=where)
        require(len(columns["key"]) == num_samples, f"{num_samples} samples, as in the table of shards", where=where)
        flat = {
            name: numbers(column, where=where) for name, column in columns.items() if pa.types.is_integer(column.type)
        }
        members = {
            member: MemberColumns(*(flat[f"{member}/{part}"] for part in ("offset", "size", "xxh3")))
            for member in item_format.members
        }
        for member, places in members.items():
            _check_member(places, member, tar_bytes, where, is_whole=f"{member}/frame" not in columns)
        frames = {
            member: _frame_columns(columns, member, members[member], where)
            for member in item_format.members
            if f"{member}/frame" in columns
        }
        index = cls(
            tar,
            folder.path(tar),
            where,
            columns["key"],
            flat["episode_index"],
            flat["frame_index"],
            flat["anchors"],
            members,
            frames,
        )
        _check_keys(index)
        return index

    def check_rows(self, expected: ShardRows, stride: int) -> None:
        """Checks that samples are those that the order says.

        Args:
            expected: From the order, as many as there are samples.
            stride: Frames from one anchor to the next.

        Raises:
            FormatError: they are others.
        """
        fits = (self.episode_index == expected.episode) & (self.anchors == expected.anchors)
        fits &= self.frame_index == expected.first_anchor * stride
        require(
            fits,
            "the episodes, frames and anchors of the order, is it the index of another shard?",
            where=self.index_path,
        )

    def member_range(self, row: int, member: str) -> Range:
        """Where the member of a sample lies in the tar."""
        places = self.members[member]
        start = places.offset.item(row)
        return self.tar, start, start + places.size.item(row)

    def frame_ranges(self, row: int, member: str, places: Sequence[int]) -> list[Range]:
        """Where some frames of a `frames` member lie in the tar.

        Args:
            row: Of the sample.
            member: Its extension.
            places: Numbers of frames within the member.
        """
        start, frames = self.members[member].offset.item(row), self.frames[member]
        first, offset = frames.first.item(row) + row, frames.offset.item
        return [(self.tar, start + offset(first + place), start + offset(first + place + 1)) for place in places]

    def check_member(self, content: bytes | memoryview, row: int, member: str) -> None:
        """Checks the content of a member against its checksum.

        Raises:
            FormatError: it is not what was written.
        """
        places = self.members[member]
        if xxhash.xxh3_64_intdigest(content) != places.xxh3.item(row):
            raise self._damaged(self.member_range(row, member), row, member)

    def check_frame(self, content: bytes | memoryview, row: int, member: str, place: int) -> None:
        """Checks the content of one frame of a `frames` member against its checksum.

        Raises:
            FormatError: it is not what was written.
        """
        frames = self.frames[member]
        if xxhash.xxh3_64_intdigest(content) != frames.xxh3.item(frames.first.item(row) + place):
            (found,) = self.frame_ranges(row, member, [place])
            raise self._damaged(found, row, f"{member}, frame {place}")

    def _damaged(self, found: Range, row: int, what: str) -> FormatError:
        _, start, stop = found
        return FormatError(
            f"{self.tar_path}, sample {self.keys[row]}, {what}: bytes {start} to {stop} of the shard are damaged: "
            f"their checksum does not fit. {REMEDY}"
        )


def _column_types(item_format: ItemFormat) -> dict[str, pa.DataType]:
    types = {"key": pa.string(), "episode_index": pa.int64(), "frame_index": pa.int64(), "anchors": pa.int32()}
    for member in item_format.members:
        types |= {f"{member}/offset": pa.int64(), f"{member}/size": pa.int64(), f"{member}/xxh3": pa.uint64()}
    for camera in item_format.cameras if item_format.has_runs else ():
        member = item_format.camera_member(camera.name)
        types |= {f"{member}/frame": _LIST_OF_INT64, f"{member}/frame_offset": _LIST_OF_INT64}
        types[f"{member}/frame_xxh3"] = _LIST_OF_UINT64
    return types


def _check_member(places: MemberColumns, member: str, tar_bytes: int, where: str, *, is_whole: bool) -> None:
    inside = (places.offset >= 0) & (places.size >= 0) & (places.size <= tar_bytes)
    inside &= places.offset <= tar_bytes - places.size
    require(inside, f"members {member} within the {tar_bytes} bytes of the tar", where=where)
    fits = places.size <= MAX_PART_BYTES if is_whole else True
    require(fits, f"members {member} of at most {MAX_PART_BYTES} bytes", where=where)


def _frame_columns(columns: Mapping[str, pa.Array], member: str, places: MemberColumns, where: str) -> FrameColumns:
    lists = [columns[f"{member}/{part}"] for part in ("frame", "frame_offset", "frame_xxh3")]
    first, offset_first, xxh3_first = (numbers(part.offsets, where=where) for part in lists)
    number, offset = (numbers(part.values, where=where) for part in lists[:2])
    xxh3 = numbers(lists[2].values, where=where)
    alike = np.array_equal(first, xxh3_first) and np.array_equal(first + np.arange(len(first)), offset_first)
    alike = alike and (first[0], first[-1], first[-1], offset_first[-1]) == (0, len(number), len(xxh3), len(offset))
    require(alike, f"as many checksums of {member} as frames, and one offset more", where=where)
    require(np.diff(first) >= 1, f"at least one frame in each {member}", where=where)
    fills = (offset[offset_first[:-1]] == 0) & (offset[offset_first[1:] - 1] == places.size)
    require(fills & _ascends(offset, offset_first), f"frames that fill {member}, one behind the other", where=where)
    largest = int(np.diff(offset).max(initial=0))
    require(largest <= MAX_PART_BYTES, f"frames of {member} of at most {MAX_PART_BYTES} bytes", where=where)
    require((number[first[:-1]] >= 0) & _ascends(number, first), f"frames of {member} in order", where=where)
    return FrameColumns(first.astype(np.int64), number, offset, xxh3)


def _ascends(values: NDArray[np.int64], first: NDArray[np.int32]) -> bool:
    """Whether values ascend within each list, none of which is empty: list r is `values[first[r] : first[r + 1]]`.

    >>> [_ascends(np.array(values), np.array([0, 2, 4])) for values in ([3, 5, 1, 2], [3, 5, 2, 2], [3, 1, 2, 3])]
    [True, False, False]
    """
    ascends = values[1:] > values[:-1]
    ascends[first[1:-1] - 1] = True
    return bool(ascends.all())


def _check_keys(index: ShardIndex) -> None:
    """Compares with `sample_key` of all rows: by Arrow, since a call for each would take as long as all else."""
    places = (index.episode_index, index.frame_index)
    for column in places:
        require((column >= 0) & (column <= MAX_COUNT), f"numbers from 0 to {MAX_COUNT}", where=index.index_path)
    digits = [pc.utf8_lpad(pc.cast(pa.array(column), pa.string()), 6, "0") for column in places]
    fits = index.keys.equals(pc.binary_join_element_wise(*digits, "-"))
    require(fits, "keys made of episode and frame", where=index.index_path)
