"""Shards made up by somebody who can compute checksums: nothing runs, leaves the output, or takes memory and time."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from predecode.reader import WindowDataset
from predecode.reader.preview import draw_preview
from predecode.reader.shard_index import MAX_PART_BYTES
from predecode.transforms.errors import FormatError
from predecode.transforms.images import MAX_PIXELS, image_codec, npy_header
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder
from tests.reader.conftest import Materialized
from tests.reader.damage import little_memory, put_manifest, refused
from tests.reader.mutations import seal, table_bytes

CODECS = ("jpeg", "png", "webp", "zstd", "raw")
CAMERA = "observation.images.cam"
INDEX = "train/shard-00000.index.arrow"


@pytest.fixture
def runs(materialized: Materialized, tmp_path: Path) -> Path:
    """A copy, which may be changed, of an output whose samples hold runs."""
    return Path(shutil.copytree(materialized("zoo_v30", "far", 4), tmp_path / "runs"))


def put_member(output: Path, member: str, content: bytes) -> None:
    """Gives the first sample another member, behind the end of its tar, and seals the output."""
    tar, path = output / "train/shard-00000.tar", output / INDEX
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    rows = table.to_pylist()
    first = min(range(len(rows)), key=lambda row: (rows[row]["episode_index"], rows[row]["frame_index"]))
    rows[first] |= {f"{member}/offset": tar.stat().st_size, f"{member}/size": len(content)}
    with tar.open("ab") as file:
        file.write(content)
    path.write_bytes(table_bytes(pa.Table.from_pylist(rows, table.schema)))
    seal(output)


def first_window_of_shard(output: Path) -> int:
    """A window of the sample that `put_member` changes."""
    dataset = WindowDataset(str(output))
    located = dataset._index.locate(np.arange(len(dataset)))
    return int(np.flatnonzero(located.shard == 0)[0])


def reads(output: Path) -> Callable[[], None]:
    """Reads the window that `put_member` will have changed."""
    number = first_window_of_shard(output)

    def read() -> None:
        with little_memory():
            WindowDataset(str(output))[number]

    return read


def safetensors(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", (1 << 64) - 1) + b"{}", "longer than they are"),
        (struct.pack("<Q", 1 << 40) + b"{}", "longer than they are"),
        (safetensors(b" " * (1 << 21)), "longer than they are"),
        (safetensors(b"[" * 100_000), "damaged"),
        (safetensors(b"[]"), "damaged"),
        (safetensors(b"{}"), "Expected the tensor"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[' + b"2," * 99_999 + b'2],"data_offsets":[0,4]}}'), "sizes"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'), "sizes"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1099511627780]}}'), "sizes"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}'), "Expected the"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,4]}}'), "sizes"),
        (safetensors(b'{"a":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}'), "damaged"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":"04"}}'), "sizes"),
        (safetensors(b'{"a":null}'), "damaged"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + b"9" * 5000 + b"]}}"), "damaged"),
    ],
)
def test_made_up_tensors_are_refused(runs: Path, content: bytes, message: str) -> None:
    read = reads(runs)
    put_member(runs, "data.safetensors", content)
    with pytest.raises(FormatError, match=rf"shard-00000\.tar, sample \d{{6}}-\d{{6}}: .*{message}"):
        read()


def test_an_index_out_of_the_rows_is_refused_with_its_sample(runs: Path) -> None:
    import safetensors.numpy

    read = reads(runs)
    table = pa.ipc.open_file((runs / INDEX).read_bytes()).read_all().to_pylist()
    first = min(table, key=lambda row: (row["episode_index"], row["frame_index"]))
    content = (runs / "train/shard-00000.tar").read_bytes()[first["data.safetensors/offset"] :]
    tensors = safetensors.numpy.load(content[: first["data.safetensors/size"]])
    for value in (-1, 1 << 30):
        changed = tensors | {"action/index": np.full_like(tensors["action/index"], value)}
        put_member(runs, "data.safetensors", safetensors.numpy.save(changed))
        with pytest.raises(FormatError, match=rf"sample {first['key']}, action: an index leads out of the \d+ rows"):
            read()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"{}",
        b"[]",
        b'{"task":["a","b","c","d"],"note":"abcd"',
        b'{"task":{},"note":["","","",""]}',
        b'{"task":[1,1,1,1],"note":["","","",""]}',
        b'{"task":[],"note":["","","",""]}',
        b"9" * 10_000,
    ],
)
def test_made_up_strings_are_refused(runs: Path, content: bytes) -> None:
    read = reads(runs)
    put_member(runs, "json", content)
    with pytest.raises(FormatError, match=r"sample \d{6}-\d{6}.*(damaged|as a string)"):
        read()


def bombs() -> dict[str, bytes]:
    """Small files, by codec, that declare very many pixels."""
    image = np.zeros((48, 64, 3), np.uint8)
    content = {name: image_codec(name).encode(image) for name in CODECS}
    raw = npy_header((60000, 60000, 3)) + content["raw"][128:]
    return {
        "jpeg": content["jpeg"].replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 60000, 60000), 1),
        "png": content["png"].replace(struct.pack(">II", 64, 48), struct.pack(">II", 60000, 60000), 1),
        "webp": content["webp"][:21] + struct.pack("<I", 0x0FFFFFFF) + content["webp"][25:],
        "zstd": bytes(imagecodecs.zstd_encode(npy_header((1 << 14, 1 << 14, 4)) + bytes(1 << 26))),
        "raw": raw,
    }


@pytest.mark.parametrize("codec", CODECS)
def test_gigapixels_are_refused_with_shard_and_sample(materialized: Materialized, tmp_path: Path, codec: str) -> None:
    output = Path(shutil.copytree(materialized("zoo_v30", "single", 1), tmp_path / "output"))
    read = reads(output)
    extension = image_codec(codec).extension
    image = read_manifest(Folder.of(str(output)))["image"]
    put_manifest(output, {"image": image | {"image_codec": codec, "extension": extension}})
    for path in output.glob("train/*.index.arrow"):
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        renamed = [name.replace(".png/", f".{extension}/") for name in table.column_names]
        path.write_bytes(table_bytes(table.rename_columns(renamed)))
    put_member(output, f"{CAMERA}.{extension}", bombs()[codec])
    with pytest.raises(FormatError, match=rf"shard-00000\.tar, sample .*, {CAMERA}.*Cannot decode an image as {codec}"):
        read()


def test_zstd_frames_that_are_no_single_image_are_refused() -> None:
    small = bytes(imagecodecs.zstd_encode(npy_header((4, 4, 3)) + bytes(48)))
    for content in (bytes(imagecodecs.zstd_encode(bytes(4 * MAX_PIXELS + 200))), small * 3, small + small[:9]):
        with pytest.raises(FormatError, match="Cannot decode an image as zstd"):
            image_codec("zstd").decode(content)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Of a few bytes each, every scan would make the whole image anew."""
    image = np.zeros((64, 64, 3), np.uint8)
    content = image_codec("jpeg").encode(image)
    scan = content.index(b"\xff\xda")
    one_component = b"\xff\xda" + struct.pack(">H", 8) + b"\x01\x01\x00\x00\x3f\x00" + bytes(4)
    with pytest.raises(FormatError, match="header and scan of a baseline image"):
        image_codec("jpeg").decode(content[:scan] + one_component * 9 + b"\xff\xd9", np.empty_like(image))


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_that_no_encoder_makes_are_not_decoded(codec: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 50, 3), dtype=np.uint8)
    encoder = image_codec(codec, jpeg_quality=100)
    content = encoder.encode(image)
    assert encoder.decode(content, np.empty_like(image)).shape == image.shape, "noise takes most bytes"
    with pytest.raises(FormatError):
        encoder.decode(content[:-12] + bytes(1 << 20) + content[-12:], np.empty_like(image))


def test_a_tar_with_holes_is_not_read_as_a_whole(runs: Path) -> None:
    read, size_bytes = reads(runs), 1 << 39
    with (runs / "train/shard-00000.tar").open("r+b") as file:
        file.truncate(size_bytes)
    table = pa.ipc.open_file((runs / INDEX).read_bytes()).read_all()
    rows = table.to_pylist()
    for row in rows:
        row["json/size"] = MAX_PART_BYTES + 1
    write_index(runs, table_bytes(pa.Table.from_pylist(rows, table.schema)), tar_bytes=size_bytes)
    with pytest.raises(FormatError, match=rf"members json of at most {MAX_PART_BYTES} bytes"):
        read()


def write_index(output: Path, content: bytes, **columns: Any) -> None:
    """Puts an index in the place of the first shard's, and seals the output without looking at the tar."""
    (output / INDEX).write_bytes(content)
    path = output / "train/shards.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    rows = table.to_pylist()
    rows[0] |= {"index_bytes": len(content), "index_sha256": hashlib.sha256(content).hexdigest(), **columns}
    path.write_bytes(table_bytes(pa.Table.from_pylist(rows, table.schema)))
    manifest = read_manifest(Folder.of(str(output)))
    described = path.read_bytes()
    files = manifest["files"] | {
        "train/shards.arrow": {"size_bytes": len(described), "sha256": hashlib.sha256(described).hexdigest()}
    }
    put_manifest(output, {"files": files})


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_tables_are_refused_before_they_are_read(runs: Path, compression: str) -> None:
    """A few kilobytes would make four gigabytes."""
    read = reads(runs)
    batch = pa.record_batch({"episode_index": pa.array(np.zeros(1 << 22, np.int64))})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(128):
            writer.write_batch(batch)
    write_index(runs, sink.getvalue())
    with pytest.raises(FormatError, match=r"shard-00000\.index\.arrow is damaged: its columns are compressed"):
        read()
    (runs / INDEX).unlink()
    (runs / "train/order.arrow").write_bytes(sink.getvalue())
    seal(runs)
    refused(runs, r"order\.arrow is damaged: its columns are compressed")


def put_episodes(output: Path, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    (output / "meta/episodes/chunk-000/file-000.parquet").write_bytes(sink.getvalue())
    seal(output)


def episode_columns(**columns: pa.Array | NDArray[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    zeros = pa.array(np.zeros(count, np.int64))
    names = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
    tasks = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()))
    split = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["train"])).cast(pa.string())
    return pa.table({**dict.fromkeys(names, zeros), "tasks": tasks, "split": split, **columns})


def test_a_parquet_file_of_very_many_rows_is_refused(runs: Path) -> None:
    put_episodes(runs, episode_columns(length=pa.array(np.zeros((1 << 24) + 1, np.int64))))
    assert (runs / "meta/episodes/chunk-000/file-000.parquet").stat().st_size < 1 << 20
    refused(runs, r"file-000\.parquet is damaged: .*it declares 16777217 rows")


def test_a_long_string_in_every_row_is_kept_once(runs: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, np.int32)), pa.array(["x" * (1 << 20)]))
    put_episodes(runs, episode_columns(split=words))
    with little_memory():
        assert WindowDataset(str(runs)).meta.total_episodes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["split"]), "split"),
        (lambda table: table.set_column(0, "episode_index", table["episode_index"].cast(pa.float64())), "double"),
        (lambda table: table.set_column(1, "length", pa.array([None] * len(table), pa.int64())), "no missing"),
        (lambda table: table.rename_columns(["a", *table.column_names[1:]]), "episode_index"),
    ],
)
def test_made_up_episodes_are_refused(runs: Path, change: Callable[[pa.Table], pa.Table], message: str) -> None:
    put_episodes(runs, change(pq.read_table(runs / "meta/episodes/chunk-000/file-000.parquet")))
    refused(runs, rf"file-000\.parquet is damaged: .*{message}")


class Program:
    """What a pickle may do to who loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_nothing_in_an_output_runs(runs: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    program = pickle.dumps(Program(trace))
    pickle.loads(program)  # noqa: S301 - To see that it would leave a trace.
    trace.rmdir()
    file = io.BytesIO()
    np.save(file, np.array([Program(trace)], dtype=object), allow_pickle=True)
    for codec in ("raw", "zstd"):
        content = file.getvalue() if codec == "raw" else bytes(imagecodecs.zstd_encode(file.getvalue()))
        with pytest.raises(FormatError):
            image_codec(codec).decode(content)
    read = reads(runs)
    for member in ("json", "data.safetensors"):
        put_member(runs, member, program)
        with pytest.raises(FormatError):
            read()
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": program}
    for path in (INDEX, "train/order.arrow", "train/shards.arrow"):
        table = pa.ipc.open_file((runs / path).read_bytes()).read_all()
        fields = [field.with_metadata(extension) for field in table.schema]
        (runs / path).write_bytes(table_bytes(table.cast(pa.schema(fields))))
    episodes = pq.read_table(runs / "meta/episodes/chunk-000/file-000.parquet")
    put_episodes(runs, episodes.cast(pa.schema([field.with_metadata(extension) for field in episodes.schema])))
    try:
        dataset = WindowDataset(str(runs))
        assert list(dataset.meta.tasks.index)
        dataset[0]
        draw_preview(str(runs), str(tmp_path / "preview.png"))
    except FormatError:
        pass
    assert not trace.exists()
