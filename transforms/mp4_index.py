"""Where the key frames of an MP4 file are, from the index in its `moov` box: a few reads instead of the whole file.

Box names and layouts are those of ISO/IEC 14496-12. FFmpeg takes what is a key frame from the same box, `stss`, but
offers its index to nobody without a scan of the packets. The file may be anybody's: nothing is believed that the bytes
cannot hold, and whatever is unusual is left to the scan.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_MAX_INDEX_BYTES = 1 << 26
"""Of the `moov` box: some 100 hours of video."""

_MAX_FRAMES = 1 << 23
_MAX_BOXES = 1 << 12


class SeekableFile(Protocol):
    """What is asked of a file."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""
        ...

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """The new position."""
        ...


def key_frame_indices(file: SeekableFile) -> NDArray[np.int64] | None:
    """Numbers of the key frames of the first video track, in the order in which frames are shown.

    Args:
        file: Is left where it was.

    Returns:
        int64, ascending; None where it is no MP4 file, or one whose index does not say so plainly: a fragmented file,
        one of which only parts are played, damage.
    """
    position = file.seek(0, os.SEEK_CUR)
    try:
        moov = _find_moov(file)
        return None if moov is None else _indices(moov)
    except (_UnusualError, struct.error):
        return None
    finally:
        file.seek(position)


class _UnusualError(Exception):
    """The index is damaged, or of a kind that is not read here."""


def _find_moov(file: SeekableFile) -> bytes | None:
    """The content of the box, of which a file has one, behind or before the frames."""
    start = 0
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return None
        size, kind = struct.unpack_from(">I4s", head)
        if start == 0 and kind != b"ftyp":
            return None
        content = start + 8
        if size == 1:
            size, content = struct.unpack_from(">Q", head, 8)[0], start + 16
        stop = start + size
        if kind == b"moov":
            if not content <= stop <= content + _MAX_INDEX_BYTES:
                return None
            file.seek(content)
            return file.read(stop - content)
        if size < content - start:  # 0: the box goes on to the end of the file.
            return None
        start = stop
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes within a box."""
    start = 0
    while start < len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if not 8 <= size <= len(content) - start:
            raise _UnusualError
        yield kind, content[start + 8 : start + size]
        start += size


def _within(content: bytes, *path: bytes) -> bytes:
    """The content of the first box of a path."""
    for wanted in path:
        content = next((inner for kind, inner in _boxes(content) if kind == wanted), b"")
    return content


def _indices(moov: bytes) -> NDArray[np.int64]:
    tracks = (inner for kind, inner in _boxes(moov) if kind == b"trak")
    track = next((track for track in tracks if _within(track, b"mdia", b"hdlr")[8:12] == b"vide"), None)
    table = b"" if track is None else _within(track, b"mdia", b"minf", b"stbl")
    if track is None or not table or _within(moov, b"mvex"):
        raise _UnusualError
    times = _times(table)
    _check_edits(_within(track, b"edts", b"elst"), int(times.min()))
    shown_at = np.empty(len(times), np.int64)
    shown_at[np.argsort(times, kind="stable")] = np.arange(len(times))
    if not (keys := _within(table, b"stss")):
        return np.arange(len(times))  # All are key frames where the box is absent.
    numbers = _entries(keys, 1)[:, 0] - 1
    if not len(numbers) or numbers.min() < 0 or numbers.max() >= len(times):
        raise _UnusualError
    return np.unique(shown_at[numbers])


def _entries(box: bytes, width: int) -> NDArray[np.int64]:
    """The table of a box: int64, (rows, width)."""
    (count,) = struct.unpack_from(">I", box, 4)
    if not count <= (len(box) - 8) // (4 * width):
        raise _UnusualError
    return np.frombuffer(box, ">u4", count * width, 8).astype(np.int64).reshape(count, width)


def _times(table: bytes) -> NDArray[np.int64]:
    """When each frame is shown, in ticks: int64, (frames,), in the order in which they are decoded."""
    steps = _runs(_within(table, b"stts"))
    if not len(steps):
        raise _UnusualError
    times = np.cumsum(steps) - steps
    if delays := _within(table, b"ctts"):
        later = _runs(delays)
        if len(later) != len(times):
            raise _UnusualError
        times += later.astype(np.uint32).view(np.int32)  # Version 1 has negative ones; in version 0 none is so large.
    return times


def _runs(box: bytes) -> NDArray[np.int64]:
    """The values of a table of (how many, value)."""
    counts, values = _entries(box, 2).T
    if counts.sum() > _MAX_FRAMES:
        raise _UnusualError
    return np.repeat(values, counts)


def _check_edits(box: bytes, first_time: int) -> None:
    """Refuses a track of which other parts are played than all of it."""
    if not box:
        return
    is_long = box[0] == 1
    (count,) = struct.unpack_from(">I", box, 4)
    (begin,) = struct.unpack_from(">q" if is_long else ">i", box, 16 if is_long else 12)
    if count != 1 or not 0 <= begin <= first_time:
        raise _UnusualError
