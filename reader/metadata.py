"""What training code asks of a dataset's metadata, with the names of lerobot's own class."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from predecode.reader.episode_table import EpisodeTable
from predecode.reader.tables import map_described, read_verified
from predecode.transforms.features import Kind
from predecode.transforms.format import EPISODES_FILE, INFO_FILE, STATS_FILE, TASKS_FILE
from predecode.transforms.storage import Folder


class WindowMetadata:
    """Metadata of a dataset, from its output's meta/ folder; `stats` may be changed, as lerobot's trainer does.

    Attributes:
        repo_id: What the dataset was called when it was opened.
        root: Path of the output; its URL where it is not local.
        info: Content of info.json, shapes as tuples.
        stats: Per feature "mean", "std", "min", "max", quantiles and "count" as arrays.
        episodes: Those of the dataset; `dataset_from_index` and `dataset_to_index` are numbers of its items.
    """

    def __init__(
        self,
        folder: Folder,
        manifest: Mapping[str, Any],
        split: str,
        *,
        repo_id: str,
        episodes: Sequence[int] | None = None,
    ) -> None:
        """Reads and checks the files.

        Args:
            folder: The output.
            manifest: As `read_manifest` gives it.
            split: "train" or "val".
            repo_id: A name for the dataset.
            episodes: Only these; None for all of the split.

        Raises:
            FormatError: a file is not what was written.
            OSError: storage fails.
        """
        self.repo_id = repo_id
        self.root: Path | str = Path(folder.url) if folder.is_local else folder.url
        self.info: dict[str, Any] = json.loads(read_verified(folder, manifest, INFO_FILE))
        for spec in self.info["features"].values():
            spec["shape"] = tuple(spec["shape"])
        stats = json.loads(read_verified(folder, manifest, STATS_FILE))
        self.stats: dict[str, dict[str, Any]] = {
            name: {key: np.array(value) for key, value in entry.items()} for name, entry in stats.items()
        }
        table = pq.read_table(pa.BufferReader(map_described(folder, manifest, EPISODES_FILE)))
        table = table.filter(pa.compute.equal(table["split"], split))
        if episodes is not None:
            table = table.filter(pa.compute.is_in(table["episode_index"], pa.array(episodes, pa.int64())))
        self.episodes = EpisodeTable(table.sort_by("episode_index"))
        self._tasks = pq.read_table(pa.BufferReader(map_described(folder, manifest, TASKS_FILE)))

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Specifications by name: dtype, shape as stored, names."""
        return self.info["features"]

    @property
    def fps(self) -> float:
        """Frames per second, as the source declares it."""
        return self.info["fps"]

    @property
    def robot_type(self) -> str | None:
        """As the source declares it."""
        return self.info["robot_type"]

    @property
    def video_keys(self) -> list[str]:
        """Cameras that were videos in the source."""
        return self._of_kind(Kind.VIDEO)

    @property
    def image_keys(self) -> list[str]:
        """Cameras that were stored images in the source."""
        return self._of_kind(Kind.IMAGE)

    @property
    def camera_keys(self) -> list[str]:
        """All cameras, in feature order."""
        return [name for name, spec in self.features.items() if spec["dtype"] in (Kind.VIDEO, Kind.IMAGE)]

    @property
    def depth_keys(self) -> list[str]:
        """None: depth maps are not materialized."""
        return []

    @property
    def has_language_columns(self) -> bool:
        """False: language columns are not materialized."""
        return False

    @property
    def names(self) -> dict[str, Any]:
        """Names of the values of each feature."""
        return {name: spec["names"] for name, spec in self.features.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each feature, as stored."""
        return {name: spec["shape"] for name, spec in self.features.items()}

    @property
    def total_episodes(self) -> int:
        """Episodes of the dataset."""
        return self.episodes.num_episodes

    @property
    def total_frames(self) -> int:
        """Windows of the dataset."""
        return self.episodes.num_items

    @property
    def total_tasks(self) -> int:
        """Tasks of the source."""
        return int(self._tasks.num_rows)

    @functools.cached_property
    def tasks(self) -> Any:
        """A pandas frame with `task_index`, indexed by the task's string, as lerobot has it; needs pandas."""
        return self._tasks.to_pandas()

    def _of_kind(self, kind: Kind) -> list[str]:
        return [name for name, spec in self.features.items() if spec["dtype"] == kind]
