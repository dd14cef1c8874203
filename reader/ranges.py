"""Bytes of an output by range: by `pread` where it is local, by many requests at once where it is far away.

Ranges that lie close together are read as one. Readers may be called by many threads at once, hold no lock while they
read, and go on working in forked and, pickled, in spawned processes.
"""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from predecode.transforms.errors import FormatError
from predecode.transforms.remote import EndOfFileError, FileRange
from predecode.transforms.storage import Folder

Range: TypeAlias = FileRange
"""Path relative to the output, first byte, byte behind the last."""
REMEDY = "The shard is damaged or of another output; removing it and running the job again writes it anew."

MAX_NEAR_GAP_BYTES = 4 << 10
"""Reading so much in between costs less than another call: the members of one sample lie closer."""

MAX_FAR_GAP_BYTES = 64 << 10
"""The same for a request over a network."""

MAX_SPAN_BYTES = 8 << 20
"""Ranges are joined up to this size: as long as one is held, the whole is."""

MAX_OPEN_FILES = 512


class RangeReader(Protocol):
    """Reads bytes of the files of one output."""

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes | memoryview]:
        """Reads ranges, which may be in any order, overlap, or be empty.

        Args:
            ranges: With 0 <= start <= stop.

        Returns:
            Their content, in the order given, read-only.

        Raises:
            FormatError: a file is missing, or ends before a range does.
            OSError: storage fails.
        """

    def expect(self, names: Sequence[str]) -> None:
        """Says which files are read next, in this order, and no others for a while."""

    def distrust(self, names: Sequence[str]) -> bool:
        """Says that what was read of some files was damaged; returns whether reading it again may help."""

    def close(self) -> None:
        """Lets go of files; reading again opens them again."""


def open_ranges(folder: Folder) -> RangeReader:
    """A reader for the files of an output; touches none of them yet."""
    return NearRanges(folder) if folder.is_local else FarRanges(folder)


@dataclass(slots=True)
class Span:
    """Ranges of one file that are read as one.

    Attributes:
        path: Relative to the output.
        start: First byte.
        stop: The byte behind the last.
        numbers: Which of the ranges lie in it.
    """

    path: str
    start: int
    stop: int
    numbers: list[int]


def join_ranges(ranges: Sequence[Range], *, max_gap_bytes: int) -> list[Span]:
    """Joins ranges between which there is little, or nothing; leaves empty ones out.

    >>> [(span.start, span.stop, span.numbers) for span in join_ranges(
    ...     [("a", 90, 100), ("a", 0, 10), ("a", 12, 20), ("a", 5, 6)], max_gap_bytes=4)]
    [(0, 20, [1, 3, 2]), (90, 100, [0])]
    """
    spans: list[Span] = []
    for number in sorted(range(len(ranges)), key=ranges.__getitem__):
        path, start, stop = ranges[number]
        assert 0 <= start <= stop, "an index is checked when it is opened"
        if start == stop:
            continue
        last = spans[-1] if spans else None
        if (
            last
            and last.path == path
            and start - last.stop <= max_gap_bytes
            and stop <= max(last.stop, last.start + MAX_SPAN_BYTES)
        ):
            last.stop = max(last.stop, stop)
            last.numbers.append(number)
        else:
            spans.append(Span(path, start, stop, [number]))
    return spans


def cut(ranges: Sequence[Range], spans: Sequence[Span], contents: Sequence[bytes]) -> list[bytes | memoryview]:
    """The ranges out of the spans that they were read in, without copying."""
    parts: list[bytes | memoryview] = [b""] * len(ranges)
    for span, content in zip(spans, contents, strict=True):
        view = memoryview(content)
        for number in span.numbers:
            _, start, stop = ranges[number]
            whole = (start, stop) == (span.start, span.stop)
            parts[number] = content if whole else view[start - span.start : stop - span.start]
    return parts


def read_span(descriptor: int, span: Span) -> bytes:
    """Reads a span of an open local file; less of it where the file ends before."""
    content = os.pread(descriptor, span.stop - span.start, span.start)
    while (position := span.start + len(content)) < span.stop:  # One call reads 2 GiB at most.
        piece = os.pread(descriptor, span.stop - position, position)
        if not piece:
            break
        content += piece
    return content


@dataclass(frozen=True, slots=True)
class _OpenFile:
    """A descriptor that is closed when neither the cache nor a thread that reads holds it any longer."""

    descriptor: int
    size_bytes: int

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """The default is kept: when the interpreter ends, this module's names go before its last files."""
        close(self.descriptor)


def _open_file(folder: Folder, name: str) -> _OpenFile:
    try:
        with folder.open(name) as file:
            descriptor = os.dup(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        raise missing(folder, name) from None
    return _OpenFile(descriptor, os.fstat(descriptor).st_size)


class NearRanges:
    """Reads local files.

    `pread` has no position that threads or forked processes could share. The cache's lock is the interpreter's own.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = MAX_OPEN_FILES if limit == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_FILES, limit // 4))
        self._open = functools.lru_cache(limit)(functools.partial(_open_file, folder))

    def __reduce__(self) -> tuple[Any, ...]:
        return NearRanges, (self._folder,)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes | memoryview]:
        """See `RangeReader`."""
        spans = join_ranges(ranges, max_gap_bytes=MAX_NEAR_GAP_BYTES)
        return cut(ranges, spans, [self._read(span) for span in spans])

    def expect(self, names: Sequence[str]) -> None:
        """See `RangeReader`: they are here."""

    def distrust(self, names: Sequence[str]) -> bool:  # noqa: ARG002 - As `RangeReader` has it.
        """See `RangeReader`: these are the files themselves."""
        return False

    def close(self) -> None:
        """See `RangeReader`."""
        self._open.cache_clear()

    def _read(self, span: Span) -> bytes:
        file = self._open(span.path)
        if file.size_bytes < span.stop:
            raise truncated(self._folder, span.path, span.stop, file.size_bytes)
        content = read_span(file.descriptor, span)
        if len(content) < span.stop - span.start:
            raise truncated(self._folder, span.path, span.stop, span.start + len(content))
        return content


class FarRanges:
    """Reads files behind any fsspec URL, many at a time where its file system can.

    What it holds is what was asked for and the gaps, at most `MAX_FAR_GAP_BYTES` a range.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes | memoryview]:
        """See `RangeReader`."""
        spans = join_ranges(ranges, max_gap_bytes=MAX_FAR_GAP_BYTES)
        try:
            contents = self._folder.fetch([(span.path, span.start, span.stop) for span in spans])
        except FileNotFoundError as error:
            raise missing(self._folder, str(error.filename or spans[0].path)) from None
        except EndOfFileError as error:
            raise truncated(self._folder, error.name, error.expected_bytes, error.found_bytes) from None
        return cut(ranges, spans, contents)

    def expect(self, names: Sequence[str]) -> None:
        """See `RangeReader`: nothing is kept."""

    def distrust(self, names: Sequence[str]) -> bool:  # noqa: ARG002 - As `RangeReader` has it.
        """See `RangeReader`: these are the files themselves."""
        return False

    def close(self) -> None:
        """See `RangeReader`: it has none open."""


def missing(folder: Folder, name: str) -> FormatError:
    """The error for a file that is not there."""
    return FormatError(
        f"{folder.path(name)} is missing. Run the same `predecode materialize` again: it writes it anew."
    )


def truncated(folder: Folder, name: str, expected_bytes: int, found_bytes: int) -> FormatError:
    """The error for a file that is too short."""
    return FormatError(
        f"{folder.path(name)} is truncated: expected at least {expected_bytes} bytes, got at most {found_bytes}. "
        + REMEDY
    )
