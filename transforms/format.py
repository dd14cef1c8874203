"""Names and versions of format version 1, which docs/format.md specifies: what job and reader agree on."""

from __future__ import annotations

import struct

import pyarrow as pa

from predecode.transforms.layout import TRAIN, VAL

FORMAT_VERSION = 1

SPLITS = (TRAIN, VAL)

PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
QUARANTINE_FILE = "quarantine.jsonl"
STAGING_FOLDER = "extending"
"""What an extension writes waits here, under the same names, until the new manifest is there."""

EXTENDING = "extending"
"""Field of a manifest that is true while files of its output may still lie in the staging folder."""

META_FOLDER = "meta"
INFO_FILE = f"{META_FOLDER}/info.json"
STATS_FILE = f"{META_FOLDER}/stats.json"
TASKS_FILE = f"{META_FOLDER}/tasks.parquet"
EPISODES_FILE = f"{META_FOLDER}/episodes/chunk-000/file-000.parquet"

JSON_MEMBER = "json"
DATA_MEMBER = "data.safetensors"
FRAMES_EXTENSION = "frames"

TENSORS_LENGTH = struct.Struct("<Q")
"""What a safetensors file begins with: the length of the JSON that says where each tensor lies."""

TAR_HEADER_BYTES = 512
TAR_BLOCK_BYTES = 512


SHARD_COLUMNS = {
    "anchors": pa.int64(),
    "samples": pa.int64(),
    "tar_bytes": pa.int64(),
    "tar_sha256": pa.string(),
    "index_bytes": pa.int64(),
    "index_sha256": pa.string(),
    "plan_hash": pa.string(),
    "record_sha256": pa.string(),
}
"""Of the shard table, a row per shard."""

ORDER_COLUMNS = {
    "episode_index": pa.int64(),
    "first_anchor": pa.int64(),
    "anchors": pa.int64(),
    "shard": pa.int32(),
    "first_sample": pa.int32(),
    "samples": pa.int32(),
}
"""Of the order table, a row per segment."""


def sample_key(episode_index: int, frame_index: int) -> str:
    """Key of the sample whose first anchor is this frame.

    >>> sample_key(3, 128)
    '000003-000128'
    """
    return f"{episode_index:06d}-{frame_index:06d}"


def shard_stem(split: str, number: int) -> str:
    """Path of a shard without its extension.

    >>> shard_stem("train", 7)
    'train/shard-00007'
    """
    return f"{split}/shard-{number:05d}"


def tar_file(split: str, number: int) -> str:
    """The tar of a shard."""
    return f"{shard_stem(split, number)}.tar"


def shard_number(path: str) -> int:
    """The number in the path of a shard's file.

    >>> shard_number("train/shard-00007.tar")
    7
    """
    return int(path.rpartition("-")[2].partition(".")[0])


def index_file(split: str, number: int) -> str:
    """The index of a shard."""
    return f"{shard_stem(split, number)}.index.arrow"


def commit_file(split: str, number: int) -> str:
    """The commit record of a shard."""
    return f"{shard_stem(split, number)}.json"


def order_file(split: str) -> str:
    """The segments of a split in source order."""
    return f"{split}/order.arrow"


def shard_table_file(split: str) -> str:
    """The shards of a split, with sizes and checksums."""
    return f"{split}/shards.arrow"


def padded_size(size_bytes: int) -> int:
    """Bytes that a member's content takes in a tar.

    >>> padded_size(0), padded_size(1), padded_size(512)
    (0, 512, 512)
    """
    return -(-size_bytes // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
