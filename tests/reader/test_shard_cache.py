"""Copies of shards on the local disk: the right bytes always, each copied once, within the limit."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader
from predecode.reader.cached_ranges import CachedRanges
from predecode.reader.ranges import Range
from predecode.reader.shard_cache import CachedShard, Refused, ShardCache, UnfinishedCopy
from predecode.transforms.errors import FormatError, StorageError, UsageError
from tests.reader.conftest import Materialized

SIZE = 300_000
CONTENTS = {f"train/shard-{number:05d}.tar": np.random.default_rng(number).bytes(SIZE) for number in range(6)}
NAMES = list(CONTENTS)


def shard_of(name: str, *, version: str = "1") -> CachedShard:
    return CachedShard.of("memory://cached", name, size_bytes=SIZE, index_sha256=version)


class CountingFar:
    """A store whose answers are counted, and may be changed or held up."""

    def __init__(self) -> None:
        self.read_bytes = dict.fromkeys(CONTENTS, 0)
        self.gate = threading.Event()
        self.gate.set()
        self.contents = dict(CONTENTS)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes | memoryview]:
        is_copying = any(stop - start > 100_000 for _, start, stop in ranges)
        if is_copying:
            self.gate.wait(30)
        for name, start, stop in ranges:
            self.read_bytes[name] += stop - start
        return [self.contents[name][start:stop] for name, start, stop in ranges]

    def expect(self, names: Sequence[str]) -> None:
        pass

    def distrust(self, names: Sequence[str]) -> bool:  # noqa: ARG002 - As `RangeReader` has it.
        return False

    def close(self) -> None:
        pass


@pytest.fixture
def far() -> CountingFar:
    return CountingFar()


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache.of(tmp_path / "cache", 10 * SIZE)


def read_all(reader: CachedRanges, names: Sequence[str] = NAMES) -> None:
    """Reads a little of each, twice, and checks it."""
    ranges = [(name, start, start + 1_000) for name in names for start in (7, 200_000)]
    assert [bytes(part) for part in reader.read_ranges(ranges)] == [CONTENTS[name][a:b] for name, a, b in ranges]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def copies(cache: ShardCache) -> set[str]:
    return {path.stem for path in Path(cache.folder).glob("*.tar")}


def fill(cache: ShardCache, name: str, **options: Any) -> None:
    begun = cache.begin(shard_of(name), **options)
    assert isinstance(begun, UnfinishedCopy)
    begun.write(CONTENTS[name], 0)
    begun.publish()


def test_what_was_read_once_is_read_from_the_disk(far: CountingFar, cache: ShardCache) -> None:
    reader = CachedRanges(far, cache, shard_of)
    read_all(reader)
    until(lambda: len(copies(cache)) == len(NAMES))
    before = dict(far.read_bytes)
    read_all(reader)
    assert reader.read_ranges([("train/shard-00000.tar", 5, 5)]) == [b""]
    assert far.read_bytes == before
    assert {path.read_bytes() for path in Path(cache.folder).glob("*.tar")} == set(CONTENTS.values())


def test_a_new_process_finds_the_copies(far: CountingFar, cache: ShardCache) -> None:
    fill(cache, NAMES[0])
    read_all(CachedRanges(far, cache, shard_of), NAMES[:1])
    assert not any(far.read_bytes.values())


def test_nobody_waits_for_a_copy(far: CountingFar, cache: ShardCache) -> None:
    far.gate.clear()
    reader = CachedRanges(far, cache, shard_of)
    read_all(reader)
    assert not copies(cache)
    far.gate.set()
    until(lambda: len(copies(cache)) == len(NAMES))


def test_another_version_is_another_copy(far: CountingFar, cache: ShardCache) -> None:
    fill(cache, NAMES[0])
    new = CONTENTS[NAMES[1]]
    far.contents[NAMES[0]] = new
    reader = CachedRanges(far, cache, lambda name: shard_of(name, version="2"))
    assert reader.read_ranges([(NAMES[0], 10, 20)]) == [new[10:20]]
    keys = {
        CachedShard.of(url, name, size_bytes=size, index_sha256=sha).key
        for url in ("s3://a/x", "s3://b/x")
        for name in NAMES[:2]
        for size in (1, 2)
        for sha in ("1", "2")
    }
    assert len(keys) == 16


def test_one_copies_while_the_others_read_from_the_store(cache: ShardCache) -> None:
    begun = cache.begin(shard_of(NAMES[0]))
    assert isinstance(begun, UnfinishedCopy)
    assert cache.begin(shard_of(NAMES[0])) is Refused.BUSY
    other = cache.begin(shard_of(NAMES[1]))
    assert isinstance(other, UnfinishedCopy)
    other.abandon()
    begun.publish()
    assert cache.begin(shard_of(NAMES[0])) is Refused.BUSY
    assert [path.name for path in Path(cache.folder).glob("*.part")] == []


def test_many_threads_copy_each_shard_once(far: CountingFar, cache: ShardCache) -> None:
    readers = [CachedRanges(far, cache, shard_of) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_all, readers))
    until(lambda: len(copies(cache)) == len(NAMES))
    # What each read in small parts, and each shard once as a whole.
    assert all(SIZE <= count <= SIZE + 8 * 2_000 for count in far.read_bytes.values())


def test_the_limit_holds_and_what_was_not_read_longest_goes(tmp_path: Path) -> None:
    cache = ShardCache.of(tmp_path, 3 * SIZE + 10)
    for age, name in enumerate(NAMES[:3]):
        fill(cache, name)
        past = time.time() - 1_000 + age
        os.utime(tmp_path / f"{shard_of(name).key}.tar", (past, past))
    descriptor = cache.open(shard_of(NAMES[0]))  # It has become the youngest.
    assert descriptor is not None
    fill(cache, NAMES[3])
    assert copies(cache) == {shard_of(name).key for name in (NAMES[0], NAMES[2], NAMES[3])}
    fill(cache, NAMES[4], idle_seconds=0, keep=[shard_of(name).key for name in (NAMES[0], NAMES[3])])
    assert copies(cache) == {shard_of(name).key for name in (NAMES[0], NAMES[3], NAMES[4])}
    fill(cache, NAMES[5], idle_seconds=0, keep=[shard_of(name).key for name in (NAMES[3], NAMES[4])])
    assert shard_of(NAMES[0]).key not in copies(cache)
    assert os.pread(descriptor, SIZE, 0) == CONTENTS[NAMES[0]], "who has it open keeps it"
    os.close(descriptor)


def test_what_is_in_use_does_not_give_way(tmp_path: Path, far: CountingFar) -> None:
    """In a true shuffle over more than the cache holds: no shard is loaded twice."""
    cache = ShardCache.of(tmp_path, 2 * SIZE)
    reader = CachedRanges(far, cache, shard_of)
    for _ in range(20):
        read_all(reader)
        time.sleep(0.01)
    assert len(copies(cache)) == 2
    assert sum(count >= SIZE for count in far.read_bytes.values()) == 2
    assert cache.begin(shard_of(NAMES[5])) is Refused.FULL
    assert cache.begin(replace(shard_of(NAMES[5]), size_bytes=3 * SIZE), idle_seconds=0) is Refused.FULL
    assert len(copies(cache)) == 2, "for what cannot fit nothing goes"


def test_unfinished_copies_count(tmp_path: Path) -> None:
    cache = ShardCache.of(tmp_path, 2 * SIZE)
    begun = [cache.begin(shard_of(name)) for name in NAMES[:3]]
    assert begun[2] is Refused.FULL
    for one in begun[:2]:
        assert isinstance(one, UnfinishedCopy)
        one.abandon()
    again = cache.begin(shard_of(NAMES[2]))
    assert isinstance(again, UnfinishedCopy)
    again.abandon()


def test_what_comes_next_is_copied_and_the_rest_gives_way(tmp_path: Path, far: CountingFar) -> None:
    cache = ShardCache.of(tmp_path, 3 * SIZE)
    reader = CachedRanges(far, cache, shard_of)
    for expected in (NAMES[:3], NAMES[3:6], NAMES[:2] + NAMES[4:6]):
        reader.expect(expected)
        keys = {shard_of(name).key for name in expected[:3]}
        until(lambda keys=keys: copies(cache) == keys)  # type: ignore[misc]
    read_all(reader)
    time.sleep(0.05)
    assert copies(cache) == keys


def test_a_damaged_copy_goes_and_the_store_is_asked(far: CountingFar, cache: ShardCache) -> None:
    fill(cache, NAMES[0])
    reader = CachedRanges(far, cache, shard_of)
    assert not reader.distrust(NAMES), "nothing came from a copy"
    read_all(reader, NAMES[:1])
    assert reader.distrust(NAMES[:1])
    assert not copies(cache)
    read_all(reader, NAMES[:1])
    assert far.read_bytes[NAMES[0]] == 2_000
    assert not copies(cache), "what was damaged once is not copied again by this process"


def test_whatever_lies_in_the_place_of_a_copy(far: CountingFar, cache: ShardCache, tmp_path: Path) -> None:
    paths = [Path(cache.folder) / f"{shard_of(name).key}.tar" for name in NAMES]
    paths[0].write_bytes(CONTENTS[NAMES[0]][:-1])
    paths[1].write_bytes(b"")
    os.mkfifo(paths[2])
    paths[3].mkdir()
    (tmp_path / "secret").write_bytes(bytes(SIZE))
    paths[4].symlink_to(tmp_path / "secret")
    (Path(cache.folder) / "notes.tar").write_bytes(bytes(100 * SIZE))
    reader = CachedRanges(far, cache, shard_of)
    for _ in range(2):
        read_all(reader)
    assert (tmp_path / "secret").read_bytes() == bytes(SIZE)


def test_a_copy_that_shrinks_while_it_is_read(
    far: CountingFar, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, NAMES[0])
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, size, start) if start < 100_000 else b"")
    read_all(CachedRanges(far, cache, shard_of), NAMES[:1])
    assert far.read_bytes[NAMES[0]] == 2_000


def test_a_disk_that_fails_is_not_asked_again(
    far: CountingFar, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, NAMES[0])

    asked: list[object] = []

    def fail(*arguments: object) -> bytes:
        asked.append(arguments)
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "pread", fail)
    reader = CachedRanges(far, cache, shard_of)
    read_all(reader, NAMES[:1])
    assert len(asked) == 1
    read_all(reader, NAMES[:1])
    assert len(asked) == 1


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fdatasync", "rename"])
def test_a_full_disk_is_one_warning(
    call: str, far: CountingFar, cache: ShardCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    reader = CachedRanges(far, cache, shard_of)
    with caplog.at_level(logging.WARNING, "predecode.reader"):
        read_all(reader)
        until(lambda: "No space left on device" in caplog.text)
        read_all(reader)
        time.sleep(0.05)
    assert caplog.text.count("Cannot copy shards to") == 1
    assert [path.name for path in Path(cache.folder).iterdir()] == ["lock"]


def test_a_store_that_fails_is_the_readers_business(cache: ShardCache, monkeypatch: pytest.MonkeyPatch) -> None:
    far = CountingFar()
    reader = CachedRanges(far, cache, shard_of)

    def fail(*_: object) -> list[bytes | memoryview]:
        raise StorageError("Cannot read")

    monkeypatch.setattr(far, "read_ranges", fail)
    with pytest.raises(StorageError):
        read_all(reader)
    until(lambda: not list(Path(cache.folder).glob("*.part")))
    assert not copies(cache)


KILLED = """
import os, signal, sys
from predecode.reader.shard_cache import CachedShard, ShardCache
cache = ShardCache.of(sys.argv[1], int(sys.argv[2]))
copy = cache.begin(CachedShard("train/x.tar", 300_000, sys.argv[3]))
copy.write(bytes(100_000), 0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    cache = ShardCache.of(tmp_path, SIZE)
    for name in NAMES[:2]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(SIZE), shard_of(name).key]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob("*.part"))) == 1, "the one before was removed, to make room"
    fill(cache, NAMES[1])  # The one that was left unfinished.
    assert copies(cache) == {shard_of(NAMES[1]).key}
    descriptor = cache.open(shard_of(NAMES[1]))
    assert descriptor is not None
    assert os.pread(descriptor, SIZE, 0) == CONTENTS[NAMES[1]]
    os.close(descriptor)
    assert not list(tmp_path.glob("*.part"))


def test_an_ended_reader_copies_no_more(far: CountingFar, cache: ShardCache) -> None:
    far.gate.clear()
    reader = CachedRanges(far, cache, shard_of)
    read_all(reader)
    del reader
    far.gate.set()
    until(lambda: not any(thread.name == "shard copies" for thread in threading.enumerate()))
    assert not copies(cache)


@pytest.mark.parametrize(
    ("folder", "limit", "message"),
    [
        ("cache", "much", "size such as"),
        ("cache", 0, "size such as"),
        ("s3://x", 1, "folder of the local disk"),
        ("/proc/none", 1, "Cannot keep copies of shards in /proc/none"),
    ],
)
def test_nonsense_is_refused(folder: str, limit: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        ShardCache.of(folder if "/" in folder else tmp_path / folder, limit)


@pytest.fixture(scope="module")
def output(materialized: Materialized) -> Path:
    return materialized("zoo_v30", "contiguous", None)


@pytest.fixture
def stored(output: Path) -> Iterator[str]:
    """The output in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in output.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/windows/{path.relative_to(output)}", path.read_bytes())
    yield "memory://windows"
    memory.store.clear()


def indices(dataset: WindowDataset, **options: Any) -> list[int]:
    loader = WindowLoader(dataset, 7, seed=2, **options)
    return [index for _ in range(2) for batch in loader for index in batch["index"].tolist()]


@pytest.mark.parametrize("shuffle", [True, "windowed"])
def test_datasets_read_through_it(shuffle: Any, output: Path, stored: str, tmp_path: Path) -> None:
    far = WindowDataset(stored, cache_dir=tmp_path, cache_bytes="1GB")
    expected = indices(WindowDataset(output), shuffle=shuffle, window_shards=3)
    assert indices(far, shuffle=shuffle, window_shards=3) == expected
    touched = {name for name in fsspec.filesystem("memory").store if name.endswith(".tar")}
    until(lambda: len(list(tmp_path.glob("*.tar"))) == len(touched))
    assert indices(far, shuffle=shuffle, window_shards=3) == expected
    stream = StreamingWindowDataset("windows", stored, cache_dir=tmp_path, seed=1)
    assert sorted(int(item["index"]) for item in stream) == sorted(set(expected))
    assert all(stat.S_ISREG(path.stat().st_mode) for path in tmp_path.iterdir())


def damage(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))


def test_damaged_copies_are_never_given(output: Path, stored: str, tmp_path: Path) -> None:
    expected = indices(WindowDataset(output))
    far = WindowDataset(stored, cache_dir=tmp_path)
    indices(far)
    until(lambda: len(list(tmp_path.glob("*.tar"))) == far.num_shards)
    damage(tmp_path)
    again = WindowDataset(stored, cache_dir=tmp_path)
    assert indices(again) == expected
    assert not list(tmp_path.glob("*.tar"))


def test_what_is_damaged_in_the_store_is_an_error(stored: str, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in [name for name in memory.store if name.endswith(".tar")]:
        memory.pipe_file(name, bytes(memory.size(name)))
    with pytest.raises(FormatError, match="checksum does not fit"):
        indices(WindowDataset(stored, cache_dir=tmp_path))


def _read(dataset: WindowDataset, expected: list[int]) -> None:
    os._exit(0 if indices(dataset) == expected else 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # That is the point.
def test_forked_processes_share_it(output: Path, stored: str, tmp_path: Path) -> None:
    expected = indices(WindowDataset(output))
    far = WindowDataset(stored, cache_dir=tmp_path)
    assert int(far[0]["index"]) == 0
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_read, args=(far, expected)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert indices(far) == expected
