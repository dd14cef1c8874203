"""Every call to a storage over a network, through fsspec: with time-outs, retries, and answers that are checked.

Nothing is decided by a listing that somebody cached. What a call moved is compared with what it should have moved: a
connection that ends early can look like the end of a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import fsspec
import fsspec.asyn

from predecode.transforms import patience
from predecode.transforms.errors import StorageError
from predecode.transforms.patience import missing_library, patiently, within

FileRange: TypeAlias = tuple[str, int, int]
"""Path, first byte, byte behind the last; of a folder's files the path is relative to it."""

ReadRange: TypeAlias = Callable[[str, int, int], Awaitable[bytes]]

_REQUESTS_AT_ONCE = 64
"""Of one call for ranges."""

_LOOK_UPS_AT_ONCE = 16

_S3 = ("s3://", "s3a://")

_FLAT = (*_S3, "gs://", "gcs://")
"""What knows no folders: one listing gives all that is below a prefix."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # botocore has ten connections, and readers would wait for one.
    "s3": {"config_kwargs": {"max_pool_connections": _REQUESTS_AT_ONCE}},
}

_ABSENT = (FileNotFoundError, NotADirectoryError)


class EndOfFileError(StorageError):
    """A file ends before the range that was asked for."""

    def __init__(self, message: str, name: str = "", expected_bytes: int = 0, found_bytes: int = 0) -> None:
        super().__init__(message)
        self.name = name
        self.expected_bytes = expected_bytes
        self.found_bytes = found_bytes


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder behind an fsspec URL that is not local.

    Attributes:
        url: Without a trailing slash.
        options_json: For fsspec.
    """

    url: str
    options_json: str

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file.

        Raises:
            StorageError: storage does not answer, or refuses.
        """
        try:
            info = self._call("info", self._path(name), what=f"Cannot look up {self._url(name)}")
        except _ABSENT:
            return None
        if info["type"] != "file":
            return None
        if info["size"] is None:
            raise StorageError(
                f"{self._url(name)}: the server does not say how large it is (Content-Length). "
                "Copy the files to a local disk."
            )
        return int(info["size"])

    def sizes(self, under: str = "", *, look_up: bool = False) -> dict[str, int]:
        """Relative paths of all files below a folder, with their sizes, sorted.

        Args:
            under: The folder.
            look_up: Where a listing does not tell a size, look the file up, instead of saying 0.

        Raises:
            StorageError: storage does not answer, or refuses.
        """
        sizes = dict(sorted(self._listed(under)))
        if look_up and (unknown := [name for name, size_bytes in sizes.items() if size_bytes is None]):
            with ThreadPoolExecutor(_LOOK_UPS_AT_ONCE) as pool:
                sizes |= zip(unknown, pool.map(self.size, unknown), strict=True)
        return {name: size_bytes or 0 for name, size_bytes in sizes.items()}

    def _listed(self, under: str) -> Iterator[tuple[str, int | None]]:
        """Relative paths of all files below a folder, with their sizes where storage tells."""
        start = len(self._path("").rstrip("/")) + 1
        if self.url.startswith(_FLAT):
            # Many files by one request, whatever folders they seem to lie in: a Zarr array may have one a chunk.
            folder, what = self._path(under).rstrip("/"), f"Cannot list {self._url(under)}"
            with contextlib.suppress(*_ABSENT):
                for path, entry in self._call("find", folder, detail=True, what=what).items():
                    if path.startswith(f"{folder}/") and not path.endswith("/"):
                        yield path[start:], entry["size"]
            return
        # Not by `find`, which for some file systems leaves out a folder whose listing fails.
        folders = [under]
        while folders:
            name = folders.pop()
            folder = self._path(name).rstrip("/")
            try:
                entries = self._call("ls", folder, detail=True, what=f"Cannot list {self._url(name)}")
            except _ABSENT:
                continue
            for entry in entries:
                path = str(entry["name"]).rstrip("/")
                if not path.startswith(f"{folder}/"):
                    continue  # The folder itself, or what its web page points to.
                if entry["type"] == "directory":
                    folders.append(path[start:])
                elif not str(entry["name"]).endswith("/"):
                    yield path[start:], entry["size"]

    def fetch(self, ranges: Sequence[FileRange]) -> list[bytes]:
        """Reads ranges, which are not empty, all at once as far as the file system can.

        Raises:
            FileNotFoundError: a file is not there; `filename` is its relative path.
            EndOfFileError: a file ends before a range does.
            StorageError: storage does not answer, refuses, or cannot serve ranges.
        """
        contents: dict[int, bytes] = {}

        def fetch_missing() -> None:
            missing = [place for place in range(len(ranges)) if place not in contents]
            problem: Exception | None = None
            for place, outcome in zip(missing, self._fetch_once([ranges[place] for place in missing]), strict=True):
                _, start, stop = ranges[place]
                if isinstance(outcome, bytes) and len(outcome) == stop - start:
                    contents[place] = outcome
                else:
                    problem = problem or self._problem(ranges[place], outcome)
            if problem is not None:
                raise problem

        if ranges:
            first = self._url(ranges[0][0])
            what = f"Cannot read {first}" + (f" or one of {len(ranges) - 1} other ranges" if ranges[1:] else "")
            patiently(what, fetch_missing, options=self._options)
        return [contents[place] for place in range(len(ranges))]

    def put(self, local_path: str, name: str) -> None:
        """Stores a complete local file under a name; whoever reads it sees all of it or what was there before.

        Raises:
            StorageError: storage does not answer, or refuses.
        """
        size_bytes = os.path.getsize(local_path)

        def put_and_look() -> None:
            self._once("put_file", local_path, self._path(name), num_bytes=size_bytes)
            if (found := self._once("info", self._path(name))["size"]) != size_bytes:
                raise OSError(f"stored {size_bytes} bytes, found {found}")

        what = f"Cannot write {self._url(name)}"
        try:
            patiently(what, put_and_look, options=self._options)
        except _ABSENT as error:
            raise StorageError(f"{what}: {error}. Is there such a bucket?") from None

    def copy(self, name: str, target: str) -> None:
        """Stores a file under another name, too, without its bytes coming here.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: storage does not answer, or refuses.
        """
        what = f"Cannot copy {self._url(name)} to {self._url(target)}"
        self._call("cp_file", self._path(name), self._path(target), what=what)

    def remove(self, name: str) -> None:
        """Removes a file if it is there.

        Raises:
            StorageError: storage does not answer, or refuses.
        """
        if self.size(name) is None:
            return  # The Hub would make of it a commit that fails.
        with contextlib.suppress(*_ABSENT):
            self._call("rm_file", self._path(name), what=f"Cannot remove {self._url(name)}")

    def _problem(self, wanted: FileRange, outcome: bytes | Exception) -> Exception:
        """What to make of a range that did not come as it should: storages differ in what they say at a file's end."""
        name, start, stop = wanted
        if isinstance(outcome, _ABSENT):
            return FileNotFoundError(2, os.strerror(2), name)
        size_bytes: int | None = None
        with contextlib.suppress(Exception):  # What came first is what counts.
            size_bytes = int(self._once("info", self._path(name))["size"])
        if size_bytes is not None and size_bytes < stop:
            message = (
                f"{self._url(name)}: expected at least {stop} bytes, got {size_bytes}: it has changed, or is cut off"
            )
            return EndOfFileError(message, name, stop, size_bytes)
        if isinstance(outcome, Exception):
            return outcome
        if len(outcome) == size_bytes:
            return StorageError(
                f"{self._url(name)}: asked for bytes {start} to {stop}, got all {size_bytes}. This storage does not "
                "serve byte ranges: copy the files to one that does, or to a local disk."
            )
        return OSError(f"asked {self._url(name)} for bytes {start} to {stop}, got {len(outcome)} bytes")

    def _fetch_once(self, ranges: Sequence[FileRange]) -> list[bytes | Exception]:
        filesystem = _filesystem(self.url, self.options_json)
        seconds = patience.PATIENCE.limit_seconds(sum(stop - start for _, start, stop in ranges))
        paths = [(self._path(name), start, stop) for name, start, stop in ranges]
        if filesystem.async_impl:
            read = _range_reader(self.url, self.options_json, os.getpid())
            return fsspec.asyn.sync(filesystem.loop, _fetch_each, read, paths, seconds)
        outcomes: list[bytes | Exception] = []
        for path, start, stop in paths:
            try:
                outcomes.append(within(seconds, functools.partial(filesystem.cat_file, path, start=start, end=stop)))
            except Exception as error:  # noqa: BLE001 - Looked at by who asked.
                outcomes.append(error)
        return outcomes

    def _call(self, method: str, *arguments: Any, what: str, **named: Any) -> Any:
        return patiently(what, functools.partial(self._once, method, *arguments, **named), options=self._options)

    def _once(self, method: str, *arguments: Any, num_bytes: int = 0, **named: Any) -> Any:
        filesystem = _filesystem(self.url, self.options_json)
        seconds = patience.PATIENCE.limit_seconds(num_bytes)
        filesystem.invalidate_cache()
        call: Callable[..., Any] = getattr(filesystem, method)
        if filesystem.async_impl:
            return call(*arguments, **named, timeout=seconds)  # Taken by `fsspec.asyn.sync`.
        return within(seconds, functools.partial(call, *arguments, **named))

    @property
    def _options(self) -> Mapping[str, Any]:
        options: dict[str, Any] = json.loads(self.options_json)
        return options

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _path(self, name: str) -> str:
        return str(_filesystem(self.url, self.options_json)._strip_protocol(self._url(name)))


async def _fetch_each(read: ReadRange, ranges: Sequence[FileRange], seconds: float) -> list[bytes | BaseException]:
    """As `cat_ranges`, but each range has its own time-out, so that one that hangs costs no other."""
    gate = asyncio.Semaphore(_REQUESTS_AT_ONCE)

    async def fetch(path: str, start: int, stop: int) -> bytes:
        async with gate:
            return await asyncio.wait_for(read(path, start, stop), seconds)

    return await asyncio.gather(*(fetch(*wanted) for wanted in ranges), return_exceptions=True)


@functools.lru_cache(maxsize=16)
def _range_reader(url: str, options_json: str, process: int) -> ReadRange:
    """How a file system that has coroutines reads a range."""
    filesystem = _new_filesystem(url, options_json, process)

    async def read(path: str, start: int, stop: int) -> bytes:
        content: bytes = await filesystem._cat_file(path, start=start, end=stop)  # noqa: SLF001 - fsspec's way for coroutines.
        return content

    if url.startswith(_S3):
        from predecode.transforms.signed_reads import SignedReads  # What it imports comes with s3fs.

        return SignedReads(filesystem, read).read
    return read


def _filesystem(url: str, options_json: str) -> Any:
    """The file system for a URL: one for all threads if it can be, so that they share connections."""
    shared = _new_filesystem(url, options_json, os.getpid())
    return shared if shared.async_impl else _open_filesystem(url, options_json)


@functools.lru_cache(maxsize=16)  # By process, too: connections don't survive a fork.
def _new_filesystem(url: str, options_json: str, _process: int) -> Any:
    return _open_filesystem(url, options_json)


def _open_filesystem(url: str, options_json: str) -> Any:
    """fsspec keeps one for each thread and arguments."""
    defaults = _DEFAULTS.get(url.split("://", 1)[0], {})
    options = {**defaults, "use_listings_cache": False, **json.loads(options_json)}
    try:
        return fsspec.core.url_to_fs(url, **options)[0]
    except ImportError as error:
        raise missing_library(url, error) from None
