"""Writing one shard: the tar by webdataset, with fixed metadata, and the index that says where every byte lies."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash

from predecode.transforms.format import TAR_HEADER_BYTES, padded_size
from predecode.transforms.samples import Sample
from predecode.transforms.storage import Folder

OWNER = "predecode"
"""User and group of every tar member."""


@dataclass(frozen=True, slots=True)
class Written:
    """A published file.

    Attributes:
        size_bytes: Its size.
        sha256: Of its content, hexadecimal.
    """

    size_bytes: int
    sha256: str


class _HashedFile:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def write(self, content: bytes) -> int:
        self._sha256.update(content)
        self._size_bytes += len(content)
        return self._file.write(content)

    def written(self) -> Written:
        return Written(self._size_bytes, self._sha256.hexdigest())


def write_tar(folder: Folder, name: str, samples: Sequence[Sample]) -> Written:
    """Publishes the tar of a shard. Without samples it is a valid empty tar.

    Raises:
        OutputError: storage fails.
    """
    import webdataset  # which imports torch: only the worker that writes waits for it

    with folder.publishing(name) as file:
        hashed = _HashedFile(file)
        with webdataset.TarWriter(hashed, user=OWNER, group=OWNER, mtime=0, encoder=False) as tar:
            # Names fit into plain headers, which are the same in both formats and made in half the time.
            tar.tarstream.format = tarfile.USTAR_FORMAT
            for sample in samples:
                start = tar.tarstream.offset
                tar.write({"__key__": sample.key, **{ext: _joined(part) for ext, part in sample.members.items()}})
                assert tar.tarstream.offset == start + _size_in_tar(sample), "the index would not fit the tar"
        return hashed.written()


def write_table(folder: Folder, name: str, table: pa.Table) -> Written:
    """Publishes a table as an uncompressed Arrow IPC file, which readers can memory-map.

    Raises:
        OutputError: storage fails.
    """
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return write_bytes(folder, name, sink.getvalue())


def write_bytes(folder: Folder, name: str, content: bytes) -> Written:
    """Publishes a small file.

    Raises:
        OutputError: storage fails.
    """
    folder.publish(name, content)
    return Written(len(content), hashlib.sha256(content).hexdigest())


def index_table(samples: Sequence[Sample], extensions: Mapping[str, bool]) -> pa.Table:
    """The index of a shard: one row per sample, in tar order.

    Args:
        samples: In tar order.
        extensions: The members of every sample; True for a `frames` member.

    Returns:
        Columns key, episode_index, frame_index, anchors; per member `EXT/offset` (of its first byte in the tar),
        `EXT/size`, `EXT/xxh3`; per `frames` member also the lists `EXT/frame` (frame numbers), `EXT/frame_offset`
        (within the member, one more than frames) and `EXT/frame_xxh3`.
    """
    columns: dict[str, Any] = {
        "key": pa.array([sample.key for sample in samples], pa.string()),
        "episode_index": pa.array([sample.episode_index for sample in samples], pa.int64()),
        "frame_index": pa.array([sample.frame_index for sample in samples], pa.int64()),
        "anchors": pa.array([sample.num_anchors for sample in samples], pa.int32()),
    }
    offsets = _member_offsets(samples)
    for extension, has_frames in sorted(extensions.items()):
        parts = [sample.members[extension] for sample in samples]
        columns[f"{extension}/offset"] = pa.array([offset[extension] for offset in offsets], pa.int64())
        columns[f"{extension}/size"] = pa.array([_size(part) for part in parts], pa.int64())
        columns[f"{extension}/xxh3"] = pa.array([_xxh3(part) for part in parts], pa.uint64())
        if has_frames:
            columns |= _frame_columns(extension, samples)
    return pa.table(columns)


def _frame_columns(extension: str, samples: Iterable[Sample]) -> dict[str, pa.Array]:
    numbers, frame_offsets, checksums = [], [], []
    for sample in samples:
        frames = sample.members[extension]
        assert isinstance(frames, list)
        numbers.append(sample.frame_numbers[extension])
        frame_offsets.append(np.cumsum([0, *map(len, frames)], dtype=np.int64))
        checksums.append([xxhash.xxh3_64_intdigest(frame) for frame in frames])
    return {
        f"{extension}/frame": pa.array(numbers, pa.list_(pa.int64())),
        f"{extension}/frame_offset": pa.array(frame_offsets, pa.list_(pa.int64())),
        f"{extension}/frame_xxh3": pa.array(checksums, pa.list_(pa.uint64())),
    }


def _member_offsets(samples: Iterable[Sample]) -> list[dict[str, int]]:
    """Per sample and member the offset of its first byte: webdataset writes members sorted by extension."""
    position, offsets = 0, []
    for sample in samples:
        places = {}
        for extension in sorted(sample.members):
            places[extension] = position + TAR_HEADER_BYTES
            position += TAR_HEADER_BYTES + padded_size(_size(sample.members[extension]))
        offsets.append(places)
    return offsets


def _size_in_tar(sample: Sample) -> int:
    return sum(TAR_HEADER_BYTES + padded_size(_size(part)) for part in sample.members.values())


def _size(part: bytes | list[bytes]) -> int:
    return len(part) if isinstance(part, bytes) else sum(map(len, part))


def _joined(part: bytes | list[bytes]) -> bytes:
    return part if isinstance(part, bytes) else b"".join(part)


def _xxh3(part: bytes | list[bytes]) -> int:
    checksum = xxhash.xxh3_64()
    for piece in [part] if isinstance(part, bytes) else part:
        checksum.update(piece)
    return checksum.intdigest()
