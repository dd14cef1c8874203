"""Opening a split: items are where a slow reader finds them, and nothing damaged, foreign or made up is believed."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predecode.reader.ranges import open_ranges
from predecode.reader.shard_index import ShardIndex
from predecode.reader.split import MAX_FETCHED_BYTES, SplitIndex
from predecode.reader.tables import map_described, map_file
from predecode.transforms.errors import FormatError, UsageError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder
from tests.readback import read_samples
from tests.reader.conftest import Materialized
from tests.reader.damage import replaced

Edit = Callable[[pa.Table], pa.Table]


@pytest.fixture(params=["runs", "images", "jpeg"])
def output(request: pytest.FixtureRequest, materialized: Materialized) -> Path:
    if request.param == "runs":
        return materialized("zoo_v30", "far", 4)
    if request.param == "images":
        return materialized("zoo_v30", "single", 1)
    return materialized("pusht_images_v30", "diffusion", 16, image_codec="jpeg")


@pytest.fixture
def runs(materialized: Materialized, tmp_path: Path) -> Path:
    """A copy, which may be changed, of an output whose samples hold runs."""
    return Path(shutil.copytree(materialized("zoo_v30", "far", 4), tmp_path / "runs"))


def open_split(output: Path | str, **options: Any) -> SplitIndex:
    folder = Folder.of(str(output))
    return SplitIndex(folder, read_manifest(folder), "train", **options)


def table_of(path: Path) -> pa.Table:
    return pa.ipc.open_file(path.read_bytes()).read_all()


def bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def listed_items(output: Path) -> list[tuple[int, int, int, int, int]]:
    """Per item shard, row, anchor, episode, anchor number: as docs/format.md says it, one by one."""
    per_sample = read_manifest(Folder.of(str(output)))["anchors_per_sample"]
    return [
        (
            row["shard"],
            row["first_sample"] + k // per_sample,
            k % per_sample,
            row["episode_index"],
            row["first_anchor"] + k,
        )
        for row in table_of(output / "train/order.arrow").to_pylist()
        for k in range(row["anchors"])
    ]


def read_everything(index: SplitIndex, folder: Folder) -> dict[str, dict[str, bytes]]:
    """Every member by key and extension, found item by item, checked, and the frames in it too."""
    reader, found = open_ranges(folder), {}
    located = index.locate(np.arange(index.num_items))
    for number, row in sorted(set(zip(located.shard.tolist(), located.row.tolist(), strict=True))):
        shard = index.shard_index(number)
        parts = reader.read_ranges([shard.member_range(row, member) for member in shard.members])
        for member, part in zip(shard.members, parts, strict=True):
            shard.check_member(part, row, member)
        for member, frames in shard.frames.items():
            places = range(int(frames.first[row + 1] - frames.first[row]))
            encoded = reader.read_ranges(shard.frame_ranges(row, member, places))
            for place, part in zip(places, encoded, strict=True):
                shard.check_frame(part, row, member, place)
        found[str(shard.keys[row])] = {member: bytes(part) for member, part in zip(shard.members, parts, strict=True)}
    reader.close()
    return found


def members_of(output: Path) -> dict[str, dict[str, bytes]]:
    """The same out of the tars."""
    samples = [sample for tar in sorted((output / "train").glob("*.tar")) for sample in read_samples(tar)]
    return {sample.pop("__key__").decode(): sample for sample in samples}


def test_items_are_where_the_order_says(output: Path) -> None:
    index, expected = open_split(output), listed_items(output)
    assert index.num_items == len(expected)
    items = np.random.default_rng(0).permutation(len(expected))
    located = index.locate(items)
    columns = (located.shard, located.row, located.anchor, located.episode, located.anchor_number)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == [expected[item] for item in items]
    assert [column.dtype for column in columns] == [np.int32, *[np.int64] * 4]
    for episode in index.episodes:
        assert [expected[item][3] for item in index.items_of(episode)] == [episode] * len(index.items_of(episode))
    assert sum(len(index.items_of(episode)) for episode in index.episodes) == index.num_items


def test_bytes_are_those_of_the_tars(output: Path) -> None:
    assert read_everything(open_split(output), Folder.of(str(output))) == members_of(output)


def test_far_outputs_are_the_same(runs: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(str(runs), "/far", recursive=True)
    index = open_split("memory://far")
    assert read_everything(index, Folder.of("memory://far")) == members_of(runs)
    largest = max(table_of(runs / "train/shards.arrow")["index_bytes"].to_pylist())
    assert index._open_shard.cache_info().maxsize == MAX_FETCHED_BYTES // largest
    memory.rm("/far/train/shard-00000.index.arrow")
    with pytest.raises(FormatError, match=r"shard-00000\.index\.arrow is missing"):
        read_everything(open_split("memory://far"), Folder.of("memory://far"))


def test_episodes_select(output: Path) -> None:
    everything = listed_items(output)
    there = open_split(output).episodes
    for chosen in ([there[-1]], [there[1], there[0], there[1]], there):
        index = open_split(output, episodes=chosen)
        expected = [item for item in everything if item[3] in chosen]
        located = index.locate(np.arange(index.num_items))
        assert index.episodes == sorted(set(chosen))
        assert list(zip(located.shard, located.row, located.episode, located.anchor_number, strict=True)) == [
            (shard, row, episode, anchor) for shard, row, _, episode, anchor in expected
        ]
        assert [len(index.items_of(episode)) for episode in there] == [
            sum(item[3] == episode for item in expected) for episode in there
        ]


@pytest.mark.parametrize(("episodes", "got"), [([3, 99, -1], r"got \[99, -1\]"), ([], "got none")])
def test_episodes_that_are_not_there_are_refused(materialized: Materialized, episodes: list[int], got: str) -> None:
    with pytest.raises(UsageError, match=rf"split train has, which are 0 to 6; {got}"):
        open_split(materialized("zoo_v30", "far", 4), episodes=episodes)
    with pytest.raises(UsageError, match="Expected numbers of episodes"):
        open_split(materialized("zoo_v30", "far", 4), episodes=[1.5])


def test_items_that_are_not_there_are_refused(output: Path) -> None:
    index = open_split(output)
    for items in ([-1], [0, index.num_items]):
        with pytest.raises(IndexError, match="Expected items from 0 to"):
            index.locate(np.array(items))
    assert len(index.locate(np.array([], np.int64)).shard) == 0


def _read_and_exit(index: SplitIndex, folder: Folder, expected: Mapping[str, Mapping[str, bytes]]) -> None:
    os._exit(0 if read_everything(index, folder) == expected else 1)


def test_threads_and_forked_processes_share_it(runs: Path) -> None:
    index, folder, expected = open_split(runs), Folder.of(str(runs)), members_of(runs)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: read_everything(index, folder) == expected, range(16))) == [True] * 16
    arguments = (index, folder, expected)
    child = multiprocessing.get_context("fork").Process(target=_read_and_exit, args=arguments)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_pickled_it_opens_again(runs: Path) -> None:
    index = open_split(runs, episodes=[2, 3])
    copy = pickle.loads(pickle.dumps(index))  # noqa: S301 - its own
    assert read_everything(copy, Folder.of(str(runs))) == read_everything(index, Folder.of(str(runs)))
    dumped = pickle.dumps(index)
    (runs / "train/order.arrow").write_bytes(bytes_of(table_of(runs / "train/order.arrow").slice(1)))
    with pytest.raises(FormatError, match=r"order\.arrow: expected \d+ bytes"):
        pickle.loads(dumped)  # noqa: S301 - its own


FILES = ["order.arrow", "shards.arrow", "shard-00001.index.arrow"]


def read_all_of(output: Path, *, verify: bool = True) -> dict[str, dict[str, bytes]]:
    folder = Folder.of(str(output))
    manifest = read_manifest(folder)
    for name in manifest["files"]:
        assert not verify or bytes(map_described(folder, manifest, name)) == (output / name).read_bytes()
    return read_everything(SplitIndex(folder, manifest, "train", verify=verify), folder)


def test_every_flipped_bit_is_found(runs: Path) -> None:
    described = read_manifest(Folder.of(str(runs)))["files"]
    certain = {*described, "train/shard-00001.index.arrow"}
    assert any(name.startswith("meta/") for name in certain)
    expected, generator = members_of(runs), np.random.default_rng(1)
    for name in (*sorted(certain), "manifest.json", "train/shard-00001.tar"):
        content = (runs / name).read_bytes()
        for _ in range(8):
            place, bit = int(generator.integers(len(content))), int(generator.integers(8))
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            with replaced(runs / name, bytes(flipped)):
                try:
                    found = read_all_of(runs)
                except FormatError as error:
                    assert Path(name).name in str(error)  # noqa: PT017 - both outcomes are tested
                else:
                    assert name not in certain, f"bit {bit} of byte {place} of {name}"
                    assert found == expected  # padding of the tar, or blanks of the manifest


def test_damage_is_said_where_it_is(runs: Path) -> None:
    index, folder = open_split(runs), Folder.of(str(runs))
    shard = index.shard_index(0)
    member = next(iter(shard.frames))
    tar, start, stop = shard.frame_ranges(1, member, [2])[0]
    content = bytearray((runs / tar).read_bytes())
    content[stop - 1] ^= 4
    message = rf"{tar}, sample {shard.keys[1]}, {member}%s: bytes {start} to {stop} of the shard are damaged"
    with replaced(runs / tar, bytes(content)):
        (part,) = open_ranges(folder).read_ranges([(tar, start, stop)])
        with pytest.raises(FormatError, match=message % ", frame 2"):
            shard.check_frame(part, 1, member, 2)
        with pytest.raises(FormatError, match=rf"{tar}, sample .* are damaged"):
            read_everything(index, folder)


@pytest.mark.parametrize("name", [*FILES, "shard-00001.tar"])
def test_truncated_missing_and_swapped_files_are_found(runs: Path, name: str) -> None:
    path = runs / "train" / name
    content = path.read_bytes()
    for size_bytes in (0, 100, len(content) // 1024 * 512, len(content) - 512, len(content) - 1, len(content) + 512):
        with replaced(path, content[:size_bytes].ljust(size_bytes)), pytest.raises(FormatError, match=name):
            read_all_of(runs)
    path.unlink()
    with pytest.raises(FormatError, match=rf"{name} is missing"):
        read_all_of(runs)
    shutil.copy(runs / "train/shard-00002.tar", path)
    with pytest.raises(FormatError, match=name):
        read_all_of(runs)


def test_an_open_split_outlives_a_rerun(runs: Path) -> None:
    index, expected = open_split(runs), members_of(runs)
    assert read_everything(index, Folder.of(str(runs))) == expected
    for path in sorted(runs.rglob("*")):
        if path.is_file():
            shutil.copy(path, runs / "aside")
            (runs / "aside").replace(path)
    assert read_everything(index, Folder.of(str(runs))) == expected


def test_indices_of_other_shards_are_refused_even_unverified(runs: Path) -> None:
    folder = Folder.of(str(runs))
    one, other = (runs / f"train/shard-0000{number}.index.arrow" for number in (0, 1))
    content = other.read_bytes().ljust(one.stat().st_size)[: one.stat().st_size]
    with replaced(one, content), pytest.raises(FormatError, match="shard-00000"):
        read_everything(open_split(runs, verify=False), folder)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(FILES),
    place=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=40),
    verify=st.booleans(),
)
def test_random_bytes_are_errors_or_change_nothing(
    runs: Path, name: str, place: float, junk: bytes, *, verify: bool
) -> None:
    path, expected = runs / "train" / name, members_of(runs)
    content = path.read_bytes()
    start = int(place * len(content))
    changed = (content[:start] + junk + content[start + len(junk) :])[: len(content)]
    with replaced(path, changed):
        try:
            found = read_all_of(runs, verify=verify)
        except FormatError:
            return
        assert found == expected
        assert not verify or changed == content


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), content=st.binary(max_size=2000), verify=st.booleans())
def test_files_of_random_bytes_are_errors(runs: Path, name: str, content: bytes, *, verify: bool) -> None:
    path = runs / "train" / name
    size_bytes = path.stat().st_size
    repeated = (content * (size_bytes // max(1, len(content)) + 1))[:size_bytes]
    with replaced(path, repeated), pytest.raises(FormatError, match=name):
        read_all_of(runs, verify=verify)


def set_value(name: str, row: int, value: Any) -> Edit:
    def edit(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value(values[row]) if callable(value) else value
        place = table.schema.get_field_index(name)
        return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))

    return edit


def set_type(name: str, dtype: pa.DataType) -> Edit:
    return lambda table: table.set_column(table.schema.get_field_index(name), name, table[name].cast(dtype))


CAMERA = "observation.img.frames"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_value("json/offset", 0, 1 << 62), "members json within the"),
        (set_value("json/offset", 0, -1), "members json within the"),
        (set_value("json/size", 1, -1), "members json within the"),
        (set_value("json/size", 1, (1 << 63) - 1), "members json within the"),
        (set_value("key", 0, "000000-000001"), "keys made of"),
        (set_value("key", 0, "../../etc/passwd"), "keys made of"),
        (set_value("episode_index", 0, -5), "numbers from 0"),
        (set_value("frame_index", 0, 1 << 60), "numbers from 0"),
        (set_value("anchors", 0, 99), "the episodes, frames and anchors of the order"),
        (set_value("anchors", 0, None), "no missing values"),
        (set_value(f"{CAMERA}/frame_offset", 0, lambda old: [*old[:-1], old[-1] + 1]), "frames that fill"),
        (set_value(f"{CAMERA}/frame_offset", 0, lambda old: [1, *old[1:]]), "frames that fill"),
        (set_value(f"{CAMERA}/frame_offset", 0, lambda old: [0, old[2], old[1], *old[3:]]), "frames that fill"),
        (set_value(f"{CAMERA}/frame_offset", 0, lambda old: old[1:]), "one offset more"),
        (set_value(f"{CAMERA}/frame", 0, lambda old: old[::-1]), "in order"),
        (set_value(f"{CAMERA}/frame", 0, lambda old: [-1, *old[1:]]), "in order"),
        (set_value(f"{CAMERA}/frame", 0, lambda old: [None, *old[1:]]), "no missing values"),
        (set_value(f"{CAMERA}/frame_xxh3", 0, lambda old: old[1:]), "as many checksums"),
        (set_value(f"{CAMERA}/frame", 0, []), "as many checksums"),
        (set_type("json/offset", pa.float64()), r"expected the columns json/offset: int64; got json/offset: double"),
        (set_type("key", pa.large_string()), "key: string"),
        (lambda table: table.drop_columns(["json/size"]), "json/size: None"),
        (lambda table: table.append_column("json/size", table["json/size"]), "json/size: None"),
        (lambda table: table.slice(1), "samples, as in the table"),
        (lambda table: pa.concat_tables([table] * 3), "samples, as in the table"),
    ],
)
def test_made_up_indices_are_refused(runs: Path, edit: Edit, message: str) -> None:
    with pytest.raises(FormatError, match=message) as raised:
        parse_index(runs, bytes_of(edit(table_of(runs / "train/shard-00000.index.arrow"))))
    assert "shard-00000.index.arrow" in str(raised.value)


@pytest.mark.parametrize("column", ["frame", "frame_offset", "frame_xxh3"])
@pytest.mark.parametrize(
    ("row", "value"), [(0, 1), (0, -1), (1, 0), (1, -7), (1, 1000), (2, 1 << 30), (-1, 1 << 30), (-1, 0), (-2, 1)]
)
def test_list_offsets_are_not_believed(runs: Path, column: str, row: int, value: int) -> None:
    content = (runs / "train/shard-00000.index.arrow").read_bytes()
    lists = pa.ipc.open_file(content).read_all()[f"{CAMERA}/{column}"].chunk(0)
    start = lists.buffers()[1].address - pa.py_buffer(content).address
    offsets = np.frombuffer(content, np.int32, len(lists) + 1, start).copy()
    offsets[row] = value
    changed = content[:start] + offsets.tobytes() + content[start + offsets.nbytes :]
    with pytest.raises(FormatError, match=r"shard-00000\.index\.arrow"):
        parse_index(runs, changed)


def parse_index(output: Path, content: bytes) -> None:
    """Opens the index of the first shard as if it held this."""
    index = open_split(output)
    shard = table_of(output / "train/shards.arrow").to_pylist()[0]
    ShardIndex.parse(
        pa.py_buffer(content),
        index.item_format,
        folder=Folder.of(str(output)),
        split="train",
        number=0,
        tar_bytes=shard["tar_bytes"],
        num_samples=shard["samples"],
    ).check_rows(index._segments.rows_of_shard(0, shard["samples"]), 1)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("order", set_value("anchors", 0, 0), "at least one anchor"),
        ("order", set_value("anchors", 0, 1 << 62), "numbers from 0"),
        ("order", set_value("first_anchor", 0, -1), "numbers from 0"),
        ("order", set_value("first_anchor", 1, lambda old: old + 1), "numbers from 0|overlap|fill|order"),
        ("order", set_value("shard", 0, 1000), "shards below"),
        ("order", set_value("shard", 0, -1), "shards below"),
        ("order", set_value("samples", 0, 1000), "anchors a sample"),
        ("order", set_value("first_sample", 0, 1000), "in their shard"),
        ("order", set_value("first_sample", 0, lambda old: 1 - min(old, 1)), "in their shard|fill the"),
        ("order", set_value("episode_index", 0, 1000), "don't overlap"),
        ("order", lambda table: table.take(list(range(len(table)))[::-1]), "don't overlap"),
        ("order", lambda table: table.slice(1), "anchors, as in the manifest"),
        ("order", lambda table: table.slice(0, 0), "anchors, as in the manifest"),
        ("order", set_type("shard", pa.int64()), "shard: int32; got shard: int64"),
        ("shards", set_value("samples", 0, 1 << 41), "counts from 0"),
        ("shards", set_value("samples", 0, lambda old: old + 1), "as many anchors and samples"),
        ("shards", set_value("tar_bytes", 0, lambda old: old + 512), r"shard-00000\.tar: expected \d+ bytes"),
        ("shards", set_value("index_bytes", 0, 1), r"index\.arrow: expected 1 bytes"),
        ("shards", set_value("index_sha256", 0, "0"), "checksum does not fit"),
        ("shards", lambda table: table.slice(1), "shards, as in the manifest"),
    ],
)
def test_made_up_tables_are_refused(runs: Path, name: str, edit: Edit, message: str) -> None:
    folder, path = Folder.of(str(runs)), f"train/{name}.arrow"
    manifest = read_manifest(folder)
    content = bytes_of(edit(table_of(runs / path)))
    folder.publish(path, content)
    manifest["files"][path] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(FormatError, match=message):
        read_everything(SplitIndex(folder, manifest, "train"), folder)


@pytest.mark.parametrize(
    "edit",
    [
        {"splits": {}},
        {"splits": {"train": {}}},
        {"splits": {"train": []}},
        {"splits": {"train": {"anchors": "1", "episodes": 1, "samples": 1, "shards": 1}}},
        {"splits": {"train": {"anchors": 58, "episodes": 6, "samples": 18, "shards": 3}}},
        {"files": {}},
        {"files": {"train/shards.arrow": {"size_bytes": -1, "sha256": ""}}},
        {"files": {"train/shards.arrow": {"size_bytes": 1e9, "sha256": ""}}},
        {"anchors_per_sample": 0},
        {"anchors_per_sample": 3},
        {"anchor_stride": 0},
        {"anchor_stride": 2},
        {"has_runs": False},
    ],
)
def test_made_up_manifests_are_refused(runs: Path, edit: Mapping[str, Any]) -> None:
    folder = Folder.of(str(runs))
    manifest = json.loads((runs / "manifest.json").read_text()) | edit
    with pytest.raises(FormatError):
        read_everything(SplitIndex(folder, manifest, "train"), folder)


def test_nothing_is_copied(runs: Path) -> None:
    index = open_split(runs)
    shard = index.shard_index(0)
    columns = [index._segments.anchors, *(places.xxh3 for places in shard.members.values())]
    columns += [part for frames in shard.frames.values() for part in (frames.number, frames.offset, frames.xxh3)]
    assert not any(column.flags.owndata or column.flags.writeable for column in columns)
    mapped = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in mapped if str(runs) in line]
    for column in columns:
        assert any(int(first, 16) <= column.ctypes.data < int(stop, 16) for first, stop in ranges)


def test_empty_files_have_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert map_file(Folder.of(str(tmp_path)), "empty", size_bytes=0, sha256=None).size == 0
