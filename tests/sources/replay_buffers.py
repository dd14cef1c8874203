"""Makes replay buffers as Diffusion Policy keeps them, with zarr-python: not with the library that reads them."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.array_spec import ArrayConfigParams

from predecode.transforms.sources.base import Source
from predecode.transforms.sources.lerobot_info import INDEX_COLUMNS
from tests.sources.reading import episodes

CHUNK_ROWS = 7
"""No divisor of any episode's length, so that episodes begin amid chunks."""

_EMPTY_TOO: ArrayConfigParams = {"write_empty_chunks": True}
"""As zarr-python 2 did by itself, with which such buffers were made."""


def write_buffer(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    ends: Sequence[int],
    *,
    version: int = 2,
    chunk_rows: int = CHUNK_ROWS,
    compressors: Any = "blosc",
) -> Path:
    """Writes a replay buffer; as a .zip where the path says so.

    Args:
        path: A folder, or a file that ends in ".zip".
        arrays: By name, time first.
        ends: Where each episode ends.
        version: Of the format.
        chunk_rows: Rows of one chunk.
        compressors: As zarr takes them; "blosc" is what Diffusion Policy uses.
    """
    folder = path.with_suffix("") if path.suffix == ".zip" else path
    if compressors == "blosc":
        compressors = Blosc("zstd", clevel=5, shuffle=Blosc.BITSHUFFLE) if version == 2 else BloscCodec(cname="zstd")
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == 2 else 3)
    data = group.create_group("data")
    for name, values in arrays.items():
        array = data.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(min(chunk_rows, len(values)), *values.shape[1:]),
            compressors=compressors,
            config=_EMPTY_TOO,
        )
        array[:] = values
    stops = np.asarray(ends, np.int64)
    group.create_group("meta").create_array("episode_ends", data=stops, compressors=None, config=_EMPTY_TOO)
    if path.suffix == ".zip":
        _pack(folder, path)
    return path


def append(path: Path, arrays: Mapping[str, NDArray[Any]], ends: Sequence[int]) -> None:
    """Brings a buffer in a folder to the given content, of which it holds the beginning, as recorders do: in place."""
    contents = {f"data/{name}": values for name, values in arrays.items()}
    contents["meta/episode_ends"] = np.asarray(ends, np.int64)
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(path, mode="r+")
        for name, values in contents.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            known = array.shape[0]
            array.resize(values.shape)
            array[known:] = values[known:]


def _pack(folder: Path, path: Path) -> None:
    """As `zarr.ZipStore` does: stored, not compressed again."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, str(file.relative_to(folder)))
    shutil.rmtree(folder)


def arrays_of(source: Source) -> tuple[dict[str, NDArray[Any]], list[int]]:
    """All values of a source but for the columns that LeRobot adds, and where its episodes end."""
    parts: dict[str, list[NDArray[Any]]] = {}
    found = episodes(source)
    with source.reader(tolerance_s=1e-4) as reader:
        for episode in found.values():
            rows = reader.rows(episode, 0, episode.num_frames)
            for feature in source.features:
                if feature.name in INDEX_COLUMNS:
                    continue
                values = (
                    np.stack(list(reader.frames(episode, feature.name, range(episode.num_frames))))
                    if feature.is_camera
                    else np.asarray(rows[feature.name])
                )
                parts.setdefault(feature.name, []).append(values)
    ends = np.cumsum([episode.num_frames for episode in found.values()]).tolist()
    return {name: np.concatenate(values) for name, values in parts.items()}, ends
