"""Bytes of a far output from copies of its shards where there are any, and from the store where there are none yet."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Sequence

from predecode.reader.ranges import MAX_NEAR_GAP_BYTES, Range, RangeReader, cut, join_ranges, read_span
from predecode.reader.shard_cache import CachedShard, ShardCache
from predecode.reader.shard_copier import ShardCopier

Describe = Callable[[str], CachedShard]
"""What the output's tables say of a tar, by its path."""


class CachedRanges:
    """Reads tars of a far output; those that are not copied yet are read from the store, and copied meanwhile.

    Threads may share it, and forked processes: each process copies by a thread of its own.
    """

    def __init__(self, far: RangeReader, cache: ShardCache, describe: Describe) -> None:
        """Reads nothing.

        Args:
            far: Of the store.
            cache: Where copies lie.
            describe: Tells which copy is of a tar.
        """
        self._far = far
        self._cache = cache
        self._describe = functools.cache(describe)
        self._copiers: dict[int, ShardCopier] = {}
        self._from_copies: set[str] = set()
        self._distrusted: set[str] = set()

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes | memoryview]:
        """See `RangeReader`."""
        places: dict[str, list[int]] = {}
        for number, (path, start, stop) in enumerate(ranges):
            if start < stop:
                places.setdefault(path, []).append(number)
        parts: list[bytes | memoryview] = [b""] * len(ranges)
        missed: list[int] = []
        missing: list[CachedShard] = []
        for path, numbers in places.items():
            found = self._read_copy(path, [ranges[number] for number in numbers])
            if found is None:
                missed += numbers
                if path not in self._distrusted:
                    missing.append(self._describe(path))
            for number, part in zip(numbers, found or (), strict=False):
                parts[number] = part
        if missing:
            self._copier.want(missing)
        for number, part in zip(missed, self._far.read_ranges([ranges[number] for number in missed]), strict=True):
            parts[number] = part
        return parts

    def expect(self, names: Sequence[str]) -> None:
        """See `RangeReader`."""
        self._copier.expect([self._describe(name) for name in names if name not in self._distrusted])

    def distrust(self, names: Sequence[str]) -> bool:
        """Removes the copies of some files, and from now on reads these from the store, in this process."""
        suspects = self._from_copies.intersection(names)
        for name in suspects - self._distrusted:
            self._forget(name)
        return bool(suspects)

    def close(self) -> None:
        """See `RangeReader`; what is being copied is left."""
        for copier in self._copiers.values():
            copier.stop()
        self._copiers.clear()
        self._far.close()

    def _read_copy(self, path: str, ranges: Sequence[Range]) -> list[bytes | memoryview] | None:
        """Some ranges of one file; None where there is no copy that has them."""
        if path in self._distrusted:
            return None
        spans = join_ranges(ranges, max_gap_bytes=MAX_NEAR_GAP_BYTES)
        try:
            descriptor = self._cache.open(self._describe(path))
            if descriptor is None:
                return None
            self._from_copies.add(path)
            try:
                contents = [read_span(descriptor, span) for span in spans]
            finally:
                os.close(descriptor)
        except OSError:  # The store still has it.
            self._forget(path)
            return None
        if any(len(content) < span.stop - span.start for span, content in zip(spans, contents, strict=True)):
            self._forget(path)
            return None
        return cut(ranges, spans, contents)

    def _forget(self, path: str) -> None:
        self._distrusted.add(path)
        self._cache.drop(self._describe(path))

    @property
    def _copier(self) -> ShardCopier:
        """This process's own: threads and their locks don't survive a fork."""
        copier = self._copiers.get(os.getpid())
        if copier is None:
            made = ShardCopier(self._far, self._cache)
            copier = self._copiers.setdefault(os.getpid(), made)
            if copier is made:
                weakref.finalize(self, made.stop)
        return copier
