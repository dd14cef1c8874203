"""A dataset whose features go by other names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.episodes import Episode, EpisodeMetadata, FrameRun
from predecode.transforms.errors import UsageError
from predecode.transforms.features import Feature
from predecode.transforms.sources.base import Source, SourceReader
from predecode.transforms.sources.lerobot_info import INDEX_COLUMNS
from predecode.transforms.sources.renaming import new_names

if TYPE_CHECKING:
    from predecode.transforms.sources.base import Rows


def rename_features(source: Source, renames: Mapping[str, str]) -> Source:
    """The same dataset under other names; what lies on disk, and messages about it, keep the old ones.

    Args:
        source: The opened dataset.
        renames: Old name to new name.

    Raises:
        UsageError: a feature that is not there or that nothing works without, two of one name, the name of a task.
        SourceError: a new name that is not safe in a path.
    """
    if needed := [name for name in renames if name in INDEX_COLUMNS]:
        raise UsageError(f"--rename: {needed[0]} cannot be renamed: rows are found by it.")
    if taken := [name for name in renames.values() if name in ("task", "subtask")]:
        raise UsageError(f"--rename: {taken[0]!r} is the name under which an item holds its task. Choose another.")
    return _RenamedSource(source, new_names([feature.name for feature in source.features], renames))


@dataclass(frozen=True, slots=True)
class _RenamedSource:
    """What `Source` asks for.

    Attributes:
        source: Under its own names.
        names: The new name of each of its features.
    """

    source: Source
    names: Mapping[str, str]

    @property
    def features(self) -> tuple[Feature, ...]:
        return tuple(dataclasses.replace(feature, name=self.names[feature.name]) for feature in self.source.features)

    @property
    def fps(self) -> float:
        return self.source.fps

    @property
    def info(self) -> dict[str, Any]:
        info = self.source.info
        return {**info, "features": self._renamed(info["features"])}

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.source.tasks

    @property
    def text_features(self) -> tuple[str, ...]:
        return tuple(self.names.get(name, name) for name in self.source.text_features)

    def stats(self) -> dict[str, Any] | None:
        stats = self.source.stats()
        return None if stats is None else self._renamed(stats)

    def summary(self) -> dict[str, Any]:
        """As under its own names, and what these are: they decide which columns and videos are read."""
        summary = self.source.summary()
        renamed = [[old, new] for old, new in self.names.items() if old != new]
        return {**summary, "features": self._renamed(summary["features"]), "renamed": renamed}

    def data_files(self) -> Iterator[str]:
        return self.source.data_files()

    def metadata_files(self) -> Iterator[str]:
        return self.source.metadata_files()

    def read_frame_runs(self, path: str) -> Iterator[tuple[int, FrameRun]]:
        return self.source.read_frame_runs(path)

    def read_episode_metadata(self, path: str) -> Iterator[tuple[int, EpisodeMetadata]]:
        return self.source.read_episode_metadata(path)

    def file_size(self, path: str) -> int | None:
        return self.source.file_size(path)

    def reader(self, *, tolerance_s: float) -> SourceReader:
        return _RenamedReader(self.source.reader(tolerance_s=tolerance_s), self.names)

    def _renamed(self, by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {self.names[name]: value for name, value in by_name.items()}


class _RenamedReader:
    """What `SourceReader` asks for."""

    def __init__(self, reader: SourceReader, names: Mapping[str, str]) -> None:
        """Takes the reader of the source, and the new name of each feature."""
        self._reader = reader
        self._names = names
        self._old_names = {new: old for old, new in names.items()}

    def rows(self, episode: Episode, first_frame: int, stop_frame: int) -> Rows:
        rows = self._reader.rows(episode, first_frame, stop_frame)
        return {self._names.get(name, name): values for name, values in rows.items()}

    def frames(self, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        return self._reader.frames(episode, self._old_names[camera], frames)

    def key_frames(self, episode: Episode, camera: str) -> list[int]:
        return self._reader.key_frames(episode, self._old_names[camera])

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)
