"""Whole shards of far outputs, copied to a folder of the local disk within a limit, for all processes of a host.

A copy appears under its name, by a rename, when it is complete; it is never changed, and whoever has it open keeps it
when it is removed. Its name is a hash of all that says which bytes it has, so that nothing of another output, or of a
shard that was written anew, can be taken for it. Processes agree by `flock`, which ends with whoever holds it: one
copies a shard while the others read theirs from the store, and one at a time makes room.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from predecode.transforms.errors import UsageError
from predecode.transforms.hashing import digest
from predecode.transforms.sizes import parse_size

DEFAULT_CACHE_BYTES = "100GB"

IN_USE_SECONDS = 300.0
"""A copy that was read so recently gives way to no other, unless it is known which shards come next.

In a true shuffle all shards are read all the time: taking turns would load them again and again, and hit no more.
"""

_STAMPED_EVERY_SECONDS = 10.0
_LOCK = "lock"
_COPY, _UNFINISHED = ".tar", ".part"
_OURS = re.compile(rf"[0-9a-f]{{32}}({_COPY}|{_UNFINISHED})")


@dataclass(frozen=True, slots=True)
class CachedShard:
    """A tar of an output, as the output's tables describe it.

    Attributes:
        path: Relative to the output.
        size_bytes: Of the tar.
        key: 32 hexadecimal digits that stand for its content.
    """

    path: str
    size_bytes: int
    key: str

    @classmethod
    def of(cls, url: str, path: str, *, size_bytes: int, index_sha256: str) -> CachedShard:
        """Names a tar.

        Args:
            url: Of the output.
            path: Relative to the output.
            size_bytes: Of the tar.
            index_sha256: Of its index, which says where in the tar everything lies, and what its checksum is.
        """
        return cls(path, size_bytes, digest([url, path, size_bytes, index_sha256]))


class Refused(enum.Enum):
    """Why a shard is not copied now."""

    BUSY = "another process copies it, or it is there"
    FULL = "there is no room"


@dataclass(frozen=True, slots=True)
class UnfinishedCopy:
    """A file of the size that a copy will have; nobody else writes to it. Ends by `publish` or by `abandon`."""

    descriptor: int
    path: str
    published_path: str

    def write(self, content: bytes | memoryview, start: int) -> None:
        """Puts bytes to their place.

        Raises:
            OSError: the disk fails, or is full.
        """
        left = memoryview(content)
        while left:
            written = os.pwrite(self.descriptor, left, start)
            left, start = left[written:], start + written

    def publish(self) -> None:
        """Gives the complete copy its name.

        Raises:
            OSError: the disk fails, or is full.
        """
        try:
            os.fdatasync(self.descriptor)  # Else a power cut could leave a copy of zeros, which not all readers check.
            os.rename(self.path, self.published_path)
        except OSError:
            self.abandon()
            raise
        os.close(self.descriptor)

    def abandon(self) -> None:
        """Removes what there is."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class ShardCache:
    """The folder of the copies.

    Attributes:
        folder: Shared by all that name it, with whatever outputs; on a local disk.
        limit_bytes: Of all copies together, those that are being made included. Each process keeps to its own.
    """

    folder: str
    limit_bytes: int
    _stamped: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, folder: str | Path, limit: int | str) -> ShardCache:
        """Makes the folder if there is none.

        Args:
            folder: On a local disk.
            limit: Bytes, or a size such as "20GB".

        Raises:
            UsageError: no size, or a folder that cannot be made or written to.
        """
        limit_bytes = parse_size(limit) if isinstance(limit, str) else limit
        if type(limit_bytes) is not int or limit_bytes < 1:
            raise UsageError(f'Expected as cache_bytes a number of bytes or a size such as "20GB", got {limit!r}.')
        if "://" in str(folder):
            raise UsageError(f"Expected as cache_dir a folder of the local disk, got {str(folder)!r}.")
        cache = cls(os.path.abspath(os.path.expanduser(folder)), limit_bytes)
        try:
            os.makedirs(cache.folder, exist_ok=True)
            with cache._alone():
                pass
        except OSError as error:
            raise UsageError(
                f"Cannot keep copies of shards in {cache.folder}: {error.strerror or error}. Name another cache_dir, "
                "or none."
            ) from error
        return cache

    def open(self, shard: CachedShard) -> int | None:
        """A descriptor of the shard's copy, which the caller closes; None where there is none.

        Raises:
            OSError: the disk fails.
        """
        try:
            descriptor = os.open(self._path(shard), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != shard.size_bytes:
            os.close(descriptor)
            self.drop(shard)
            return None
        now = time.monotonic()
        if self._stamped.get(shard.key, -_STAMPED_EVERY_SECONDS) + _STAMPED_EVERY_SECONDS <= now:
            self._stamped[shard.key] = now
            with contextlib.suppress(OSError):  # Another user's file: its owner's processes keep it young.
                os.utime(descriptor)
        return descriptor

    def drop(self, shard: CachedShard) -> None:
        """Removes a shard's copy if there is one."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(shard))

    def has(self, shard: CachedShard) -> bool:
        """Whether there is a copy."""
        return os.path.lexists(self._path(shard))

    def begin(
        self, shard: CachedShard, *, keep: Collection[str] = (), idle_seconds: float = IN_USE_SECONDS
    ) -> UnfinishedCopy | Refused:
        """Begins to copy a shard, and makes room for it.

        Args:
            shard: Which.
            keep: Keys of shards whose copies give way in no case.
            idle_seconds: What was read more recently does not either.

        Raises:
            OSError: the disk fails, or is full.
        """
        path = self._path(shard, _UNFINISHED)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        unfinished = UnfinishedCopy(descriptor, path, self._path(shard))
        # The name may have been taken from the file, or given to another, before it was locked.
        if not _lock(descriptor) or not _is_named(descriptor, path):
            os.close(descriptor)
            return Refused.BUSY
        try:
            if self.has(shard):
                unfinished.abandon()
                return Refused.BUSY
            with self._alone():
                has_room = self._make_room(shard, frozenset(keep), idle_seconds)
                if has_room:
                    os.ftruncate(descriptor, shard.size_bytes)  # From now on others count it.
            if has_room:
                os.posix_fallocate(descriptor, 0, shard.size_bytes)  # A full disk says so now.
                return unfinished
        except OSError:
            unfinished.abandon()
            raise
        unfinished.abandon()
        return Refused.FULL

    def _make_room(self, shard: CachedShard, keep: Collection[str], idle_seconds: float) -> bool:
        """Removes what was not read for the longest time, if it is enough that way; says whether it is."""
        free_bytes, copies = self.limit_bytes, []
        for name, path, found in self._files():
            if name.endswith(_UNFINISHED):
                if name != shard.key + _UNFINISHED and not _remove_stale(path):
                    free_bytes -= found.st_size
                continue
            free_bytes -= found.st_size
            if name.removesuffix(_COPY) not in keep and time.time() - found.st_mtime >= idle_seconds:
                copies.append((found.st_mtime, path, found.st_size))
        going = []
        for _, path, size_bytes in sorted(copies):
            if free_bytes >= shard.size_bytes:
                break
            going.append(path)
            free_bytes += size_bytes
        if free_bytes < shard.size_bytes:
            return False
        for path in going:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return True

    def _files(self) -> Iterator[tuple[str, str, os.stat_result]]:
        """Name, path and state of each file in the folder that is ours."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.name, entry.path, entry.stat(follow_symlinks=False)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Within the block no other process, and no other thread, makes room."""
        descriptor = os.open(os.path.join(self.folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, shard: CachedShard, ending: str = _COPY) -> str:
        return f"{self.folder}/{shard.key}{ending}"


def _lock(descriptor: int) -> bool:
    """Locks a file if nobody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(descriptor: int, path: str) -> bool:
    """Whether an open file is the one of a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_stale(path: str) -> bool:
    """Removes an unfinished copy that nobody works on any more; says whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock(descriptor):
            return False
        if _is_named(descriptor, path):
            os.unlink(path)
        return True
    finally:
        os.close(descriptor)
