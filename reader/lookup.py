"""Finding single windows in a split: through its tables, by byte ranges, everything checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from predecode.reader.item_format import ItemFormat
from predecode.reader.sample_rows import REMEDY, SampleRows
from predecode.transforms.errors import FormatError
from predecode.transforms.format import (
    DATA_MEMBER,
    JSON_MEMBER,
    index_file,
    order_file,
    sample_key,
    shard_table_file,
    tar_file,
)
from predecode.transforms.images import image_codec
from predecode.transforms.storage import Folder


@dataclass(frozen=True, slots=True)
class FoundWindow:
    """An anchor in its sample.

    Attributes:
        rows: Strings and numbers of the sample.
        anchor: Number of the anchor within the sample.
        tar: Path of the shard.
        index: The sample's row of the shard's index.
        folder: The output.
    """

    rows: SampleRows
    anchor: int
    tar: str
    index: Mapping[str, Any]
    folder: Folder

    def frame_numbers(self, camera: str) -> list[int | None]:
        """Per delta the number of the frame shown, in its episode; None for an unknown last one."""
        item_format, anchor_frame = self.rows.item_format, self.rows.frame_number(self.anchor)
        if item_format.has_runs:
            numbers = self.index[f"{item_format.camera_member(camera)}/frame"]
            return [numbers[place] for place in self.rows.frame_index(camera)[self.anchor]]
        (delta,) = item_format.delta_indices.get(camera, (0,))
        if not self.is_pad(camera)[0]:
            return [anchor_frame + delta]
        return [0 if delta < 0 else None]

    def is_pad(self, name: str) -> NDArray[np.bool_]:
        """(T,) mask of a feature; one False where it has no deltas."""
        if name not in self.rows.item_format.delta_indices:
            return np.zeros(1, np.bool_)
        return self.rows.is_pad(name, self.anchor).numpy()

    def frames(self, camera: str, slots: list[int]) -> list[NDArray[np.uint8]]:
        """Decodes the frames that some slots of a camera's window show; fetches those and no others.

        Raises:
            FormatError: what is fetched is not what was written.
            OSError: storage fails.
        """
        item_format = self.rows.item_format
        member, codec = item_format.camera_member(camera), image_codec(item_format.image_codec)
        start = self.index[f"{member}/offset"]
        with self.folder.open(self.tar) as file:
            if not item_format.has_runs:
                return [codec.decode(read_member(file, self.index, member, self.rows.where))]
            places = self.rows.frame_index(camera)[self.anchor][slots].tolist()
            offsets, checksums = self.index[f"{member}/frame_offset"], self.index[f"{member}/frame_xxh3"]
            return [
                codec.decode(
                    read_range(
                        file, start + offsets[place], start + offsets[place + 1], checksums[place], self.rows.where
                    )
                )
                for place in places
            ]


class SplitLookup:
    """The tables of one split; indices of shards are read when a window needs them."""

    def __init__(self, folder: Folder, manifest: Mapping[str, Any], split: str) -> None:
        """Reads the order and the shard table.

        Raises:
            FormatError: the output has no such split, or a table is damaged.
            OSError: storage fails.
        """
        if split not in manifest["splits"]:
            raise FormatError(f"{folder} has no split {split!r}. It has: {', '.join(manifest['splits'])}.")
        self._folder = folder
        self._split = split
        self._item_format = ItemFormat.of(manifest)
        files = manifest["files"]
        self._order = read_table(folder, order_file(split), files[order_file(split)]["sha256"])
        self._shards = read_table(folder, shard_table_file(split), files[shard_table_file(split)]["sha256"])
        self._episode_of_segment: NDArray[np.int64] = self._order["episode_index"].to_numpy()
        self._first_anchor_of_segment: NDArray[np.int64] = self._order["first_anchor"].to_numpy()

    @property
    def episodes(self) -> list[int]:
        """Numbers of the episodes that have anchors, ascending."""
        return np.unique(self._episode_of_segment).tolist()

    def anchors(self, episode_index: int) -> NDArray[np.int64]:
        """Numbers of an episode's anchors, ascending; there are gaps where segments were quarantined."""
        rows = np.flatnonzero(self._episode_of_segment == episode_index)
        counts = self._order["anchors"].to_numpy()[rows]
        starts = self._first_anchor_of_segment[rows]
        return np.concatenate([np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)])

    def find(self, episode_index: int, anchor_number: int) -> FoundWindow:
        """Fetches strings and numbers of an anchor that is there.

        Raises:
            FormatError: what is fetched is not what was written.
            OSError: storage fails.
        """
        begins = (self._episode_of_segment == episode_index) & (self._first_anchor_of_segment <= anchor_number)
        segment = self._order.slice(int(np.flatnonzero(begins)[-1]), 1).to_pylist()[0]
        skipped, anchor = divmod(anchor_number - segment["first_anchor"], self._item_format.anchors_per_sample)
        shard = segment["shard"]
        sha256 = self._shards["index_sha256"][shard].as_py()
        index = read_table(self._folder, index_file(self._split, shard), sha256)
        row = index.slice(segment["first_sample"] + skipped, 1).to_pylist()[0]
        tar = tar_file(self._split, shard)
        where = f"{self._folder.path(tar)}, sample {row['key']}"
        first_frame = (anchor_number - anchor) * self._item_format.anchor_stride
        if row["key"] != sample_key(episode_index, first_frame):
            raise FormatError(f"{where}: expected the sample of episode {episode_index}, frame {first_frame}. {REMEDY}")
        with self._folder.open(tar) as file:
            text = read_member(file, row, JSON_MEMBER, where)
            tensors = read_member(file, row, DATA_MEMBER, where)
        rows = SampleRows.parse(self._item_format, text, tensors, where=where)
        return FoundWindow(rows, anchor, tar, row, self._folder)


def read_table(folder: Folder, name: str, sha256: str) -> pa.Table:
    """Reads an Arrow file of an output.

    Raises:
        FormatError: it is not what was written.
        OSError: storage fails.
    """
    content = folder.read(name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise FormatError(f"{folder.path(name)} is damaged: its checksum does not fit. {REMEDY}")
    return pa.ipc.open_file(content).read_all()


def read_member(file: IO[bytes], index: Mapping[str, Any], extension: str, where: str) -> bytes:
    """Reads one member by the row of its sample in the shard's index.

    Raises:
        FormatError: it is not what was written.
        OSError: storage fails.
    """
    start = index[f"{extension}/offset"]
    return read_range(file, start, start + index[f"{extension}/size"], index[f"{extension}/xxh3"], where)


def read_range(file: IO[bytes], start: int, stop: int, xxh3: int, where: str) -> bytes:
    """Reads bytes of a shard and checks them.

    Raises:
        FormatError: they are not what was written.
        OSError: storage fails.
    """
    file.seek(start)
    content = file.read(stop - start)
    if xxhash.xxh3_64_intdigest(content) != xxh3:
        raise FormatError(f"{where}: bytes {start} to {stop} of the shard are damaged. {REMEDY}")
    return content
