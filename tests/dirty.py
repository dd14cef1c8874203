"""Datasets with one fault each, made from the bundled ones: what is found in the wild, made for real.

Every function changes a copy in place (fixture `copy_dataset`).
"""

from __future__ import annotations

import io
import itertools
import json
import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

DATA_FILE = "data/chunk-000/file-000.parquet"
EPISODES_FILE = "meta/episodes/chunk-000/file-000.parquet"


def edit_info(root: Path, **changes: Any) -> None:
    """Sets keys of info.json; None removes a key."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def edit_feature(root: Path, name: str, spec: Mapping[str, Any] | None) -> None:
    """Declares a feature otherwise; None removes it."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[name] = spec
    edit_info(root, features={key: value for key, value in features.items() if value is not None})


def edit_table(path: Path, change: Callable[[pa.Table], pa.Table], *, row_group_size: int | None = None) -> None:
    """Rewrites a Parquet file."""
    pq.write_table(change(pq.read_table(path)), path, row_group_size=row_group_size)


def set_values(root: Path, column: str, values: Mapping[int, Any], *, path: str = DATA_FILE) -> None:
    """Puts values, None among them, into rows of a column; lists become lists of variable length."""

    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(column)
        rows = table.column(column).to_pylist()
        for row, value in values.items():
            rows[row] = value
        kind = pa.list_(field.type.value_type) if pa.types.is_fixed_size_list(field.type) else field.type
        return table.set_column(table.schema.get_field_index(column), column, pa.array(rows, type=kind))

    edit_table(root / path, change)


def video_file(root: Path, camera: str) -> Path:
    """The first video file of a camera."""
    return next(path for path in sorted(root.glob("videos/**/*.mp4")) if camera in path.parts)


def truncate_video(root: Path, camera: str, *, fraction: float = 0.5) -> None:
    """The download broke off."""
    path = video_file(root, camera)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])


def shorten_video(root: Path, camera: str, *, num_frames: int) -> None:
    """The encoder dropped the last frames: a sound file with fewer frames than the metadata say."""
    path = video_file(root, camera)
    short = path.with_name("short.mp4")
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-c", "copy", "-frames:v", str(num_frames), str(short)]
    subprocess.run(command, check=True)
    short.replace(path)


def reencode_video(root: Path, camera: str, *, codec: str = "libx264") -> None:
    """The codec is not what info.json says."""
    path = video_file(root, camera)
    other = path.with_name("other.mp4")
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), "-c:v", codec, "-qp", "0", str(other)], check=True)
    other.replace(path)


def remove_video(root: Path, camera: str) -> None:
    """The download left a file out."""
    video_file(root, camera).unlink()


def rename_video_files(root: Path) -> None:
    """Files named otherwise than usual, as info.json's template says; v3.0."""
    for path in sorted(root.glob("videos/*/*/*.mp4")):
        path.rename(path.with_name(path.name.replace("file-", "file_")))
    edit_info(root, video_path="videos/{video_key}/chunk-{chunk_index:03d}/file_{file_index:03d}.mp4")


def stale_file_index(root: Path) -> None:
    """The metadata name data files that do not exist, as lerobot's converter leaves them."""
    _set_episode_values(root, {"data/file_index": dict.fromkeys(range(2), 7)})


def wrong_offsets(root: Path, camera: str, *, episode: int, seconds: float) -> None:
    """An episode's span in its video is moved, as after a bad merge."""
    table = pq.read_table(root / EPISODES_FILE)
    changes = {}
    for end in ("from", "to"):
        name = f"videos/{camera}/{end}_timestamp"
        changes[name] = {episode: table.column(name)[episode].as_py() + seconds}
    _set_episode_values(root, changes)


def short_span(root: Path, camera: str, *, episode: int, num_frames: int, fps: float) -> None:
    """The metadata say that the video has fewer frames than the episode has rows."""
    table = pq.read_table(root / EPISODES_FILE)
    start = table.column(f"videos/{camera}/from_timestamp")[episode].as_py()
    _set_episode_values(root, {f"videos/{camera}/to_timestamp": {episode: start + num_frames / fps}})


def null_video_columns(root: Path, camera: str, *, episode: int, value: float | None = float("nan")) -> None:
    """Where an episode lies in its video is not known."""
    _set_episode_values(root, {f"videos/{camera}/file_index": {episode: value}})


def jitter_timestamps(root: Path, *, row: int, seconds: float = 0.03, path: str = DATA_FILE) -> None:
    """A row's time is not on the video's grid."""
    timestamp = pq.read_table(root / path).column("timestamp")[row].as_py()
    set_values(root, "timestamp", {row: timestamp + seconds}, path=path)


def break_image(root: Path, camera: str, *, row: int, path: str = DATA_FILE) -> None:
    """An encoded image is damaged."""
    set_values(root, camera, {row: {"bytes": b"\x89PNG\r\n\x1a\nbroken", "path": None}}, path=path)


def image_bomb(root: Path, camera: str, *, row: int, size: int = 9000) -> None:
    """A small file that claims to be a huge image."""
    set_values(root, camera, {row: {"bytes": huge_png(size), "path": None}})


def huge_png(size: int) -> bytes:
    """A PNG of a few bytes that claims to have `size` x `size` pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND")
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def other_image_mode(root: Path, camera: str, *, row: int, mode: str) -> None:
    """An image that is not 8-bit grey, RGB or RGBA."""
    buffer = io.BytesIO()
    Image.new(mode, (24, 16)).save(buffer, "TIFF")
    set_values(root, camera, {row: {"bytes": buffer.getvalue(), "path": None}})


def renumber_episodes(root: Path, numbers: Mapping[int, int]) -> None:
    """Gives episodes other numbers, in data and metadata: gaps, or duplicates; v3.0."""

    def change(table: pa.Table) -> pa.Table:
        old = table.column("episode_index").to_pylist()
        new = pa.array([numbers.get(number, number) for number in old], type=pa.int64())
        return table.set_column(table.schema.get_field_index("episode_index"), "episode_index", new)

    for path in (*sorted(root.glob("data/*/*.parquet")), root / EPISODES_FILE):
        edit_table(path, change)


def reorder_rows(root: Path, order: Sequence[int], *, path: str = DATA_FILE, row_group_size: int | None = None) -> None:
    """Rows in another order."""
    edit_table(root / path, lambda table: table.take(pa.array(order)), row_group_size=row_group_size)


def interleave_episodes(root: Path, one: int, other: int, *, path: str = DATA_FILE) -> None:
    """The rows of two episodes alternate."""
    episodes = np.asarray(pq.read_table(root / path).column("episode_index"))
    frames = np.asarray(pq.read_table(root / path).column("frame_index"))
    low = min(one, other)
    key = np.where(np.isin(episodes, (one, other)), low, episodes)
    reorder_rows(root, np.lexsort((episodes, np.where(key == low, frames, 0), key)).tolist(), path=path)


def split_data_file(root: Path, rows: Sequence[int], *, path: str = DATA_FILE) -> None:
    """Cuts a data file before the given rows, so that episodes lie in several files; v3.0."""
    table = pq.read_table(root / path)
    others = len(list((root / path).parent.glob("*.parquet")))
    bounds = [0, *rows, table.num_rows]
    (root / path).unlink()
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        target = root / path if number == 0 else (root / path).with_name(f"file-{others + number - 1:03d}.parquet")
        pq.write_table(table.slice(start, stop - start), target)


def drop_column(root: Path, column: str, *, path: str = DATA_FILE) -> None:
    """A declared feature has no column."""
    edit_table(root / path, lambda table: table.drop_columns([column]))


def cast_column(root: Path, column: str, kind: pa.DataType, *, path: str = DATA_FILE) -> None:
    """A column has another type than info.json says."""
    edit_table(
        root / path,
        lambda table: table.set_column(
            table.schema.get_field_index(column), column, pc.cast(table.column(column), kind, safe=False)
        ),
    )


def _set_episode_values(root: Path, changes: Mapping[str, Mapping[int, Any]]) -> None:
    def change(table: pa.Table) -> pa.Table:
        for column, values in changes.items():
            rows = table.column(column).to_pylist()
            for row, value in values.items():
                rows[row] = value
            is_float = any(isinstance(value, float) for value in rows)
            kind = pa.float64() if is_float else pa.int64()
            table = table.set_column(table.schema.get_field_index(column), column, pa.array(rows, type=kind))
        return table

    edit_table(root / EPISODES_FILE, change)
