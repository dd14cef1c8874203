"""A large dataset without its pixels, for measuring what planning costs: metadata and the rows' columns, format v3.0.

Three video cameras are declared and not there, and one vector is.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FPS = 15
CAMERAS = ("observation.images.left", "observation.images.right", "observation.images.wrist")
EPISODES_PER_FILE = 400
"""Of data and of each camera. At DROID's 288 frames an episode and 4.3 kB a frame, 400 of them are a file of 500 MB."""


def write_dataset(root: Path, num_episodes: int, num_frames: int) -> None:
    """Writes metadata and rows of episodes whose lengths differ as those of recordings do: most short, some long.

    Args:
        root: A new folder.
        num_episodes: How many.
        num_frames: About how many all of them have.
    """
    lengths = draw_lengths(num_episodes, num_frames)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    video = {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]}
    features: dict[str, object] = dict.fromkeys(CAMERAS, video)
    features["action"] = {"dtype": "float32", "shape": [2], "names": None}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": num_episodes,
        "total_frames": int(starts[-1]),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir(parents=True)
    write_table(root / "meta/tasks.parquet", pa.table({"task_index": [0], "task": ["Fold the towel."]}))
    for first in range(0, num_episodes, EPISODES_PER_FILE):
        number = first // EPISODES_PER_FILE
        name = f"chunk-{number // 1000:03d}/file-{number % 1000:03d}.parquet"
        indices = np.arange(first, min(first + EPISODES_PER_FILE, num_episodes))
        write_table(root / "meta/episodes" / name, episode_table(indices, starts))
        write_table(root / "data" / name, row_table(indices, starts))
    (root / "meta/info.json").write_text(json.dumps(info))


def draw_lengths(num_episodes: int, num_frames: int) -> NDArray[np.int64]:
    """Frames of each episode: log-normal, the longest some ten times the usual."""
    drawn = np.random.default_rng(0).lognormal(sigma=0.6, size=num_episodes)
    return np.maximum(1, drawn * (num_frames / drawn.sum())).astype(np.int64)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def episode_table(indices: NDArray[np.int64], starts: NDArray[np.int64]) -> pa.Table:
    """Metadata of the episodes of one file.

    Args:
        indices: Of the episodes.
        starts: First row of every episode of the dataset, and where the last ends.
    """
    chunk, file = np.divmod(indices // EPISODES_PER_FILE, 1000)
    begin, end = starts[indices], starts[indices + 1]
    columns = {
        "episode_index": indices,
        "tasks": [["Fold the towel."]] * len(indices),
        "length": end - begin,
        "dataset_from_index": begin,
        "dataset_to_index": end,
    }
    for prefix in ("data", *(f"videos/{camera}" for camera in CAMERAS)):
        columns |= {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}
    for camera in CAMERAS:
        columns[f"videos/{camera}/from_timestamp"] = (begin - begin[0]) / FPS
        columns[f"videos/{camera}/to_timestamp"] = (end - begin[0]) / FPS
    return pa.table(columns)


def row_table(indices: NDArray[np.int64], starts: NDArray[np.int64]) -> pa.Table:
    """Rows of the episodes of one file; arguments as for `episode_table`."""
    index = np.arange(starts[indices[0]], starts[indices[-1] + 1])
    episode = np.repeat(indices, np.diff(starts)[indices])
    frame = index - starts[episode]
    action = np.sin(np.stack([frame, episode], axis=1) / 100).astype(np.float32)
    return pa.table(
        {
            "action": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), 2),
            "timestamp": (frame / FPS).astype(np.float32),
            "frame_index": frame,
            "episode_index": episode,
            "index": index,
            "task_index": np.zeros(len(frame), np.int64),
        }
    )
