"""What training code asks of a dataset's metadata, with the names of lerobot's own class."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from predecode.reader.episode_table import EpisodeTable
from predecode.reader.tables import map_described
from predecode.transforms.errors import FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import EPISODES_FILE, INFO_FILE, STATS_FILE, TASKS_FILE
from predecode.transforms.storage import Folder

MAX_ROWS = 1 << 24
"""Of a Parquet file: of a few bytes it can make very many."""

# Words stay in a dictionary: a long one may stand in every row.
_WORD = pa.dictionary(pa.int32(), pa.string())
_EPISODE_TYPES = {
    **dict.fromkeys(("episode_index", "length", "dataset_from_index", "dataset_to_index"), pa.int64()),
    "tasks": pa.list_(_WORD),
    "split": _WORD,
}
_TASK_TYPES = {"task_index": pa.int64(), "task": _WORD}
_Content = TypeVar("_Content")


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
        self.info = _parsed(folder, manifest, INFO_FILE, _info)
        self.stats = _parsed(folder, manifest, STATS_FILE, _stats)
        table = _parsed(folder, manifest, EPISODES_FILE, _episode_table)
        # Compared in the dictionary: to compare the rows, Arrow would write all words out.
        here = [pc.equal(part.dictionary, split).take(part.indices) for part in table["split"].chunks]
        table = table.filter(pa.chunked_array(here, pa.bool_()))
        if episodes is not None:
            table = table.filter(pc.is_in(table["episode_index"], pa.array(episodes, pa.int64())))
        self.episodes = EpisodeTable(table.sort_by("episode_index"))
        self._tasks = _parsed(folder, manifest, TASKS_FILE, _task_table)

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
        types = {**_TASK_TYPES, "task": pa.string()}
        return self._tasks.cast(pa.schema(types, metadata=self._tasks.schema.metadata)).to_pandas()

    def _of_kind(self, kind: Kind) -> list[str]:
        return [name for name, spec in self.features.items() if spec["dtype"] == kind]


def _parsed(folder: Folder, manifest: Mapping[str, Any], name: str, parse: Callable[[pa.Buffer], _Content]) -> _Content:
    """What a file says, once its checksum fits. It may have been made up all the same."""
    content = map_described(folder, manifest, name)
    try:
        return parse(content)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, pa.ArrowException, OSError) as error:
        # OSError is what Arrow calls a damaged Parquet file; storage was read before.
        raise FormatError(
            f"{folder.path(name)} is damaged: {error!r:.200}. Run the same `predecode materialize` "
            "again: it writes it anew."
        ) from error


def _info(content: pa.Buffer) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(bytes(content))
    if missing := {"fps", "robot_type"} - info.keys():
        raise KeyError(*missing)
    for spec in info["features"].values():
        if missing := {"dtype", "names"} - spec.keys():
            raise KeyError(*missing)
        spec["shape"] = tuple(spec["shape"])
    return info


def _stats(content: pa.Buffer) -> dict[str, dict[str, Any]]:
    stats = {
        name: {key: np.array(value) for key, value in entry.items()}
        for name, entry in json.loads(bytes(content)).items()
    }
    if any(value.dtype.kind not in "biuf" for entry in stats.values() for value in entry.values()):
        raise ValueError("expected numbers")
    return stats


def _episode_table(content: pa.Buffer) -> pa.Table:
    return _table(content, _EPISODE_TYPES, words=["split", "tasks.list.element"])


def _task_table(content: pa.Buffer) -> pa.Table:
    return _table(content, _TASK_TYPES, words=["task"])


def _table(content: pa.Buffer, types: Mapping[str, pa.DataType], *, words: list[str]) -> pa.Table:
    """Columns of a Parquet file, of these types and without missing values."""
    with pq.ParquetFile(pa.BufferReader(content), read_dictionary=words) as file:
        # Nothing more is asked of the metadata: pyarrow lets C++ exceptions out of its row groups, which is a crash.
        if file.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"it declares {file.metadata.num_rows} rows, expected at most {MAX_ROWS}")
        table = file.read(list(types))
    if wrong := {name: str(table[name].type) for name, wanted in types.items() if table[name].type != wanted}:
        raise ValueError(f"expected {', '.join(f'{name}: {types[name]}' for name in wrong)}; got {wrong}")
    if any(table[name].null_count for name in types):
        raise ValueError("expected no missing values")
    return table
