"""The interface between the job and where data come from.

A `Source` is a small picklable description that finds episodes without decoding anything; a `SourceReader` belongs to
one thread, keeps files open, and gives rows and frames. To add a kind of source, implement both and add a line to
`open_source`; docs/sources.md shows how.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.episodes import Episode, EpisodeMetadata, FrameRun
from predecode.transforms.features import Feature

Rows: TypeAlias = dict[str, NDArray[Any] | list[str]]
"""Per number feature an array (frames, *item_shape) of its item dtype; per string a list. Key order is item order."""


class Source(Protocol):
    """A dataset, opened: what it holds and where."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """In the order of an item's keys, cameras included; not "task" and "subtask"."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """What the output's meta/info.json inherits: robot_type, fps and the feature specifications."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task strings such that `tasks[task_index]` is the task of a row; "" where a number is not used."""
        ...

    @property
    def text_features(self) -> tuple[str, ...]:
        """Strings of an item, in item order: string features, then "task", then "subtask" where there is one."""
        ...

    def stats(self) -> dict[str, Any] | None:
        """The source's own statistics over all of its frames, as in meta/stats.json; None where it has none."""
        ...

    def summary(self) -> dict[str, Any]:
        """What plan.json says of the source: plain JSON, nothing that depends on where it lies."""
        ...

    def data_files(self) -> Iterator[str]:
        """Relative paths of all data files, sorted."""
        ...

    def metadata_files(self) -> Iterator[str]:
        """Relative paths of all files with episode metadata, sorted."""
        ...

    def read_frame_runs(self, path: str) -> Iterator[tuple[int, FrameRun]]:
        """The runs of one data file, each with its episode_index."""
        ...

    def read_episode_metadata(self, path: str) -> Iterator[tuple[int, EpisodeMetadata]]:
        """The entries of one metadata file, each with its episode_index."""
        ...

    def file_size(self, path: str) -> int | None:
        """Bytes of a file of the source; None where it does not exist."""
        ...

    def reader(self, *, tolerance_s: float) -> SourceReader:
        """Opens what one thread needs to read rows and frames."""
        ...


class SourceReader(Protocol):
    """Rows and frames, for one thread. Fastest when asked in the order in which they lie in the files."""

    def rows(self, episode: Episode, first_frame: int, stop_frame: int) -> Rows:
        """Values of all number and string features of a half-open range of frames, "task" (and "subtask") resolved.

        Raises:
            DataError: a null, a vector of another length, a task number without a task; the message says where.
        """
        ...

    def frames(self, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """One image (H, W, C) per given frame number, which must be sorted and distinct. At most a few are in memory.

        Raises:
            DataError: a frame cannot be decoded, or none lies within the tolerance; the message says where.
        """
        ...

    def key_frames(self, episode: Episode, camera: str) -> list[int]:
        """Numbers of the frames of an episode that can be decoded without an earlier one, ascending.

        Raises:
            DataError: as for `frames`.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes every file."""
        ...
