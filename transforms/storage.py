"""The one place that touches storage: a folder on the local disk or behind any fsspec URL.

Files are published whole or not at all: locally a temporary file in the same folder, fsync and an atomic rename
(fsspec's own local `put` copies, and readers see partial files); remotely one put of a complete local file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from predecode.transforms.errors import OutputError, SourceError, UsageError

TEMPORARY_MARK = ".tmp-"
"""Every unfinished file has this in its name; nothing else may."""

_MAX_PATH_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that files are read from and published to, by paths relative to it.

    Attributes:
        url: Local path or fsspec URL, without a trailing slash.
        options_json: The options for fsspec, as JSON, so that a folder is hashable and picklable.
    """

    url: str
    options_json: str = "{}"

    @classmethod
    def of(cls, url: str, storage_options: Mapping[str, Any] | None = None) -> Folder:
        """Describes a folder; touches nothing.

        Raises:
            UsageError: an empty URL, or an unknown scheme.
        """
        if not url or "\0" in url:
            raise UsageError(f"Expected a folder's path or URL, got {url!r}.")
        protocol = url.split("://", 1)[0] if "://" in url else "file"
        if protocol not in fsspec.available_protocols():
            known = ", ".join(sorted(fsspec.available_protocols()))
            raise UsageError(f"{url}: there is no storage {protocol!r}. Known to fsspec are: {known}.")
        if protocol == "file":
            url = os.path.abspath(url.removeprefix("file://"))
        return cls(url.rstrip("/") or "/", json.dumps(dict(storage_options or {}), sort_keys=True))

    @property
    def is_local(self) -> bool:
        """Whether files have a path that other libraries can open."""
        return "://" not in self.url

    def __str__(self) -> str:
        return self.url

    def path(self, name: str) -> str:
        """Full path or URL of a file, for messages and, where `is_local`, for other libraries."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    def open(self, name: str) -> IO[bytes]:
        """Opens a file for reading at random places.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: storage fails.
        """
        if self.is_local:
            return open(self.path(name), "rb")
        return cast(IO[bytes], self._filesystem().open(self.path(name), "rb"))

    def read(self, name: str) -> bytes:
        """A whole, small file.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: storage fails.
        """
        with self.open(name) as file:
            return file.read()

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        filesystem = self._filesystem()
        try:
            info = filesystem.info(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def names(self, under: str = "") -> list[str]:
        """Relative paths of all files below a folder, sorted as strings; empty where there is no such folder."""
        filesystem = self._filesystem()
        root = filesystem._strip_protocol(self.path("")).rstrip("/")
        try:
            found = filesystem.find(filesystem._strip_protocol(self.path(under)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(path)[len(root) + 1 :] for path in found)

    def total_bytes(self) -> int:
        """Size of all files below the folder."""
        filesystem = self._filesystem()
        found = filesystem.find(filesystem._strip_protocol(self.path("")), detail=True)
        return sum(int(info["size"] or 0) for info in found.values())

    @contextlib.contextmanager
    def publishing(self, name: str) -> Iterator[IO[bytes]]:
        """Gives a file to write; what was written appears under `name` at once, complete, when the block ends well.

        Raises:
            OutputError: the disk is full, permission is denied, storage cannot be reached.
        """
        try:
            with self._local_temporary(name) as (file, temporary):
                yield file
                file.flush()
                os.fsync(file.fileno())
                if self.is_local:
                    os.replace(temporary, self.path(name))
                else:
                    self._filesystem().put_file(temporary, self.path(name))
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"Cannot write {self.path(name)}: {error.strerror or error}. What is committed is kept: "
                "mend the cause and run the same command again."
            ) from error

    def publish(self, name: str, content: bytes) -> None:
        """Publishes a small file.

        Raises:
            OutputError: as for `publishing`.
        """
        with self.publishing(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Removes a file if it is there.

        Raises:
            OutputError: storage refuses.
        """
        try:
            self._filesystem().rm_file(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise OutputError(f"Cannot remove {self.path(name)}: {error.strerror or error}.") from error

    def copy(self, name: str, target: str) -> None:
        """Gives a file another name, too, under which it appears at once; what had that name before is replaced.

        Raises:
            OutputError: as for `publishing`.
        """
        if self.is_local and self._link(name, target):
            return
        try:
            if not self.is_local:
                self._filesystem().cp_file(self.path(name), self.path(target))
                return
            with self.open(name) as content, self.publishing(target) as file:
                shutil.copyfileobj(content, file)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"Cannot copy {self.path(name)} to {self.path(target)}: {error.strerror or error}. Mend the cause and "
                "run the same command again."
            ) from error

    def _link(self, name: str, target: str) -> bool:
        """Copies nothing, where the local file system can have two names for a file; says whether it can."""
        path = Path(self.path(target))
        temporary = path.with_name(f"{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.path(name), temporary)
            os.replace(temporary, path)
        except OSError:
            return False
        finally:
            temporary.unlink(missing_ok=True)  # Still there where both were names of one file already.
        return True

    def clear(self) -> None:
        """Removes the folder and all that is in it.

        Raises:
            OutputError: storage refuses.
        """
        try:
            self._filesystem().rm(self.path(""), recursive=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"Cannot remove {self}: {error.strerror or error}.") from error

    @contextlib.contextmanager
    def _local_temporary(self, name: str) -> Iterator[tuple[IO[bytes], str]]:
        """A new local file, in the same folder where that is local, that is gone at the end unless it was renamed."""
        if self.is_local:
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")
        else:
            temporary = Path(tempfile.gettempdir()) / f"predecode{TEMPORARY_MARK}{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                yield file, str(temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _filesystem(self) -> fsspec.AbstractFileSystem:
        """fsspec caches instances by their arguments; listings are never taken from a cache."""
        if self.is_local:
            return LocalFileSystem()
        filesystem, _ = fsspec.core.url_to_fs(self.url, **json.loads(self.options_json))
        filesystem.invalidate_cache()
        return filesystem


def check_relative(path: object, where: str) -> str:
    """Refuses paths, made from a dataset's metadata, that would leave the dataset.

    >>> check_relative("videos/top/chunk-000/file-000.mp4", "info.json")
    'videos/top/chunk-000/file-000.mp4'

    Raises:
        SourceError: absolute, with "..", not printable, or absurdly long.
    """
    sound = (
        isinstance(path, str)
        and 0 < len(path) <= _MAX_PATH_LENGTH
        and path.isprintable()
        and "\\" not in path
        and "://" not in path
        and not path.startswith(("/", "~"))
        and ".." not in PurePosixPath(path).parts
    )
    if not sound:
        raise SourceError(f"{where}: expected a path inside the dataset, got {path!r:.120}.")
    return cast(str, path)
