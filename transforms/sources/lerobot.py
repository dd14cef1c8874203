"""What LeRobot datasets of all versions share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from predecode.transforms.episodes import EpisodeMetadata, FrameRun
from predecode.transforms.errors import SourceError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.sources.base import SourceReader
from predecode.transforms.sources.lerobot_info import PathTemplate, read_json_object
from predecode.transforms.sources.lerobot_reader import LeRobotReader
from predecode.transforms.sources.lerobot_runs import read_frame_runs
from predecode.transforms.storage import Folder

_DATA_FOLDER = "data"
_STATS_PATH = "meta/stats.json"


@dataclass(frozen=True, slots=True)
class LeRobotSource(ABC):
    """A LeRobot dataset; one sub-class a layout.

    Attributes:
        folder: Where it lies.
        version: "v3.0", "v2.1" or "v2.0".
        fps: Frames per second.
        features: Those that are not excluded, in the order of an item's keys.
        inherited_json: `info`, as JSON.
        texts: For "task_index", and "subtask_index" where it is resolved, the string of each number; None where a
            number stands for none.
        video_path: Template of video files; None where no feature is a video.
    """

    folder: Folder
    version: str
    fps: float
    features: tuple[Feature, ...]
    inherited_json: str
    texts: dict[str, tuple[str | None, ...]]
    video_path: PathTemplate | None

    @property
    def info(self) -> dict[str, Any]:
        """robot_type, fps and the features as declared."""
        info: dict[str, Any] = json.loads(self.inherited_json)
        return info

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task strings by task_index; "" where a number is not used."""
        return tuple(text or "" for text in self.texts["task_index"])

    @property
    def text_features(self) -> tuple[str, ...]:
        """String features, then "task", then "subtask" where there is one."""
        strings = [feature.name for feature in self.features if feature.kind is Kind.STRING]
        return (*strings, *(name.removesuffix("_index") for name in self.texts))

    @property
    def video_cameras(self) -> tuple[str, ...]:
        """Names of the cameras whose frames are in video files, in feature order."""
        return tuple(feature.name for feature in self.features if feature.kind is Kind.VIDEO)

    def stats(self) -> dict[str, Any] | None:
        """The content of meta/stats.json; None where there is none, as in v2.1, which has statistics per episode only.

        Raises:
            SourceError: the file is broken.
        """
        if self.folder.size(_STATS_PATH) is None:
            return None
        stats = read_json_object(self.folder, _STATS_PATH)
        return {feature.name: stats[feature.name] for feature in self.features if feature.name in stats}

    def summary(self) -> dict[str, Any]:
        """Version, fps, and dtype and shape of each feature."""
        features = {feature.name: {"dtype": feature.dtype, "shape": list(feature.shape)} for feature in self.features}
        return {"codebase_version": self.version, "fps": self.fps, "features": features}

    def data_files(self) -> Iterator[str]:
        """Relative paths of all data files, sorted as strings; what metadata say of them is not believed.

        Raises:
            SourceError: there are none.
        """
        found = False
        for path in self.folder.names(_DATA_FOLDER):
            if self.is_data_file(path):
                found = True
                yield path
        if not found:
            raise SourceError(f"{self.folder}: expected Parquet files in {_DATA_FOLDER}/, found none. Is it complete?")

    @abstractmethod
    def is_data_file(self, path: str) -> bool:
        """Whether lerobot would read this file of the data folder."""

    @abstractmethod
    def metadata_files(self) -> Iterator[str]:
        """Relative paths of all files with episode metadata, sorted."""

    def read_frame_runs(self, path: str) -> Iterator[tuple[int, FrameRun]]:
        """The runs of one data file, each with its episode_index.

        Raises:
            SourceError: the file is not Parquet, or rows cannot be attributed to an episode.
        """
        return read_frame_runs(self.folder, path, self.features, self.texts)

    @abstractmethod
    def read_episode_metadata(self, path: str) -> Iterator[tuple[int, EpisodeMetadata]]:
        """The entries of one metadata file, each with its episode_index."""

    def file_size(self, path: str) -> int | None:
        """Bytes of a file of the dataset; None where it does not exist."""
        return self.folder.size(path)

    def reader(self, *, tolerance_s: float) -> SourceReader:
        """Opens what one thread needs to read rows and frames."""
        return LeRobotReader(self.folder, self.features, self.texts, fps=self.fps, tolerance_s=tolerance_s)
