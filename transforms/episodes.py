"""What is known of an episode before anything is decoded: where its rows and frames lie.

These cross shuffles by the hundred thousand: `__reduce__` makes pickling them several times as fast as what dataclasses
with slots do by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

UNREADABLE = -(1 << 63)
"""Stands where an episode_index would, for a file of the source that cannot be read, and so ends the job."""


@dataclass(frozen=True, slots=True)
class FrameRun:
    """Consecutive rows of one data file that are consecutive frames of one episode.

    Attributes:
        path: The data file, relative to the dataset.
        first_row: Row number within that file.
        first_frame: `frame_index` of that row.
        num_frames: Rows in the run, at least 1.
        problem: Why these rows cannot be used; "" where all is well.
    """

    path: str
    first_row: int
    first_frame: int
    num_frames: int
    problem: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameRun, (self.path, self.first_row, self.first_frame, self.num_frames, self.problem)


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where the frames of one episode lie in a camera's video file: at `start_seconds` + the row's timestamp.

    Attributes:
        camera: Feature name.
        path: The video file, relative to the dataset.
        start_seconds: Presentation time of the episode's timestamp 0.
        stop_seconds: Where the next episode begins, exclusive; infinite where the file holds this episode alone.
    """

    camera: str
    path: str
    start_seconds: float
    stop_seconds: float

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoSpan, (self.camera, self.path, self.start_seconds, self.stop_seconds)


@dataclass(frozen=True, slots=True)
class EpisodeMetadata:
    """What the metadata say of one episode.

    Attributes:
        num_frames: The declared length.
        tasks: Task strings, as listed for the episode.
        videos: One span per video camera, in feature order.
        problem: Why this entry cannot be used; "" where all is well.
    """

    num_frames: int
    tasks: tuple[str, ...]
    videos: tuple[VideoSpan, ...]
    problem: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return EpisodeMetadata, (self.num_frames, self.tasks, self.videos, self.problem)


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode whose rows and metadata agree: frames 0 .. num_frames - 1 are each there once.

    Attributes:
        index: `episode_index`.
        num_frames: Frames, at least 1.
        tasks: Task strings, as listed for the episode.
        runs: Where its rows lie, in frame order.
        videos: One span per video camera, in feature order.
    """

    index: int
    num_frames: int
    tasks: tuple[str, ...]
    runs: tuple[FrameRun, ...]
    videos: tuple[VideoSpan, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return Episode, (self.index, self.num_frames, self.tasks, self.runs, self.videos)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A part of the source that is not in the output, and why.

    Attributes:
        episode_index: Of which episode.
        first_frame: First anchor that was left out.
        num_anchors: How many were left out.
        reason: One or two sentences for a person.
    """

    episode_index: int
    first_frame: int
    num_anchors: int
    reason: str
