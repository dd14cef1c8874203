"""LeRobot v3.0 metadata of the output, so that lerobot's own metadata class loads it, and the dataset card."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from predecode.transforms.format import EPISODES_FILE, INFO_FILE, STATS_FILE, TASKS_FILE
from predecode.transforms.layout import Camera
from predecode.transforms.recipe import Recipe

_CHANNEL_NAMES = ("channel", "channels")


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """An episode of the output.

    Attributes:
        index: `episode_index`, as in the source.
        split: Where its anchors are.
        tasks: Task strings.
        first_item: Position of its first anchor among the split's items, in the order of `WindowDataset`.
        num_anchors: Anchors in the output.
    """

    index: int
    split: str
    tasks: tuple[str, ...]
    first_item: int
    num_anchors: int


def metadata_files(
    recipe: Recipe, cameras: Sequence[Camera], episodes: Sequence[EpisodeEntry], stats: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files under meta/."""
    yield INFO_FILE, _json(_info(recipe, cameras, episodes))
    yield STATS_FILE, _json(stats)
    yield TASKS_FILE, _parquet(_tasks_table(recipe.source.tasks))
    yield EPISODES_FILE, _parquet(_episodes_table(episodes))


def _info(recipe: Recipe, cameras: Sequence[Camera], episodes: Sequence[EpisodeEntry]) -> dict[str, Any]:
    source = recipe.source.info
    stored = {camera.name: camera for camera in cameras}
    return {
        "codebase_version": "v3.0",
        "robot_type": source.get("robot_type"),
        "total_episodes": len(episodes),
        "total_frames": sum(episode.num_anchors for episode in episodes),
        "total_tasks": len(recipe.source.tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": source["fps"],
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": None,
        "video_path": None,
        "features": {
            name: _camera_spec(spec, stored[name]) if name in stored else spec
            for name, spec in source["features"].items()
        },
    }


def _camera_spec(spec: Mapping[str, Any], camera: Camera) -> dict[str, Any]:
    """A camera as stored, in the source's own order of axes; what describes the source's video file is left out."""
    names = spec.get("names")
    height_first = not (isinstance(names, list) and len(names) == 3 and names[2] not in _CHANNEL_NAMES)
    shape, axes = [camera.height, camera.width, camera.channels], ["height", "width", "channels"]
    if not height_first:
        shape, axes = shape[-1:] + shape[:-1], axes[-1:] + axes[:-1]
    return {"dtype": spec["dtype"], "shape": shape, "names": axes}


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Tasks by number, in the layout of a pandas frame whose index is the string: lerobot resolves by position."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _episodes_table(episodes: Sequence[EpisodeEntry]) -> pa.Table:
    numbers = {
        "episode_index": [episode.index for episode in episodes],
        "length": [episode.num_anchors for episode in episodes],
        "dataset_from_index": [episode.first_item for episode in episodes],
        "dataset_to_index": [episode.first_item + episode.num_anchors for episode in episodes],
    }
    return pa.table(
        {
            **{name: pa.array(values, pa.int64()) for name, values in numbers.items()},
            "tasks": pa.array([list(episode.tasks) for episode in episodes], pa.list_(pa.string())),
            "split": pa.array([episode.split for episode in episodes], pa.string()),
        }
    )


def dataset_card(splits: Sequence[str]) -> bytes:
    """README.md of the output: its front matter names the tars, so that they and not their sidecars are found."""
    data_files = "\n".join(f"  - split: {split}\n    path: {split}/shard-*.tar" for split in splits)
    return f"""---
configs:
- config_name: default
  data_files:
{data_files}
tags:
- LeRobot
- WebDataset
- robotics
---
# Training windows

WebDataset shards of training windows, decoded once from recorded demonstrations by predecode.

- `plan.json` says what was asked for, `manifest.json` what came out: windows, image codec and size, counts, fidelity.
- `meta/` is LeRobot v3.0 metadata of this output.
- Each `shard-*.tar` has an index (`.index.arrow`) and a commit record (`.json`).

`predecode inspect` summarizes this folder, `predecode preview` draws some of its windows.
""".encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=4, ensure_ascii=False).encode() + b"\n"


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
