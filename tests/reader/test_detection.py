"""Damage is found before a window that it touches is given, and the message says where it is."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from predecode.pipeline import MaterializeOptions, materialize
from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader
from predecode.reader.inspection import inspect_output
from predecode.transforms.errors import FormatError, PredecodeError
from tests.reader.damage import expanded, index_rows, replaced, unreadable
from tests.reader.fuzzing import fingerprint

SHARD_FILES = (".tar", ".index.arrow", ".json")


@pytest.fixture(scope="module")
def made(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 windows of raw images, in two shards."""
    output = tmp_path_factory.mktemp("small") / "output"
    options = MaterializeOptions(
        source=str(data_dir / "zoo_v30"),
        output=str(output),
        episodes="0:4",
        exclude_features=("observation.images.cam", "observation.images.wrist", "u8mat", "i32", "f64s"),
        image_size=(8, 8),
        resize_mode="stretch",
        image_codec="raw",
        delta_indices=(("action", (0, 1, 2)),),
        min_shards=2,
    )
    materialize(options, ["--direct_num_workers=2"])
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "output"))


@pytest.fixture(scope="module")
def expected(made: Path) -> list[str]:
    return [fingerprint(item) for item in WindowDataset(str(made))]


def windows_of(output: Path, shard: int) -> list[int]:
    """Numbers of the windows in a shard."""
    dataset = WindowDataset(str(output))
    located = dataset._index.locate(np.arange(len(dataset)))
    return [int(number) for number in np.flatnonzero(located.shard == shard)]


def test_one_bit_in_any_member_is_found_by_its_windows_and_no_others(output: Path, expected: list[str]) -> None:
    for shard in (0, 1):
        tar, numbers = output / f"train/shard-{shard:05d}.tar", windows_of(output, shard)
        content = tar.read_bytes()
        for row, sample in list(enumerate(index_rows(output, shard)))[::4]:
            for member in [name.removesuffix("/offset") for name in sample if name.endswith("/offset")]:
                start, size_bytes = sample[f"{member}/offset"], sample[f"{member}/size"]
                changed = bytearray(content)
                changed[start + (row * 37) % size_bytes] ^= 1 << row % 8
                stop = start + size_bytes
                where = rf"shard-{shard:05d}\.tar, sample {sample['key']}, {member}: bytes {start} to {stop}"
                with replaced(tar, bytes(changed)):
                    found = unreadable(WindowDataset(str(output)))
                    (number,) = found
                    assert number in numbers
                    assert re.search(where, found[number])
                    with pytest.raises(FormatError, match=where):
                        list(WindowLoader(WindowDataset(str(output)), 8))
                    with pytest.raises(FormatError, match=where):
                        list(StreamingWindowDataset("name", str(output)))
                    kept = WindowLoader(WindowDataset(str(output)), 8, shuffle=False, on_error="skip")
                    assert [index for batch in kept for index in batch["index"].tolist()] == [
                        index for index in range(len(expected)) if index != number
                    ]


def test_bits_between_members_are_never_read_by_the_index(output: Path, expected: list[str]) -> None:
    """Headers and padding: whoever follows the index gets the right items; a pipeline gets these or fewer or none."""
    tar = output / "train/shard-00000.tar"
    content, right = tar.read_bytes(), set(expected)
    inside = np.zeros(len(content), np.bool_)
    with tarfile.open(tar) as archive:
        for member in archive:
            inside[member.offset_data : member.offset_data + member.size] = True
    outside = np.flatnonzero(~inside)
    for place in outside[np.linspace(0, len(outside) - 1, 24).astype(int)].tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        with replaced(tar, bytes(changed)):
            assert [fingerprint(item) for item in WindowDataset(str(output))] == expected
            found = expanded(output) or []
            assert len(found) == len(set(found))
            assert set(found) <= right


@pytest.mark.parametrize("name", ["train/order.arrow", "train/shards.arrow", "train/shard-00001.index.arrow", "meta"])
def test_one_bit_anywhere_in_what_is_not_the_tar_is_found(output: Path, name: str) -> None:
    """The bits of every seventh byte, one after the other."""
    paths = [path for path in sorted(output.rglob("*")) if path.is_file() and str(path).startswith(str(output / name))]
    assert len(paths) == (4 if name == "meta" else 1)
    number = windows_of(output, 1)[0]
    for path in paths:
        content = path.read_bytes()
        for place in range(0, len(content), max(7, len(content) // 150)):
            changed = bytearray(content)
            changed[place] ^= 1 << place // 7 % 8
            with replaced(path, bytes(changed)), pytest.raises(FormatError, match=re.escape(path.name)):
                WindowDataset(str(output))[number]


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_one_bit_in_manifest_and_plan_is_found_or_means_the_same(output: Path, name: str) -> None:
    path, content = output / name, (output / name).read_bytes()
    expected, found = str(inspect_output(str(output))), 0
    for place in range(0, len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 1 << place // 5 % 8
        with replaced(path, bytes(changed)):
            try:
                assert str(inspect_output(str(output))) == expected
            except PredecodeError as error:
                assert name in str(error) or "format version" in str(error)  # noqa: PT017 - Both outcomes are tested.
                found += 1
    assert found > len(content) // 5 * 0.8, "only blanks may change"


def test_a_tar_cut_at_any_block_is_found_before_a_window_of_it_is_given(output: Path, expected: list[str]) -> None:
    tar, numbers = output / "train/shard-00001.tar", windows_of(output, 1)
    others = sorted(set(range(len(expected))) - set(numbers))
    content = tar.read_bytes()
    dataset = WindowDataset(str(output))
    for size_bytes in range(0, len(content), 512):
        with replaced(tar, content[:size_bytes]):
            message = rf"shard-00001\.tar: expected {len(content)} bytes, got {size_bytes}"
            with pytest.raises(FormatError, match=message):
                dataset[numbers[0]]
            if size_bytes % 8192 == 0:
                assert [fingerprint(dataset[number]) for number in others[:3]] == [expected[n] for n in others[:3]]
                with pytest.raises(FormatError, match=message):
                    list(WindowLoader(dataset, 8))
                if size_bytes:  # An empty file is an empty tar to a pipeline, which hands no sample over then.
                    assert expanded(output) is None


@pytest.mark.parametrize("name", ["shard-00001.tar", "shard-00001.index.arrow", "order.arrow", "shards.arrow"])
def test_a_missing_file_is_named(output: Path, name: str) -> None:
    number = windows_of(output, 1)[0]
    with replaced(output / "train" / name, None), pytest.raises(FormatError, match=rf"{name} is missing"):
        WindowDataset(str(output))[number]


def test_missing_metadata_is_named(output: Path) -> None:
    for path in [path for path in (output / "meta").rglob("*") if path.is_file()]:
        with replaced(path, None), pytest.raises(FormatError, match=rf"{path.name} is missing"):
            WindowDataset(str(output))


def test_commit_records_are_none_of_a_readers_business(output: Path, expected: list[str]) -> None:
    for path in output.glob("train/shard-*.json"):
        path.write_bytes(b"{")
    assert [fingerprint(item) for item in WindowDataset(str(output))] == expected


def swap(output: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        one, other = (output / f"train/shard-0000{number}{suffix}" for number in (0, 1))
        one.rename(output / "aside")
        other.rename(one)
        (output / "aside").rename(other)


@pytest.mark.parametrize("suffixes", [SHARD_FILES, (".tar", ".index.arrow"), (".tar",), (".index.arrow",)])
def test_swapped_shards_are_found(output: Path, suffixes: tuple[str, ...]) -> None:
    sizes = {path.stat().st_size for path in output.glob("train/*.tar")}
    assert len(sizes) == 1, "the size of the tars must tell nothing"
    numbers = [windows_of(output, shard)[0] for shard in (0, 1)]
    swap(output, *suffixes)
    for number, shard in zip(numbers, (0, 1), strict=True):
        with pytest.raises(
            FormatError, match=rf"shard-0000{shard}\.(tar, sample .* are damaged|index\.arrow: expected)"
        ):
            WindowDataset(str(output))[number]
    if suffixes == (".tar",):  # Which a pipeline reads in turn: the same samples, found by their keys.
        assert len(expanded(output) or []) == 33
