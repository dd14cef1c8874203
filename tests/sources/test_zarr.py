"""Replay buffers as they are found: codecs, chunks and dtypes that work, and what is refused by name."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import imagecodecs
import numcodecs
import numpy as np
import pytest
import zarr
from imagecodecs.numcodecs import Jpeg2k, Jpegxl
from numpy.typing import NDArray
from zarr.codecs import GzipCodec, ZstdCodec

from predecode.transforms.errors import DataError, PredecodeError, SourceError, SourceNotFoundError, UsageError
from predecode.transforms.features import Kind
from predecode.transforms.sources.base import Source
from tests.sources.reading import episode, episodes, open_at
from tests.sources.replay_buffers import write_buffer

ENDS = [4, 9, 20]
RNG = np.random.default_rng(0)
ARRAYS: dict[str, NDArray[Any]] = {
    "img": RNG.integers(0, 256, (20, 16, 18, 3), np.uint8),
    "action": RNG.normal(size=(20, 2)).astype(np.float32),
}


def opened(path: Path, **options: Any) -> Source:
    return open_at(path, **{"fps": 10.0, **options})


def read_all(source: Source) -> dict[str, NDArray[Any]]:
    """Every value of every feature, over all episodes."""
    found: dict[str, list[Any]] = {}
    with source.reader(tolerance_s=1e-4) as reader:
        for each in episodes(source).values():
            for name, values in reader.rows(each, 0, each.num_frames).items():
                found.setdefault(name, []).append(values)
            for camera in [feature.name for feature in source.features if feature.is_camera]:
                found.setdefault(camera, []).append(list(reader.frames(each, camera, range(each.num_frames))))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.fixture
def buffer(tmp_path: Path) -> Path:
    """One that is sound, to be spoiled."""
    return write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS, compressors=None)


@pytest.fixture
def umi_codecs() -> Iterator[None]:
    """numcodecs as UMI has it: with imagecodecs' own codecs, which are called as UMI calls its copies of them."""
    with patch.dict(numcodecs.registry.codec_registry):
        numcodecs.register_codec(Jpegxl)
        numcodecs.register_codec(Jpeg2k)
        yield


def edit(path: Path, **changes: Any) -> None:
    """Changes the metadata of an array."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("version", "compressors"),
    [
        (2, None),
        (2, numcodecs.Blosc("lz4", shuffle=numcodecs.Blosc.SHUFFLE)),
        (2, numcodecs.Zstd(3)),
        (2, numcodecs.Zlib(1)),
        (2, numcodecs.GZip(1)),
        (2, numcodecs.BZ2(1)),
        (3, None),
        (3, ZstdCodec(level=3, checksum=True)),
        (3, GzipCodec(level=1)),
    ],
    ids=lambda value: f"{value}".replace("\n", " ")[:24],
)
def test_codecs(tmp_path: Path, version: int, compressors: Any) -> None:
    path = write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS, version=version, compressors=compressors)
    found = read_all(opened(path))
    assert np.array_equal(found["img"], ARRAYS["img"])
    assert np.array_equal(found["action"], ARRAYS["action"])


@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
def test_chunks_of_any_length(tmp_path: Path, chunk_rows: int) -> None:
    path = write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS, chunk_rows=chunk_rows)
    assert np.array_equal(read_all(opened(path))["img"], ARRAYS["img"])


def test_chunks_that_split_frames_and_shards(tmp_path: Path) -> None:
    path = write_buffer(tmp_path / "made.zarr", {"action": ARRAYS["action"]}, ENDS, version=3)
    data = zarr.open_group(path / "data", mode="a")
    data.create_array("split", data=ARRAYS["img"], chunks=(3, 8, 9, 1))
    data.create_array("sharded", data=ARRAYS["img"], chunks=(2, 16, 18, 3), shards=(6, 16, 18, 3))
    found = read_all(opened(path))
    assert np.array_equal(found["split"], ARRAYS["img"])
    assert np.array_equal(found["sharded"], ARRAYS["img"])


def test_pieces_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS, chunk_rows=1000)
    monkeypatch.setattr("predecode.transforms.sources.zarr_reader._PIECE_BYTES", 3 * 16 * 18 * 3)
    source = opened(path)
    last = episodes(source)[2]
    with source.reader(tolerance_s=1e-4) as reader:
        images = list(reader.frames(last, "img", range(11)))
        bases = [image.base for image in images]
        assert max(base.shape[0] for base in bases if base is not None) == 3
        assert np.array_equal(images, ARRAYS["img"][9:])
        picked = list(reader.frames(last, "img", [1, 2, 10]))
        assert np.array_equal(picked, ARRAYS["img"][[10, 11, 19]])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "uint64", ">i4", "float16", "float32", ">f8"])
def test_numbers_are_those_of_an_item(tmp_path: Path, dtype: str) -> None:
    values = RNG.integers(0, 2, (20, 3)).astype(dtype)
    found = read_all(opened(write_buffer(tmp_path / "made.zarr", {"a": values}, ENDS)))["a"]
    kind = np.dtype(dtype).kind
    assert found.dtype == {"b": np.bool_, "f": np.float32}.get(kind, np.int64)
    assert np.array_equal(found, values)


def test_one_value_a_frame_is_a_scalar(tmp_path: Path) -> None:
    flat = np.arange(20, dtype=np.float32)
    found = read_all(opened(write_buffer(tmp_path / "made.zarr", {"a": flat, "b": flat[:, None]}, ENDS)))
    assert found["a"].shape == found["b"].shape == (20,)


def test_columns_that_a_buffer_has_not(buffer: Path) -> None:
    found = read_all(opened(buffer, fps=30.0, task="Push."))
    frames = [*range(4), *range(5), *range(11)]
    assert np.array_equal(found["timestamp"], (np.array(frames) / 30.0).astype(np.float32))
    assert found["frame_index"].tolist() == frames
    assert found["episode_index"].tolist() == [0] * 4 + [1] * 5 + [2] * 11
    assert found["index"].tolist() == list(range(20))
    assert found["task_index"].tolist() == [0] * 20
    assert found["task"].tolist() == ["Push."] * 20


def test_images_of_floats_are_pixels(tmp_path: Path) -> None:
    arrays = {"img": ARRAYS["img"].astype(np.float32), "poses": np.zeros((20, 2, 4, 4), np.float32)}
    source = opened(write_buffer(tmp_path / "made.zarr", arrays, ENDS))
    assert {feature.name: feature.kind for feature in source.features[:2]} == {"img": Kind.IMAGE, "poses": Kind.NUMBER}
    found = read_all(source)["img"]
    assert found.dtype == np.uint8
    assert np.array_equal(found, ARRAYS["img"])


@pytest.mark.parametrize("value", [0.5, 256.0, -1.0, np.nan])
def test_images_of_other_floats_are_refused(tmp_path: Path, value: float) -> None:
    images = ARRAYS["img"].astype(np.float32)
    images[6, 3, 4, 1] = value
    source = opened(write_buffer(tmp_path / "made.zarr", {"img": images}, ENDS))
    with pytest.raises(DataError, match=r"episode 1, frame 2 \(data/img, row 6\): expected pixels"):
        read_all(source)


def test_names(buffer: Path) -> None:
    source = opened(buffer, renames={"img": "observation.image"}, excluded=frozenset({"action"}))
    assert [feature.name for feature in source.features][:2] == ["observation.image", "timestamp"]
    assert source.summary()["arrays"] == {"observation.image": "data/img"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": None}, "give --fps N"),
        ({"excluded": frozenset({"none"})}, "cannot exclude none: no such array. There are: action, img"),
        ({"renames": {"none": "a"}}, "there is no feature 'none'. There are: action, img"),
        ({"renames": {"img": "action"}}, "'action' and 'img' cannot both be called 'action'"),
        ({"renames": {"img": "../img"}}, "not safe in a path"),
        ({"renames": {"img": "index"}}, "a name that LeRobot keeps for itself"),
        ({"excluded": frozenset({"action", "img"})}, "found none"),
    ],
)
def test_wrong_options(buffer: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, SourceError), match=message):
        opened(buffer, **options)


def test_lerobot_datasets_know_their_speed(data_dir: Path) -> None:
    with pytest.raises(UsageError, match="--fps"):
        open_at(data_dir / "pusht_v30", fps=10.0)


@pytest.mark.usefixtures("umi_codecs")
@pytest.mark.parametrize(
    "codec", [Jpegxl(lossless=True), Jpeg2k(reversible=True)], ids=["imagecodecs_jpegxl", "imagecodecs_jpeg2k"]
)
@pytest.mark.parametrize("name", ["umi.zarr", "umi.zarr.zip"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_as_umi_encodes_them(tmp_path: Path, codec: Any, name: str, channels: int) -> None:
    images = RNG.integers(0, 256, (20, 16, 18, channels), np.uint8)
    path = write_buffer(tmp_path / name, {"camera0_rgb": images}, ENDS, chunk_rows=1, compressors=codec)
    found = read_all(opened(path))["camera0_rgb"]
    assert found.dtype == np.uint8
    assert np.array_equal(found, images)


@pytest.mark.usefixtures("umi_codecs")
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing", "larger", "deeper"])
def test_damaged_images_are_data_errors(tmp_path: Path, damage: str) -> None:
    codec = Jpegxl(lossless=True)
    path = write_buffer(tmp_path / "umi.zarr", {"img": ARRAYS["img"]}, ENDS, chunk_rows=1, compressors=codec)
    chunk = path / "data" / "img" / "5.0.0.0"
    content = chunk.read_bytes()
    chunk.unlink()
    contents = {
        "cut": content[:-40],
        "empty": b"",
        "noise": b"noise" * 100,
        "larger": imagecodecs.jpegxl_encode(np.zeros((17, 18, 3), np.uint8)),
        "deeper": imagecodecs.jpegxl_encode(np.zeros((16, 18, 3), np.uint16)),
    }
    if damage in contents:
        chunk.write_bytes(contents[damage])
    source = opened(path)
    with source.reader(tolerance_s=1e-4) as reader:
        second = episodes(source)[1]
        assert len(list(reader.frames(second, "img", [0, 2, 3, 4]))) == 4
        with pytest.raises(DataError, match=r"episode 1, frame 1 \(data/img, row 5\) .*data/img/5\.0\.0\.0") as caught:
            list(reader.frames(second, "img", range(5)))
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"chunks": [2, 16, 18, 3]}, {"dtype": "<u2"}, {"filters": [{"id": "delta"}]}, {"shape": [20, 16, 18]}]
)
def test_image_codecs_of_other_layouts_are_named(buffer: Path, changes: dict[str, Any]) -> None:
    layout = {"chunks": [1, 16, 18, 3], "compressor": {"id": "imagecodecs_jpegxl"}}
    edit(buffer / "data" / "img" / ".zarray", **(layout | changes))
    with pytest.raises(SourceError, match="codecs: imagecodecs_jpegxl"):
        opened(buffer)


@pytest.mark.parametrize(("codec", "settings"), [("imagecodecs_avif", {"level": 99}), ("pcodec", {}), ("lz4", {})])
def test_codecs_that_tensorstore_lacks_are_named(buffer: Path, codec: str, settings: dict[str, Any]) -> None:
    edit(buffer / "data" / "img" / ".zarray", compressor={"id": codec, **settings})
    with pytest.raises(SourceError, match=rf"data/img: .*codecs: {codec}.*zstd or blosc.*--exclude-features img"):
        opened(buffer)
    assert read_all(opened(buffer, excluded=frozenset({"img"})))["action"].shape == (20, 2)


def test_a_codec_of_version_3_is_named(tmp_path: Path) -> None:
    path = write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS, version=3)
    edit(path / "data" / "img" / "zarr.json", codecs=[{"name": "imagecodecs_jpegxl", "configuration": {}}])
    with pytest.raises(SourceError, match="codecs: imagecodecs_jpegxl"):
        opened(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, r"codecs: pickle; dtype: '\|O'"),
        ({"dtype": "<U8"}, "dtype: '<U8'"),
        ({"dtype": "<c8", "fill_value": None}, "complex64"),
        ({"dtype": [["x", "<f4"], ["y", "<f4"]]}, "cannot read this array"),
        ({"shape": [20, 1 << 40], "chunks": [1, 1]}, "expected a shape of"),
        ({"shape": [1 << 62, 2]}, "rows"),
        ({"shape": [-1, 2]}, "cannot read this array"),
        ({"shape": [20, 0], "chunks": [1, 1]}, "expected a shape of"),
        ({"shape": [], "chunks": []}, "expected an array"),
        ({"shape": [20] + [1] * 20, "chunks": [20] + [1] * 20}, "expected a shape of"),
        ({"chunks": [1 << 40, 2]}, "chunks of at most"),
        ({"chunks": [0, 2]}, "cannot read this array"),
        ({"chunks": [7]}, "cannot read this array"),
        ({"zarr_format": 4}, "cannot read this array"),
        ({"shape": [19, 2]}, "arrays of one length, got data/action: 19, data/img: 20"),
        ({"dtype": "|u1", "shape": [20, 3, 16, 18], "chunks": [7, 3, 16, 18]}, "height, width, channels"),
        ({"dtype": "|u1", "shape": [20, 1 << 14, 1 << 14, 3], "chunks": [1, 64, 64, 3]}, "pixels"),
    ],
)
def test_hostile_arrays_are_refused(buffer: Path, changes: dict[str, Any], message: str) -> None:
    edit(buffer / "data" / "action" / ".zarray", **changes)
    with pytest.raises(SourceError, match=message) as caught:
        opened(buffer)
    assert "action" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 21)], ids=lambda content: content[:2]
)
def test_metadata_that_are_no_object_are_refused(buffer: Path, content: bytes) -> None:
    (buffer / "data" / "action" / ".zarray").write_bytes(content)
    with pytest.raises(SourceError, match=r"data/action/\.zarray: expected"):
        opened(buffer)


@pytest.mark.parametrize("name", ["timestamp", "task", "index"])
def test_names_that_lerobot_has_must_be_given_away(tmp_path: Path, name: str) -> None:
    path = write_buffer(tmp_path / "made.zarr", {name: np.arange(20.0)}, ENDS)
    with pytest.raises(SourceError, match=f"--rename {name}=observation.{name}"):
        opened(path)
    renamed = read_all(opened(path, renames={name: f"observation.{name}"}))
    assert renamed[f"observation.{name}"].tolist() == list(range(20))


@pytest.mark.parametrize("name", ["_hidden", "a..b", "a\nb", "x" * 80, "a\\b"])
def test_names_that_are_not_safe_are_refused(buffer: Path, name: str) -> None:
    shutil.copytree(buffer / "data" / "action", buffer / "data" / name)
    with pytest.raises(SourceError, match=r"feature name|path inside the dataset"):
        opened(buffer)


def test_groups_within_data_are_refused(buffer: Path) -> None:
    (buffer / "data" / "obs").mkdir()
    (buffer / "data" / "obs" / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(SourceError, match="expected a Zarr array data/obs, found none"):
        opened(buffer)
    opened(buffer, excluded=frozenset({"obs"}))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([4, 4, 20], "expected ends that increase, got 4 after 4 at 1"),
        ([9, 4, 20], "expected ends that increase, got 4 after 9 at 1"),
        ([0, 4, 20], "expected ends that increase, got 0 after 0 at 0"),
        ([-3, 4, 20], "got -3"),
        ([4, 9, 21], "where the arrays do, at row 20, got 21"),
        ([4, 9, 19], "where the arrays do, at row 20, got 19"),
        ([4, 9, 2**62], "got 4611686018427387904"),
    ],
)
def test_ends_that_are_not_those_of_the_arrays_are_refused(tmp_path: Path, ends: list[int], message: str) -> None:
    source = opened(write_buffer(tmp_path / "made.zarr", ARRAYS, ends))
    for read in (source.read_frame_runs, source.read_episode_metadata):
        with pytest.raises(SourceError, match=message):
            list(read("meta/episode_ends"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "<f8"}, "whole numbers, got float64"),
        ({"shape": [3, 1], "chunks": [3, 1]}, "whole numbers"),
        ({"shape": [1 << 40]}, "at most"),
        ({"shape": [1 << 20], "chunks": [3]}, "missing"),
    ],
)
def test_hostile_ends_are_refused(buffer: Path, changes: dict[str, Any], message: str) -> None:
    edit(buffer / "meta" / "episode_ends" / ".zarray", **changes)
    with pytest.raises(SourceError, match=message):
        episodes(opened(buffer))


def spoil_group(buffer: Path) -> None:
    (buffer / ".zgroup").unlink()


def spoil_ends(buffer: Path) -> None:
    shutil.rmtree(buffer / "meta")


def spoil_data(buffer: Path) -> None:
    shutil.rmtree(buffer / "data")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_group, "no Zarr group here"),
        (spoil_ends, "expected a Zarr array meta/episode_ends"),
        (spoil_data, "found none"),
        (shutil.rmtree, "no such file or folder"),
    ],
)
def test_what_is_no_buffer_is_refused(buffer: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(buffer)
    with pytest.raises(SourceError, match=message):
        opened(buffer)


def test_a_folder_needs_no_special_name(buffer: Path) -> None:
    buffer.rename(buffer.with_name("replay_buffer"))
    assert len(episodes(opened(buffer.with_name("replay_buffer")))) == 3


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all" * 100])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "made.zarr.zip").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as a Zarr group"):
        opened(tmp_path / "made.zarr.zip")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = write_buffer(tmp_path / "made.zarr.zip", ARRAYS, ENDS)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="cannot be read as a Zarr group"):
        opened(path)


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    path = write_buffer(tmp_path / "made.zarr.zip", ARRAYS, ENDS)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("data/../.zarray", "/etc/.zarray", "../data/out/.zarray"):
            archive.writestr(name, "{}")
    assert [feature.name for feature in opened(path).features][:3] == ["action", "img", "timestamp"]


def test_a_zip_compressed_once_more(tmp_path: Path) -> None:
    folder = write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS)
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            archive.write(file, str(file.relative_to(folder)))  # folders have entries of their own
    assert np.array_equal(read_all(opened(tmp_path / "made.zip"))["img"], ARRAYS["img"])


@pytest.mark.parametrize("compressors", ["blosc", None, numcodecs.Zstd(3), numcodecs.GZip(1)], ids=str)
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing"])
def test_damaged_chunks_are_data_errors(tmp_path: Path, compressors: Any, damage: str) -> None:
    path = write_buffer(tmp_path / "made.zarr", ARRAYS, ENDS, compressors=compressors)
    for name in ("img/1.0.0.0", "action/1.0"):
        chunk = path / "data" / name
        content = chunk.read_bytes()
        chunk.unlink()
        if damage != "missing":
            chunk.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": b"noise" * 1000}[damage])
    source = opened(path)
    with source.reader(tolerance_s=1e-4) as reader:
        for each in (1, 2):  # chunks are 7 rows: the second has rows of episodes 1 and 2
            start = 7 - 4 if each == 1 else 0
            with pytest.raises(DataError, match=rf"episode {each}, frame {start} \(data/img, row \d+\) or behind it: "):
                list(reader.frames(episode(source, each), "img", range(start, 5)))
            with pytest.raises(DataError, match=rf"episode {each}, frame {start} \(data/action") as caught:
                reader.rows(episode(source, each), start, 5)
            assert str(tmp_path) not in str(caught.value)
        assert len(list(reader.frames(episode(source, 0), "img", range(4)))) == 4


def test_storage_that_fails_is_no_data_error(buffer: Path) -> None:
    chunk = buffer / "data" / "img" / "1.0.0.0"
    chunk.unlink()
    chunk.symlink_to(chunk.name)  # a loop: the system refuses to open it
    source = opened(buffer)
    with source.reader(tolerance_s=1e-4) as reader, pytest.raises(OSError, match=r"1\.0\.0\.0") as caught:
        list(reader.frames(episodes(source)[2], "img", [0]))
    assert not isinstance(caught.value, PredecodeError)


def test_numbers_beyond_int64_are_refused(tmp_path: Path) -> None:
    values = np.zeros((20, 2), np.uint64)
    values[6, 1] = 1 << 63
    source = opened(write_buffer(tmp_path / "made.zarr", {"a": values}, ENDS))
    with pytest.raises(DataError, match=r"episode 1, frame 2 \(data/a, row 6\): a number that an int64 tensor cannot"):
        read_all(source)


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file or folder"):
        opened(tmp_path / "none.zarr")
