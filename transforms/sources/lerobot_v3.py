"""LeRobot v3.0: many episodes a file, Parquet metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.transforms.columns import float_numbers, is_plain_number
from predecode.transforms.episodes import EpisodeMetadata, VideoSpan
from predecode.transforms.errors import SOURCE_REMEDY, DataError, SourceError
from predecode.transforms.rows import RowFile
from predecode.transforms.sources.lerobot import LeRobotSource
from predecode.transforms.sources.lerobot_info import LeRobotInfo, video_template
from predecode.transforms.sources.lerobot_spans import CameraColumns, overlaps, span_problem
from predecode.transforms.storage import Folder

_EPISODES_FOLDER = "meta/episodes"
_TEXT_FILES = {"task_index": "meta/tasks.parquet", "subtask_index": "meta/subtasks.parquet"}
_BATCH_ROWS = 1 << 12
_MAX_LENGTH = 1 << 40


@dataclass(frozen=True, slots=True)
class LeRobotV3(LeRobotSource):
    """A LeRobot dataset of version 3.0."""

    @classmethod
    def open(cls, folder: Folder, info: LeRobotInfo) -> LeRobotV3:
        """Reads the task strings; episode tables are read by the workers.

        Raises:
            SourceError: the template of video files or the task strings cannot be used.
        """
        fields = ("video_key", "chunk_index", "file_index")
        texts = {"task_index": _read_texts(folder, "task_index")}
        has_subtasks = any(feature.name == "subtask_index" for feature in info.features)
        if has_subtasks and folder.size(_TEXT_FILES["subtask_index"]) is not None:
            texts["subtask_index"] = _read_texts(folder, "subtask_index")
        return cls(folder, "v3.0", info.fps, info.features, info.inherited_json, texts, video_template(info, fields))

    def is_data_file(self, path: str) -> bool:
        """As lerobot's glob `data/*/*.parquet`."""
        return path.endswith(".parquet") and path.count("/") == 2

    def metadata_files(self) -> Iterator[str]:
        """Relative paths of `meta/episodes/*/*.parquet`, sorted.

        Raises:
            SourceError: there are none.
        """
        paths = [name for name in self.folder.names(_EPISODES_FOLDER) if name.endswith(".parquet")]
        paths = [path for path in paths if path.count("/") == 3]
        if not paths:
            raise SourceError(
                f"{self.folder}: expected Parquet files in {_EPISODES_FOLDER}/, found none. Is it complete?"
            )
        yield from paths

    def read_episode_metadata(self, path: str) -> Iterator[tuple[int, EpisodeMetadata]]:
        """The entries of one metadata file; statistics are not read.

        Raises:
            SourceError: the file is not Parquet, or an entry has no episode_index.
        """
        try:
            table = _EpisodeTable.read(self.folder, path, self.video_cameras)
        except DataError as error:
            raise SourceError(f"{error} Without it the episodes are unknown: mend it.") from error
        clashes = {camera: overlaps(columns, table.episodes, self.fps) for camera, columns in table.cameras.items()}
        paths: dict[tuple[str, int, int], str] = {}
        for row, index in enumerate(table.episodes.tolist()):
            length = table.lengths[row]
            is_whole = 0 < length <= _MAX_LENGTH and length.is_integer()
            num_frames = int(length) if is_whole else 0
            problems = [] if is_whole else [f"expected a length of 1 or more, got {length}"]
            problems += ["expected an episode_index of 0 or more"] * (index < 0)
            videos = []
            for camera, columns in table.cameras.items():
                problem = span_problem(columns, row, num_frames, self.fps) or clashes[camera].get(row, "")
                if problem:
                    problems.append(f"{camera}: {problem}")
                else:
                    videos.append(self._span(camera, columns, row, paths))
            problem = f"{path}: episode {index}: {'; '.join(problems)}." if problems else ""
            yield index, EpisodeMetadata(num_frames, table.tasks[row], tuple(videos), problem)

    def _span(self, camera: str, columns: CameraColumns, row: int, paths: dict[tuple[str, int, int], str]) -> VideoSpan:
        assert self.video_path is not None, "there are cameras, so there is a template"
        key = (camera, int(columns.chunk_index[row]), int(columns.file_index[row]))
        if key not in paths:
            paths[key] = self.video_path.path(video_key=camera, chunk_index=key[1], file_index=key[2])
        return VideoSpan(camera, paths[key], float(columns.start_seconds[row]), float(columns.stop_seconds[row]))


@dataclass(frozen=True, slots=True)
class _EpisodeTable:
    """The needed columns of one metadata file.

    Attributes:
        episodes: int64, (entries,).
        lengths: Per entry; NaN where it is missing.
        tasks: Per entry.
        cameras: In feature order.
    """

    episodes: NDArray[np.int64]
    lengths: list[float]
    tasks: list[tuple[str, ...]]
    cameras: dict[str, CameraColumns]

    @classmethod
    def read(cls, folder: Folder, path: str, cameras: tuple[str, ...]) -> _EpisodeTable:
        numbers = ["episode_index", "length", *(name for camera in cameras for name in CameraColumns.names(camera))]
        with RowFile(folder, path) as file:
            types = {field.name: field.type for field in file.schema}
            there = [name for name in numbers if name in types and is_plain_number(types[name])]
            has_tasks = "tasks" in types and _is_text_list(types["tasks"])
            columns = [*there, "tasks"] if has_tasks else there
            batches = list(file.batches(columns, batch_rows=_BATCH_ROWS)) if columns else []
            num_rows = file.num_rows
        missing = np.full(num_rows, np.nan)
        values = dict.fromkeys(numbers, missing)
        for name in there if batches else ():
            values[name] = np.concatenate([float_numbers(batch.column(name)) for batch in batches])
        tasks = [task for batch in batches for task in batch.column("tasks").to_pylist()] if has_tasks else []
        unknown = np.flatnonzero(~(np.abs(values["episode_index"]) < 2**53))
        if unknown.size:
            raise SourceError(f"{path}: row {unknown[0]}: expected an episode_index, got none. {SOURCE_REMEDY}")
        return cls(
            episodes=values["episode_index"].astype(np.int64),
            lengths=values["length"].tolist(),
            tasks=[tuple(text for text in texts or () if text is not None) for texts in tasks] or [()] * num_rows,
            cameras={camera: CameraColumns.of(camera, values) for camera in cameras},
        )


def _is_text_list(column_type: pa.DataType) -> bool:
    is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
    return is_list and _is_text(column_type.value_type)


def _read_texts(folder: Folder, column: str) -> tuple[str | None, ...]:
    """Strings by row position, which is how lerobot looks them up, whatever the number beside them says.

    It is the index of a pandas frame: named by pandas' own metadata, or a column named as its versions have named it.
    """
    path = _TEXT_FILES[column]
    if folder.size(path) is None:
        raise SourceError(f"{folder.path(path)}: expected the strings of {column}, found no such file. {SOURCE_REMEDY}")
    try:
        with RowFile(folder, path) as file:
            metadata: dict[str, Any] = json.loads((file.schema.metadata or {}).get(b"pandas", b"{}"))
            named = [name for name in metadata.get("index_columns", ()) if isinstance(name, str)]
            candidates = (*named, column.removesuffix("_index"), "__index_level_0__")
            texts = [field.name for field in file.schema if _is_text(field.type)]
            name = next((name for name in candidates if name in texts), None)
            if name is None:
                raise SourceError(
                    f"{folder.path(path)}: expected a column of strings, got {file.schema.names}. {SOURCE_REMEDY}"
                )
            batches = file.batches([name], batch_rows=_BATCH_ROWS)
            return tuple(text for batch in batches for text in batch.column(name).to_pylist())
    except (DataError, json.JSONDecodeError) as error:
        raise SourceError(f"{folder.path(path)}: cannot be read: {error}. {SOURCE_REMEDY}") from error


def _is_text(column_type: pa.DataType) -> bool:
    return bool(pa.types.is_string(column_type) or pa.types.is_large_string(column_type))
