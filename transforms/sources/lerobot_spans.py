"""Checks of where v3.0 metadata say that episodes lie in video files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_INDEX = 10**9
_MAX_SECONDS = 1e9
_MARGIN_SECONDS = 1e-4
"""How far the last row must lie inside its span: lerobot's own tolerance."""


@dataclass(frozen=True, slots=True)
class CameraColumns:
    """What a metadata file says of one video camera; float64, (entries,), NaN where it says nothing.

    Attributes:
        chunk_index: Number of the folder.
        file_index: Number of the file in it.
        start_seconds: Presentation time of the episode's timestamp 0.
        stop_seconds: End of the episode, exclusive.
    """

    chunk_index: NDArray[np.float64]
    file_index: NDArray[np.float64]
    start_seconds: NDArray[np.float64]
    stop_seconds: NDArray[np.float64]

    @staticmethod
    def names(camera: str) -> tuple[str, ...]:
        """The columns of a camera, in the order of the attributes."""
        return tuple(
            f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        )

    @classmethod
    def of(cls, camera: str, columns: Mapping[str, NDArray[np.float64]]) -> CameraColumns:
        """Picks the columns of a camera."""
        return cls(*(columns[name] for name in cls.names(camera)))


def span_problem(columns: CameraColumns, row: int, num_frames: int, fps: float) -> str:
    """Why the span of one entry cannot be used; "" where it can.

    Args:
        columns: Of the camera.
        row: Of the entry.
        num_frames: Its declared length; 0 where that is unknown.
        fps: Frames per second.
    """
    for name in ("chunk_index", "file_index"):
        index = float(getattr(columns, name)[row])
        if not 0 <= index <= _MAX_INDEX or not index.is_integer():
            return f"expected a video {name} of 0 or more, got {index}"
    start, stop = float(columns.start_seconds[row]), float(columns.stop_seconds[row])
    if not 0 <= start < stop or start > _MAX_SECONDS:
        return f"expected video times 0 <= from < to, got from {start} to {stop} s"
    if stop - start <= (num_frames - 1) / fps + min(_MARGIN_SECONDS, 0.5 / fps):
        return f"the video has {round((stop - start) * fps)} frames for {num_frames} rows"
    return ""


def overlaps(columns: CameraColumns, episodes: NDArray[np.int64], fps: float) -> dict[int, str]:
    """Entries whose spans share more than half a frame with another's: one of them would show the other's frames.

    Returns:
        The problem of each such entry, by row.
    """
    problems: dict[int, str] = {}
    starts, stops = columns.start_seconds, columns.stop_seconds
    order = np.lexsort((starts, columns.file_index, columns.chunk_index))
    order = order[np.isfinite(starts[order]) & np.isfinite(stops[order])]
    longest = -1
    for row in order.tolist():
        if longest >= 0 and _same_file(columns, row, longest):
            if starts[row] < stops[longest] - 0.5 / fps:
                for one, other in ((row, longest), (longest, row)):
                    problems.setdefault(one, f"the video times overlap those of episode {episodes[other]}")
            if stops[row] <= stops[longest]:
                continue
        longest = row
    return problems


def _same_file(columns: CameraColumns, row: int, other: int) -> bool:
    return bool(
        columns.chunk_index[row] == columns.chunk_index[other] and columns.file_index[row] == columns.file_index[other]
    )
