"""A Zarr group, in a folder or a .zip, wherever tensorstore can read it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorstore as ts

from predecode.transforms.errors import SOURCE_REMEDY, DataError, SourceError, SourceNotFoundError
from predecode.transforms.storage import Folder

_DRIVERS = {"zarr.json": "zarr3", ".zarray": "zarr"}
"""By the name of an array's metadata: what tensorstore calls the two versions of the format."""

_GROUP_FILES = (".zgroup", "zarr.json")

_CACHE_BYTES = 1 << 27
"""Decoded chunks that one reader keeps, at most: segments overlap, and begin amid chunks."""

_MAX_METADATA_BYTES = 1 << 20

_DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
"""Statuses by which tensorstore says that the content is bad. All others are storage that fails."""


def is_zarr(folder: Folder) -> bool:
    """Whether a source is to be read as a Zarr group: by its name, or by what lies in the local folder."""
    if folder.url.endswith((".zarr", ".zip")):
        return True
    return folder.is_local and not os.path.exists(folder.path("meta/info.json")) and _has_group(folder)


def _has_group(folder: Folder) -> bool:
    return any(os.path.exists(folder.path(name)) for name in _GROUP_FILES)


@dataclass(frozen=True, slots=True)
class ZarrStore:
    """Where a Zarr group lies; picklable, opens nothing by itself.

    Attributes:
        folder: The folder, or the .zip.
    """

    folder: Folder

    @property
    def is_zip(self) -> bool:
        """Whether all of it is one .zip."""
        return self.folder.url.endswith(".zip")

    def check(self) -> None:
        """Refuses what is no Zarr group.

        Raises:
            SourceNotFoundError: there is nothing.
            SourceError: it cannot be read.
        """
        if self.folder.is_local and not os.path.exists(self.folder.url):
            raise SourceNotFoundError(
                f"{self.folder}: there is no such file or folder. Expected a Zarr group, or a .zip of one. "
                "Is the path right?"
            )
        with self._finding():
            files = self.open_files()
            if all(files.read(name).result().state == "missing" for name in _GROUP_FILES):
                raise SourceNotFoundError(
                    f"{self.folder}: there is no Zarr group here: expected {' or '.join(_GROUP_FILES)} at its top. "
                    "Is this the folder that holds data/ and meta/?"
                )

    def names(self, group: str) -> list[str]:
        """Names of what lies in a group, sorted.

        Raises:
            SourceError: storage cannot list them.
        """
        if self.folder.is_local and not self.is_zip:
            # not by tensorstore, which would list every chunk
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return sorted(entry.name for entry in os.scandir(self.folder.path(group)) if entry.is_dir())
            return []
        prefix = f"{group}/".encode()
        within = ts.KvStore.KeyRange(prefix, f"{group}0".encode())  # "0" comes right behind "/"
        with self._finding():
            keys = self.open_files().list(within, strip_prefix_length=len(prefix)).result()
        return sorted({key.split(b"/", 1)[0].decode(errors="replace") for key in keys if b"/" in key})

    def driver(self, path: str) -> tuple[str, Mapping[str, Any]]:
        """tensorstore's driver for an array, and the array's metadata; not to be trusted.

        Raises:
            SourceError: there is no array, or its metadata are no JSON object.
        """
        for name, driver in _DRIVERS.items():
            with self._finding():
                found = self.open_files().read(f"{path}/{name}").result()
            if found.state == "missing":
                continue
            where = f"{self.folder}: {path}/{name}"
            try:
                content = json.loads(found.value) if len(found.value) <= _MAX_METADATA_BYTES else None
            except (ValueError, RecursionError) as error:
                raise SourceError(
                    f"{where}: expected JSON, got what cannot be parsed: {error}. {SOURCE_REMEDY}"
                ) from error
            if not isinstance(content, dict):
                raise SourceError(
                    f"{where}: expected a JSON object of at most {_MAX_METADATA_BYTES} bytes. {SOURCE_REMEDY}"
                )
            if driver == "zarr" or content.get("node_type") == "array":
                return driver, content
        raise SourceError(f"{self.folder}: expected a Zarr array {path}, found none. {SOURCE_REMEDY}")

    def size_bytes(self) -> int | None:
        """Of all that lies in it; None where that would have to be asked of a remote storage."""
        return self.folder.total_bytes() if self.folder.is_local else None

    def open_array(self, path: str, driver: str, context: ts.Context) -> ts.TensorStore:
        """Opens an array for reading; a chunk that is missing is an error then, not the fill value.

        Raises:
            ValueError: tensorstore cannot read it.
        """
        spec = {
            "driver": driver,
            "kvstore": self._spec(f"{path}/").to_json(),
            "fill_missing_data_reads": False,
            "recheck_cached_data": "open",
        }
        return ts.open(spec, read=True, open=True, context=context).result()

    def open_files(self) -> ts.KvStore:
        """Opens the store for reading its files by their relative paths.

        Raises:
            ValueError: tensorstore cannot.
        """
        return ts.KvStore.open(self._spec("")).result()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Tells damaged content (DataError) from storage that fails (OSError), where an array is read."""
        try:
            yield
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise (DataError if _status(error) in _DAMAGED else OSError)(self.reason(error)) from error

    def reason(self, error: ValueError) -> str:
        """What tensorstore says, without its specification and without where the store lies."""
        text = re.sub(r"^[A-Z_]+: ", "", str(error).split(" [tensorstore_spec=")[0].split(" [source locations=")[0])
        place = self.folder.url.rstrip("/") + "/"
        return text.replace(f'local file "{place}', '"').replace(place, "")

    def _spec(self, path: str) -> ts.KvStore.Spec:
        url = self.folder.url
        at = {"driver": "file", "path": url} if self.folder.is_local else ts.KvStore.Spec(url).to_json()
        if self.is_zip:
            return ts.KvStore.Spec({"driver": "zip", "base": at, "path": path})
        return ts.KvStore.Spec({**at, "path": f"{at['path'].rstrip('/')}/{path}"})

    @contextlib.contextmanager
    def _finding(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"{self.folder}: cannot be read as a Zarr group: {self.reason(error)}. Is it complete, and reachable?"
            ) from error


def new_context() -> ts.Context:
    """What one reader keeps: a bounded cache of chunks, and a thread to decode them, as Beam has one a core."""
    return ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}, "data_copy_concurrency": {"limit": 1}})


def _status(error: ValueError) -> str:
    return str(error).split(":", 1)[0]
