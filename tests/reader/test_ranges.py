"""Reading bytes by range: the same from a local disk, from memory and over HTTP, by many threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Literal

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.reader import ranges as ranges_module
from predecode.reader.ranges import MAX_SPAN_BYTES, FarRanges, NearRanges, Range, join_ranges, open_ranges
from predecode.transforms import patience
from predecode.transforms.errors import FormatError
from predecode.transforms.storage import Folder

CONTENT = np.random.default_rng(0).bytes(300_000)
FILES = {"train/a.tar": CONTENT, "train/b.tar": CONTENT[::-1], "train/empty.tar": b""}

Place = Callable[[], Folder]


class _RangeHandler(BaseHTTPRequestHandler):
    """Serves a folder; answers requests for ranges as object stores do."""

    protocol_version = "HTTP/1.1"
    ignores_ranges = False
    is_broken = False

    def __init__(self, root: Path, *args: object) -> None:
        self._root = root
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_content: bool) -> None:
        path = self._root / self.path.lstrip("/")
        if not path.is_file() or self.is_broken:
            self._send(500 if self.is_broken else 404, b"", with_content=with_content)
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or self.ignores_ranges:
            self._send(200, content, with_content=with_content)
        elif int(asked[1]) >= len(content):
            self._send(416, b"", with_content=with_content)
        else:
            part = content[int(asked[1]) : int(asked[2] or len(content)) + 1]
            self._send(206, part, with_content=with_content)

    def _send(self, status: int, content: bytes, *, with_content: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if with_content:
            self.wfile.write(content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


@pytest.fixture
def http(root: Path) -> Iterator[tuple[Folder, type[_RangeHandler]]]:
    handler = type("Handler", (_RangeHandler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, root)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Folder.of(f"http://127.0.0.1:{server.server_port}"), handler
        server.shutdown()
        thread.join()


@pytest.fixture(params=["local", "memory", "http"])
def folder(request: pytest.FixtureRequest, root: Path) -> Folder:
    if request.param == "local":
        return Folder.of(str(root))
    if request.param == "http":
        http: tuple[Folder, type[_RangeHandler]] = request.getfixturevalue("http")
        return http[0]
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name, content in FILES.items():
        memory.pipe_file(f"/ranges/{name}", content)
    return Folder.of("memory://ranges")


def random_ranges(seed: int, count: int) -> list[Range]:
    generator = np.random.default_rng(seed)
    found = []
    for start in generator.integers(len(CONTENT), size=count).tolist():
        length = int(generator.choice([0, 1, 100, 5_000, 70_000]))
        name = f"train/{generator.choice(['a', 'b'])}.tar"
        found.append((name, start, min(start + length, len(CONTENT))))
    return found


def expected_of(ranges: Sequence[Range]) -> list[bytes]:
    return [FILES[name][start:stop] for name, start, stop in ranges]


def test_ranges_come_in_the_order_given(folder: Folder) -> None:
    reader = open_ranges(folder)
    for seed in range(5):
        ranges = random_ranges(seed, 30)
        assert [bytes(part) for part in reader.read_ranges(ranges)] == expected_of(ranges)
    assert reader.read_ranges([]) == []
    assert reader.read_ranges([("train/missing.tar", 7, 7)]) == [b""]
    reader.close()
    assert reader.read_ranges([("train/a.tar", 0, 10)]) == [CONTENT[:10]]


def test_results_cannot_be_written_to(folder: Folder) -> None:
    parts = open_ranges(folder).read_ranges([("train/a.tar", 0, 10), ("train/a.tar", 20, 30)])
    assert all(memoryview(part).readonly for part in parts)


@pytest.mark.parametrize("start", [len(CONTENT) - 5, len(CONTENT), len(CONTENT) + 100])
def test_a_truncated_file_is_said_to_be(folder: Folder, start: int) -> None:
    with pytest.raises(FormatError, match=r"a\.tar is truncated: expected at least 3\d+ bytes, got at most 300"):
        open_ranges(folder).read_ranges([("train/a.tar", 0, 10), ("train/a.tar", start, start + 10)])
    with pytest.raises(FormatError, match=r"train/empty\.tar is truncated"):
        open_ranges(folder).read_ranges([("train/empty.tar", 0, 1)])


@pytest.mark.parametrize("name", ["train/missing.tar", "train/a.tar/inside.tar", "missing/a.tar"])
def test_a_missing_file_is_said_to_be(folder: Folder, name: str) -> None:
    with pytest.raises(FormatError, match=rf"{name} is missing"):
        open_ranges(folder).read_ranges([("train/a.tar", 0, 10), (name, 0, 10)])


def test_many_threads_at_once(folder: Folder) -> None:
    reader = open_ranges(folder)
    asked = [random_ranges(seed, 5) for seed in range(60)]
    with ThreadPoolExecutor(16) as pool:
        for ranges, parts in zip(asked, pool.map(reader.read_ranges, asked), strict=True):
            assert [bytes(part) for part in parts] == expected_of(ranges)


def test_files_are_few_even_with_many_threads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges_module, "MAX_OPEN_FILES", 2)
    for number in range(12):
        (root / f"{number}.tar").write_bytes(bytes([number]) * 100)
    before = len(os.listdir("/proc/self/fd"))
    reader = open_ranges(Folder.of(str(root)))
    asked = [[(f"{number % 12}.tar", 10, 20)] for number in range(600)]
    with ThreadPoolExecutor(8) as pool:
        for (part,), number in zip(pool.map(reader.read_ranges, asked), range(600), strict=True):
            assert part == bytes([number % 12]) * 10
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def _read_and_exit(reader: NearRanges | FarRanges, seed: int) -> None:
    ranges = random_ranges(seed, 20)
    os._exit(0 if [bytes(part) for part in reader.read_ranges(ranges)] == expected_of(ranges) else 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # That is the point.
def test_forked_processes_read_too(folder: Folder) -> None:
    read_in_processes(folder, "fork", 2)


def test_spawned_processes_read_too(root: Path, http: tuple[Folder, type[_RangeHandler]]) -> None:
    for folder in (Folder.of(str(root)), http[0]):
        read_in_processes(folder, "spawn", 1)


def read_in_processes(folder: Folder, method: Literal["fork", "spawn"], count: int) -> None:
    reader = open_ranges(folder)
    assert reader.read_ranges([("train/a.tar", 0, 10), ("train/b.tar", 0, 10)])
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_read_and_exit, args=(reader, seed)) for seed in range(count)]  # type: ignore[attr-defined]
    for child in children:
        child.start()
    ranges = random_ranges(9, 20)
    assert [bytes(part) for part in reader.read_ranges(ranges)] == expected_of(ranges)
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def test_a_replaced_file_is_read_as_it_was(root: Path) -> None:
    reader = open_ranges(Folder.of(str(root)))
    assert reader.read_ranges([("train/a.tar", 0, 10)]) == [CONTENT[:10]]
    (root / "new").write_bytes(bytes(100))
    os.replace(root / "new", root / "train/a.tar")
    assert reader.read_ranges([("train/a.tar", 200_000, 200_010)]) == [CONTENT[200_000:200_010]]


def test_short_reads_are_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, min(size, 1000), start))
    ranges = random_ranges(3, 10)
    assert [bytes(part) for part in open_ranges(Folder.of(str(root))).read_ranges(ranges)] == expected_of(ranges)


def test_a_file_that_shrinks_while_it_is_read_is_truncated(root: Path) -> None:
    reader = open_ranges(Folder.of(str(root)))
    reader.read_ranges([("train/a.tar", 0, 10)])
    os.truncate(root / "train/a.tar", 5_000)
    with pytest.raises(FormatError, match="got at most 5000"):
        reader.read_ranges([("train/a.tar", 4_000, 6_000)])


def test_storage_faults_are_os_errors(
    http: tuple[Folder, type[_RangeHandler]], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(total_seconds=0.1, first_pause_seconds=0.02))
    folder, handler = http
    reader = open_ranges(folder)
    handler.is_broken = True
    with pytest.raises(OSError, match=r"Cannot read .*train/a\.tar: tried \d times within 0 s, at last: 500"):
        reader.read_ranges([("train/a.tar", 0, 10)])
    handler.is_broken = False
    handler.ignores_ranges = True
    with pytest.raises(OSError, match="does not serve byte ranges"):
        reader.read_ranges([("train/a.tar", 0, 10)])
    with pytest.raises(IsADirectoryError):
        open_ranges(Folder.of(str(root))).read_ranges([("train", 0, 1)])


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 500), st.integers(0, 60)).map(
            lambda part: (part[0], part[1], part[1] + part[2])
        )
    ),
    st.integers(0, 50),
)
def test_joined_ranges_read_little_more(ranges: list[Range], max_gap_bytes: int) -> None:
    spans = join_ranges(ranges, max_gap_bytes=max_gap_bytes)
    assert sorted(number for span in spans for number in span.numbers) == [
        number for number, (_, start, stop) in enumerate(ranges) if start < stop
    ]
    wanted, read = set(), 0
    for span in spans:
        for number in span.numbers:
            path, start, stop = ranges[number]
            assert path == span.path
            assert span.start <= start <= stop <= span.stop
            wanted |= {(path, byte) for byte in range(start, stop)}
        read += span.stop - span.start
    assert read <= len(wanted) + max_gap_bytes * len(ranges)
    for one, other in pairwise(spans):
        assert one.path < other.path or one.stop + max_gap_bytes < other.start


def test_joined_ranges_are_bounded() -> None:
    ranges = [("a", start, start + 100_000) for start in range(0, 50_000_000, 100_000)]
    spans = join_ranges(ranges, max_gap_bytes=0)
    assert max(span.stop - span.start for span in spans) <= MAX_SPAN_BYTES
    assert len(spans) == 7
    (span,) = join_ranges([("a", 0, 10 * MAX_SPAN_BYTES), ("a", 5, 9 * MAX_SPAN_BYTES)], max_gap_bytes=0)
    assert span.numbers == [0, 1]
