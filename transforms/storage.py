"""The one place that touches storage: a folder on the local disk or behind any fsspec URL.

Files are published whole or not at all: locally a temporary file in the same folder, fsync and an atomic rename
(fsspec's own local `put` copies, and readers see partial files); remotely one put of a complete local
file (`remote.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from predecode.transforms.credentials import has_user
from predecode.transforms.errors import SOURCE_REMEDY, OutputError, PredecodeError, SourceError, UsageError
from predecode.transforms.far_file import FarFile
from predecode.transforms.remote import FileRange, RemoteFolder

TEMPORARY_MARK = ".tmp-"
"""Every unfinished file has this in its name; nothing else may."""

_MAX_PATH_LENGTH = 1024
_READ_ONLY = ("http", "https")
_REMEDY = "Mend the cause and run the same command again."


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that files are read from and published to, by paths relative to it.

    Attributes:
        url: Local path or fsspec URL, without a trailing slash.
        options_json: The options for fsspec, as JSON, so that a folder is hashable and picklable.
    """

    url: str
    options_json: str = field(default="{}", repr=False)

    @classmethod
    def of(cls, url: str, storage_options: Mapping[str, Any] | None = None) -> Folder:
        """Describes a folder; touches nothing.

        Args:
            url: Local path or fsspec URL.
            storage_options: For fsspec; where source and output differ, the options of each by its scheme:
                `{"s3": {...}, "hf": {...}}`.

        Raises:
            UsageError: an empty URL, an unknown scheme, or an address that holds credentials.
        """
        if not url or "\0" in url:
            raise UsageError(f"Expected a folder's path or URL, got {url!r}.")
        protocol = url.split("://", 1)[0] if "://" in url else "file"
        if protocol not in fsspec.available_protocols():
            known = ", ".join(sorted(fsspec.available_protocols()))
            raise UsageError(
                f"{protocol:.40}://...: there is no storage {protocol!r:.40}. Known to fsspec are: {known}."
            )
        if protocol == "file":
            url = os.path.abspath(url.removeprefix("file://"))
        elif has_user(url) or (protocol in _READ_ONLY and "?" in url):
            # It would stand in every message.
            raise UsageError(
                f"The {protocol} address holds a user or a query. Give credentials by the environment or by "
                "--storage-options, and a folder's address without a query."
            )
        options = dict(storage_options or {})
        known_protocols = set(fsspec.available_protocols())
        if options and all(key in known_protocols and isinstance(value, dict) for key, value in options.items()):
            options = options.get(protocol, {})
        return cls(url.rstrip("/") or "/", json.dumps(options, sort_keys=True))

    def check_writable(self) -> None:
        """Refuses what can only be read.

        Raises:
            UsageError: the URL is a web server's.
        """
        if self.url.startswith(_READ_ONLY):
            raise UsageError(f"{self}: http can be read from, not written to. Choose a folder, s3://, gs:// or hf://.")

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
        size_bytes = self._remote.size(name)
        if size_bytes is None:
            raise FileNotFoundError(2, os.strerror(2), self.path(name))
        return cast(IO[bytes], FarFile(lambda start, stop: self.fetch([(name, start, stop)])[0], size_bytes))

    def read(self, name: str) -> bytes:
        """A whole, small file.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: storage fails.
        """
        with self.open(name) as file:
            return file.read()

    def fetch(self, ranges: Sequence[FileRange]) -> list[bytes]:
        """Reads ranges of remote files, many at a time where storage can.

        Raises:
            FileNotFoundError: a file is not there; `filename` is its relative path.
            EndOfFileError: a file ends before a range does.
            StorageError: storage does not answer, refuses, or cannot serve ranges.
        """
        return self._remote.fetch(ranges)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file.

        Raises:
            StorageError: storage does not answer, or refuses.
        """
        if not self.is_local:
            return self._remote.size(name)
        try:
            info = LocalFileSystem().info(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def names(self, under: str = "") -> list[str]:
        """Relative paths of all files below a folder, sorted as strings; empty where there is no such folder."""
        return list(self._sizes(under))

    def sizes(self) -> dict[str, int]:
        """Relative paths of all files below the folder, sorted, with their bytes, also where no listing tells these.

        Raises:
            StorageError: storage does not answer, or refuses.
        """
        return self._sizes("") if self.is_local else self._remote.sizes(look_up=True)

    def total_bytes(self) -> int:
        """Size of all files below the folder."""
        return sum(self._sizes("").values())

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
                    self._remote.put(temporary, name)
        except PredecodeError:
            raise
        except OSError as error:
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
        if not self.is_local:
            self._remote.remove(name)
            return
        try:
            os.unlink(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise OutputError(f"Cannot remove {self.path(name)}: {error.strerror or error}. {_REMEDY}") from error

    def copy(self, name: str, target: str) -> None:
        """Gives a file another name, too, under which it appears at once; what had that name before is replaced.

        Raises:
            OutputError: as for `publishing`.
        """
        if not self.is_local:
            self._remote.copy(name, target)
            return
        if self._link(name, target):
            return
        try:
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
        if not self.is_local:
            for name in self.names():
                self._remote.remove(name)
            return
        try:
            shutil.rmtree(self.url)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"Cannot remove {self}: {error.strerror or error}. {_REMEDY}") from error

    @contextlib.contextmanager
    def _local_temporary(self, name: str) -> Iterator[tuple[IO[bytes], str]]:
        """A new local file, in the same folder where that is local, that is gone at the end unless it was renamed."""
        if not self.is_local:
            with tempfile.TemporaryFile(prefix="predecode") as file:  # Without a name, so that nothing stays of it.
                yield file, f"/proc/self/fd/{file.fileno()}"
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                yield file, str(temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _sizes(self, under: str) -> dict[str, int]:
        """Relative paths of all files below a folder, with their sizes, sorted."""
        if not self.is_local:
            return self._remote.sizes(under)
        try:
            found = LocalFileSystem().find(self.path(under), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        start = len(self.url.rstrip("/")) + 1
        return {path[start:]: int(found[path]["size"] or 0) for path in sorted(found)}

    @property
    def _remote(self) -> RemoteFolder:
        return RemoteFolder(self.url, self.options_json)


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
        raise SourceError(f"{where}: expected a path inside the dataset, got {path!r:.120}. {SOURCE_REMEDY}")
    return cast(str, path)
