"""Copying wanted shards to the local disk, in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from predecode.reader.ranges import RangeReader
from predecode.reader.shard_cache import IN_USE_SECONDS, CachedShard, Refused, ShardCache, UnfinishedCopy
from predecode.transforms.errors import PredecodeError

_PIECE_BYTES = 8 << 20
"""Of one request: larger ones are no cheaper a byte."""

_PIECES_AT_ONCE = 4
_BUSY_SECONDS = 5.0
_FULL_SECONDS = 30.0
"""How long a shard that could not be copied is not tried again."""

_LOGGER = logging.getLogger("predecode.reader")


class ShardCopier:
    """Copies one shard after the other by a thread that ends when there is nothing left to do.

    A shard that cannot be copied is no error: whoever reads it does so from the store, and says what is wrong there.
    """

    def __init__(self, far: RangeReader, cache: ShardCache) -> None:
        """Copies nothing yet.

        Args:
            far: Of the store.
            cache: Where copies go.
        """
        self._far = far
        self._cache = cache
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted: dict[str, CachedShard] = {}
        self._kept: frozenset[str] = frozenset()
        self._not_before: dict[str, float] = {}
        self._full_until = 0.0
        self._is_off = False

    def want(self, shards: Sequence[CachedShard]) -> None:
        """Copies shards, when those that were wanted before are done."""
        now, kept = time.monotonic(), self._kept
        new = {
            shard.key: shard
            for shard in shards
            if (not kept or shard.key in kept)
            and shard.key not in self._wanted
            and self._not_before.get(shard.key, now) <= now
        }
        if not new or self._is_off or now < self._full_until:
            return
        with self._lock:
            self._wanted |= new
            self._begin()

    def expect(self, shards: Sequence[CachedShard]) -> None:
        """Copies shards that are read next, as many as the cache has room for; only these are in use from now on.

        None are expected where each is read now and then: then shards are copied that are wanted, while there is room.
        """
        kept, total_bytes = {}, 0
        for shard in shards:
            total_bytes += shard.size_bytes if shard.key not in kept else 0
            if total_bytes > self._cache.limit_bytes:
                break
            kept[shard.key] = shard
        with self._lock:
            self._kept = frozenset(kept)
            self._wanted = {key: shard for key, shard in kept.items() if not self._cache.has(shard)}
            self._full_until = 0.0
            self._begin()

    def stop(self) -> None:
        """Ends the thread soon, and for good; it is not waited for."""
        self._is_off = True

    def _begin(self) -> None:
        if self._wanted and self._thread is None and not self._is_off:
            # A daemon: what is not finished when the process ends is as if it was killed.
            self._thread = threading.Thread(target=self._run, name="shard copies", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (shard := self._next()) is not None:
            self._not_before[shard.key] = time.monotonic() + _BUSY_SECONDS
            try:
                self._copy(shard)
            except PredecodeError as error:
                _LOGGER.debug("Not copied: %s", error)
            except OSError as error:
                self._is_off = True
                _LOGGER.warning(
                    "Cannot copy shards to %s: %s. They are read from the store, as far as there are no copies.",
                    self._cache.folder,
                    error.strerror or error,
                )

    def _next(self) -> CachedShard | None:
        with self._lock:
            if not self._wanted or self._is_off:
                self._thread = None
                return None
            return self._wanted.pop(next(iter(self._wanted)))

    def _copy(self, shard: CachedShard) -> None:
        # Where it is known what comes next, all else may give way; else nothing that is in use.
        idle_seconds = 0.0 if self._kept else IN_USE_SECONDS
        begun = self._cache.begin(shard, keep=self._kept, idle_seconds=idle_seconds)
        if begun is Refused.FULL:
            with self._lock:
                self._full_until = time.monotonic() + _FULL_SECONDS
                self._wanted.clear()
        if isinstance(begun, Refused):
            return
        try:
            self._fetch(shard, begun)
        except BaseException:
            begun.abandon()
            raise
        if self._is_off:
            begun.abandon()
        else:
            begun.publish()

    def _fetch(self, shard: CachedShard, copy: UnfinishedCopy) -> None:
        at_once = _PIECE_BYTES * _PIECES_AT_ONCE
        for first in range(0, shard.size_bytes, at_once):
            if self._is_off:
                return
            starts = range(first, min(first + at_once, shard.size_bytes), _PIECE_BYTES)
            pieces = [(shard.path, start, min(start + _PIECE_BYTES, shard.size_bytes)) for start in starts]
            for start, content in zip(starts, self._far.read_ranges(pieces), strict=True):
                copy.write(content, start)
