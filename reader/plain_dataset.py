"""A LeRobot dataset, read plainly: what a certificate compares an output with.

Written from the description of the format and of lerobot's map-style items alone; nothing here is shared with the job
but the storage, and the check of path templates, which come from strangers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predecode.reader.plain_rows import RowStream
from predecode.transforms.errors import SOURCE_REMEDY, DataError, SourceError, UsageError
from predecode.transforms.sources.lerobot_info import PathTemplate, read_json_object
from predecode.transforms.storage import Folder

_SCANNERS = 16
_SCAN_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """Consecutive rows of one data file that belong to one episode.

    Attributes:
        path: The data file.
        start_row: First row.
        stop_row: One past the last.
    """

    path: str
    start_row: int
    stop_row: int


@dataclass(frozen=True, slots=True)
class PlainDataset:
    """A dataset of version v3.0, v2.1 or v2.0.

    Attributes:
        folder: Where it lies.
        fps: Frames per second.
        specs: Per feature, as declared: dtype, shape.
        texts: Per text, "task" and perhaps "subtask", the strings by number; None where a number stands for none.
        places: Per episode where its rows are.
        videos: Per episode and camera the video file, and the time in it of the episode's timestamp 0, in seconds.
    """

    folder: Folder
    fps: float
    specs: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, list[str | None]]
    places: Mapping[int, list[Place]]
    videos: Mapping[tuple[int, str], tuple[str, float]]


def open_plain_dataset(folder: Folder, excluded: Iterable[str] = ()) -> PlainDataset:
    """Reads the metadata, and finds the rows of every episode by their `episode_index`.

    Args:
        folder: The dataset.
        excluded: Features to leave out.

    Raises:
        UsageError: it is a dataset of another kind.
        SourceError: the metadata cannot be used.
        DataError: a data file cannot be read.
        OSError: storage fails.
    """
    if folder.url.endswith(".zip") or folder.size("meta/info.json") is None:
        raise UsageError(
            f"--source: {folder} is no LeRobot dataset, as the one that the output was made from: it has no "
            "meta/info.json. Give the folder that holds meta/, data/ and videos/."
        )
    info = read_json_object(folder, "meta/info.json")
    try:
        is_v3 = str(info["codebase_version"]).lstrip("v").startswith("3.")
        specs = {name: dict(spec) for name, spec in info["features"].items() if name not in set(excluded)}
        fps = float(info["fps"])
        places = _find_rows(folder, is_v3=is_v3)
        cameras = [name for name, spec in specs.items() if spec["dtype"] == "video"]
        videos = (_videos_v3 if is_v3 else _videos_v2)(folder, info, cameras, places)
        texts = _texts_v3(folder, specs) if is_v3 else {"task": _tasks_v2(folder)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SourceError | DataError):
            raise
        raise SourceError(f"{folder}: the metadata cannot be used: {error!r:.200}. {SOURCE_REMEDY}") from error
    return PlainDataset(folder, fps, specs, texts, places, videos)


def _find_rows(folder: Folder, *, is_v3: bool) -> dict[int, list[Place]]:
    """Where the rows of each episode are; what the metadata say of data files is often wrong."""
    paths = [path for path in folder.names("data") if path.endswith(".parquet")]
    paths = [path for path in paths if path.count("/") == 2 or not is_v3]  # As lerobot's glob.
    found: dict[int, list[Place]] = {}
    with ThreadPoolExecutor(_SCANNERS) as pool:
        for places in pool.map(lambda path: list(_runs(folder, path)), paths):
            for episode, place in places:
                found.setdefault(episode, []).append(place)
    return found


def _runs(folder: Folder, path: str) -> Iterator[tuple[int, Place]]:
    """Runs of rows with the same `episode_index`; one that a batch cuts in two is given in two parts."""
    stream = RowStream(folder, path, ["episode_index"], batch_rows=_SCAN_ROWS)
    row = 0
    for batch in stream.batches():
        episodes = batch.column(0).to_numpy(zero_copy_only=False)
        if not np.isfinite(episodes).all():
            raise DataError(f"{path}: expected an episode_index in each row, from row {row} on.")
        starts = np.flatnonzero(np.diff(episodes, prepend=episodes[:1] - 1))
        for start, stop in zip(starts, [*starts[1:], len(episodes)], strict=True):
            yield int(episodes[start]), Place(path, row + int(start), row + int(stop))
        row += len(episodes)
    stream.close()


def _videos_v3(
    folder: Folder, info: Mapping[str, Any], cameras: list[str], _: object
) -> dict[tuple[int, str], tuple[str, float]]:
    found: dict[tuple[int, str], tuple[str, float]] = {}
    if not cameras:
        return found
    template = PathTemplate.parse(info["video_path"], ("video_key", "chunk_index", "file_index"), "video_path")
    parts = ("chunk_index", "file_index", "from_timestamp")
    columns = [f"videos/{camera}/{part}" for camera in cameras for part in parts]
    for path in folder.names("meta/episodes"):
        if not path.endswith(".parquet") or path.count("/") != 3:
            continue
        table = _table(folder, path, ["episode_index", *columns])
        for row, episode in enumerate(table["episode_index"].to_pylist()):
            for camera in cameras:
                chunk, file, start = (table[f"videos/{camera}/{part}"][row].as_py() for part in parts)
                if None not in (chunk, file, start) and np.isfinite([chunk, file, start]).all():
                    name = template.path(video_key=camera, chunk_index=int(chunk), file_index=int(file))
                    found[int(episode), camera] = name, float(start)
    return found


def _videos_v2(
    _: Folder, info: Mapping[str, Any], cameras: list[str], episodes: Iterable[int]
) -> dict[tuple[int, str], tuple[str, float]]:
    if not cameras:
        return {}
    template = PathTemplate.parse(info["video_path"], ("video_key", "episode_chunk", "episode_index"), "video_path")
    chunks_size = int(info.get("chunks_size", 1000))
    return {
        (episode, camera): (
            template.path(video_key=camera, episode_chunk=episode // chunks_size, episode_index=episode),
            0.0,
        )
        for episode in episodes
        for camera in cameras
    }


def _texts_v3(folder: Folder, specs: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Strings by row position: lerobot looks them up so, whatever the number beside them says."""
    paths = {"task": "meta/tasks.parquet", "subtask": "meta/subtasks.parquet"}
    if "subtask_index" not in specs or folder.size(paths["subtask"]) is None:
        del paths["subtask"]
    found: dict[str, list[str | None]] = {}
    for name, path in paths.items():
        table = _table(folder, path, None)
        plain = name if name in table.column_names else "__index_level_0__"
        found[name] = table[_index_column(table) or plain].to_pylist()
    return found


def _index_column(table: pa.Table) -> str | None:
    """The column that pandas calls the index of the frame, where it has one."""
    content = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
    named = [name for name in content.get("index_columns", []) if isinstance(name, str) and name in table.column_names]
    return named[0] if named else None


def _tasks_v2(folder: Folder) -> list[str | None]:
    entries = [json.loads(line) for line in folder.read("meta/tasks.jsonl").splitlines() if line.strip()]
    by_number = {int(entry["task_index"]): str(entry["task"]) for entry in entries}
    return [by_number.get(number) for number in range(max(by_number, default=-1) + 1)]


def _table(folder: Folder, path: str, columns: list[str] | None) -> pa.Table:
    try:
        with folder.open(path) as file:
            return pq.read_table(file, columns=columns)
    except FileNotFoundError:
        raise SourceError(f"{folder.path(path)}: expected this file, found none. Is the dataset complete?") from None
    except pa.ArrowException as error:
        raise SourceError(f"{folder.path(path)}: expected a Parquet table: {error}. {SOURCE_REMEDY}") from error


def in_frame_order(frame_index: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """The order that brings rows into the order of their frames.

    >>> in_frame_order(np.array([2, 0, 1]), "episode 3").tolist()
    [1, 2, 0]

    Raises:
        DataError: frames are missing or there twice.
    """
    order = np.argsort(frame_index, kind="stable")
    if not np.array_equal(frame_index[order], np.arange(len(frame_index))):
        raise DataError(f"{where}: expected the frames 0 to {len(frame_index)}, each once; got others.")
    return order
