"""A Zarr group, in a folder or a .zip, wherever tensorstore can read it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import tensorstore as ts

from predecode.transforms import patience
from predecode.transforms.credentials import without_secrets
from predecode.transforms.errors import (
    SOURCE_REMEDY,
    DataError,
    PredecodeError,
    SourceError,
    SourceNotFoundError,
    StorageError,
)
from predecode.transforms.patience import patiently
from predecode.transforms.sources.zarr_kvstore import CONTEXT, kvstore_spec
from predecode.transforms.sources.zarr_listing import GROUP_FILES, ZarrListing
from predecode.transforms.storage import Folder

Value = TypeVar("Value")

_DRIVERS = {"zarr.json": "zarr3", ".zarray": "zarr"}
"""By the name of an array's metadata: what tensorstore calls the two versions of the format."""

_CACHE_BYTES = 1 << 27
"""Decoded chunks that one reader keeps, at most: segments overlap, and begin amid chunks."""

_MAX_METADATA_BYTES = 1 << 20

_DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
"""Statuses by which tensorstore says that the content is bad. All others are storage that fails."""

_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED")

_READS_OF_DAMAGED = 3
"""So often what comes over a network must look damaged: an answer that was cut off looks like it, too."""

_DETAILS = re.compile(r" \[(?:tensorstore_spec|source locations|http_response_body|x-)")
"""Where the part of tensorstore's messages begins that is of no use to people."""

_NO_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error)


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

    def list_files(self) -> ZarrListing:
        """Looks at all that is there, and refuses what is no Zarr group.

        Raises:
            SourceNotFoundError: there is nothing, or no group.
            SourceError: it cannot be read.
            UsageError: a storage option that tensorstore cannot follow.
            StorageError: storage does not answer, or refuses.
        """
        kvstore_spec(self.folder)  # For what it refuses.
        if self.folder.is_local and not os.path.exists(self.folder.url):
            raise SourceNotFoundError(
                f"{self.folder}: there is no such file or folder. Expected a Zarr group, or a .zip of one. "
                "Is the path right?"
            )
        sizes = self._zip_sizes() if self.is_zip else self.folder.sizes()
        if not any(name in sizes for name in GROUP_FILES):
            raise SourceNotFoundError(
                f"{self.folder}: there is no Zarr group here: expected {' or '.join(GROUP_FILES)} at its top. "
                "Is this the folder that holds data/ and meta/?"
            )
        return ZarrListing(sizes)

    def driver(self, path: str, listing: ZarrListing) -> tuple[str, Mapping[str, Any]]:
        """tensorstore's driver for an array, and the array's metadata; not to be trusted.

        Raises:
            SourceError: there is no array, or its metadata are no JSON object.
        """
        for name, driver in _DRIVERS.items():
            if f"{path}/{name}" not in listing.sizes:
                continue
            where = f"{self.folder}: {path}/{name}"
            is_short = listing.sizes[f"{path}/{name}"] <= _MAX_METADATA_BYTES
            try:
                content = json.loads(self._read(f"{path}/{name}")) if is_short else None
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
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

    def open_array(self, path: str, driver: str, context: ts.Context) -> ts.TensorStore:
        """Opens an array for reading; a chunk that is missing is an error then, not the fill value.

        Raises:
            DataError: tensorstore cannot read it.
            OSError: storage fails.
        """
        spec = {
            "driver": driver,
            "kvstore": self._spec(f"{path}/").to_json(),
            "fill_missing_data_reads": False,
            "recheck_cached_data": "open",
        }

        def open_once(seconds: float | None, number: int) -> ts.TensorStore:
            # Again in the same context it would only join who waits for what hangs.
            of_this = context if number == 1 else new_context()
            return ts.open(spec, read=True, open=True, context=of_this).result(timeout=seconds)

        return self.attempt(path, open_once)

    def open_files(self, context: ts.Context) -> ts.KvStore:
        """Opens the store for reading its files by their relative paths.

        Raises:
            DataError: tensorstore cannot.
            OSError: storage fails.
        """
        spec = self._spec("")
        return self.attempt("", lambda seconds, _: ts.KvStore.open(spec, context=context).result(timeout=seconds))

    def attempt(self, path: str, call: Callable[[float | None, int], Value], *, num_bytes: int = 0) -> Value:
        """Makes a call to tensorstore; over a network until it goes well, by the policy of all storages.

        Args:
            path: What is read, for the message.
            call: Gets the seconds that it may take, None for any number, and how often it is made, this time included.
            num_bytes: How many it may have to move.

        Raises:
            DataError: what is there is damaged, or is not there; the text says only why.
            OSError: storage fails; a StorageError where it is remote.
        """
        if self.folder.is_local:
            with self._telling():
                return call(None, 1)
        reads = damaged = 0

        def call_once() -> Value:
            nonlocal reads, damaged
            reads += 1
            try:
                with self._telling():
                    return call(patience.PATIENCE.limit_seconds(num_bytes), reads)
            except DataError as error:
                damaged += 1
                if "missing" in str(error) or damaged == _READS_OF_DAMAGED:
                    raise
                raise OSError(str(error)) from error

        options = json.loads(self.folder.options_json)
        return patiently(f"Cannot read {self.folder.path(path)}", call_once, options=options)

    def reason(self, error: ValueError) -> str:
        """What tensorstore says, without its specification and without where the store lies."""
        text = re.sub(r"^[A-Z_]+: ", "", _DETAILS.split(str(error))[0])
        place = self.folder.url.rstrip("/") + "/"
        text = text.replace(f'local file "{place}', '"').replace(place, "")
        return without_secrets(text, json.loads(self.folder.options_json))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tells damaged content (DataError) from storage that refuses (PermissionError) or fails (another OSError)."""
        try:
            yield
        except PredecodeError:
            raise
        except ValueError as error:
            status = str(error).split(":", 1)[0]
            kind = DataError if status in _DAMAGED else PermissionError if status in _REFUSED else OSError
            # Without the cause: its text has the specification, with the headers that were given for a web server.
            raise kind(self.reason(error)) from None

    def _zip_sizes(self) -> dict[str, int]:
        try:
            with self.folder.open("") as file, zipfile.ZipFile(file) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        except PredecodeError:
            raise
        except FileNotFoundError as error:
            raise SourceNotFoundError(
                f"{self.folder}: there is no such file. Expected a .zip of a Zarr group. Is the path right?"
            ) from error
        except (*_NO_ZIP, OSError) as error:
            raise SourceError(
                f"{self.folder}: cannot be read as a Zarr group: {error}. Is it complete, and reachable?"
            ) from error
        # A path that leads elsewhere is nothing of the group's, and tensorstore has nothing under it.
        return {entry.filename: entry.file_size for entry in entries if ".." not in entry.filename.split("/")}

    def _read(self, name: str) -> bytes:
        """A small file that is there.

        Raises:
            SourceError: it cannot be read.
            StorageError: storage does not answer, or refuses.
        """
        try:
            if not self.is_zip:
                return self.folder.read(name)
            found = self.attempt(
                name, lambda seconds, _: self.open_files(new_context()).read(name).result(timeout=seconds)
            )
            return bytes(found.value)
        except (SourceError, StorageError):
            raise
        except (DataError, OSError) as error:
            raise SourceError(
                f"{self.folder}: cannot be read as a Zarr group: {name}: {error}. Is it complete, and reachable?"
            ) from error

    def _spec(self, path: str) -> ts.KvStore.Spec:
        at = kvstore_spec(self.folder)
        if self.is_zip:
            return ts.KvStore.Spec({"driver": "zip", "base": at, "path": path})
        return ts.KvStore.Spec({**at, "path": f"{at['path'].rstrip('/')}/{path}"})


def new_context() -> ts.Context:
    """What one reader keeps: a bounded cache of chunks, and a thread to decode them, as Beam has one a core."""
    return ts.Context(
        {"cache_pool": {"total_bytes_limit": _CACHE_BYTES}, "data_copy_concurrency": {"limit": 1}, **CONTEXT}
    )
