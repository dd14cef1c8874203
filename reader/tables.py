"""The tables of an output, checked: files against their checksums, columns against their types. Nothing is copied."""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.reader.ranges import REMEDY, missing, open_ranges
from predecode.transforms.errors import FormatError
from predecode.transforms.format import MANIFEST_FILE
from predecode.transforms.storage import Folder

Condition: TypeAlias = NDArray[np.bool_] | bool

_MAGIC_BYTES = 8  # An Arrow file is a stream between its magic word and a footer, which is of no use here.
_INT32, _UINT32, _UINT16 = (struct.Struct(layout) for layout in ("<i", "<I", "<H"))


def map_file(folder: Folder, name: str, *, size_bytes: int, sha256: str | None) -> pa.Buffer:
    """Maps a local file into memory, or fetches one that is far away, and checks all of it.

    A mapped file stays what it was when another takes its name; it must not be changed in place.

    Args:
        folder: The output.
        name: Relative path.
        size_bytes: What it must have.
        sha256: What it must have, hexadecimal; None trusts it.

    Raises:
        FormatError: it is missing, or is not what was written.
        OSError: storage fails.
    """
    content = _map(folder, name, size_bytes) if folder.is_local else _fetch(folder, name, size_bytes)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise FormatError(f"{folder.path(name)} is damaged: its checksum does not fit. {REMEDY}")
    return pa.py_buffer(content)


def _map(folder: Folder, name: str, size_bytes: int) -> mmap.mmap | bytes:
    try:
        with folder.open(name) as file:
            found_bytes = file.seek(0, 2)
            require(found_bytes == size_bytes, f"{size_bytes} bytes, got {found_bytes}", where=folder.path(name))
            return mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ) if size_bytes else b""
    except (FileNotFoundError, NotADirectoryError):
        raise missing(folder, name) from None


def _fetch(folder: Folder, name: str, size_bytes: int) -> bytes | memoryview:
    (content,) = open_ranges(folder).read_ranges([(name, 0, size_bytes)])
    return content


def map_described(folder: Folder, manifest: Mapping[str, Any], name: str, *, verify: bool = True) -> pa.Buffer:
    """Maps or fetches a file whose size and checksum the manifest states: tables of splits, metadata.

    Raises:
        FormatError: the manifest does not know it, or it is not what was written.
        OSError: storage fails.
    """
    try:
        size_bytes, sha256 = (manifest["files"][name][key] for key in ("size_bytes", "sha256"))
    except (KeyError, TypeError) as error:
        raise FormatError(f"{folder.path(MANIFEST_FILE)} does not describe {name}: {error!r:.200}. {REMEDY}") from error
    if type(size_bytes) is not int or size_bytes < 0 or type(sha256) is not str:
        raise FormatError(f"{folder.path(MANIFEST_FILE)}: expected size and checksum of {name} in `files`. {REMEDY}")
    return map_file(folder, name, size_bytes=size_bytes, sha256=sha256 if verify else None)


def read_columns(content: pa.Buffer, types: Mapping[str, pa.DataType], *, where: str) -> dict[str, pa.Array]:
    """Columns of an Arrow IPC file.

    Args:
        content: Of the file.
        types: Of the columns wanted; the others are not looked at.
        where: What to call the file in messages.

    Returns:
        The columns, of the same length and without nulls.

    Raises:
        FormatError: the file is no such table.
    """
    try:
        _refuse_compressed(content)
        with pa.ipc.open_stream(content.slice(_MAGIC_BYTES)) as reader:
            table = reader.read_all()
        wrong = {name: _type_of(table, name) for name, wanted in types.items() if _type_of(table, name) != wanted}
        if wrong:
            raise FormatError(
                f"{where}: expected the columns {', '.join(f'{name}: {types[name]}' for name in wrong)}; got "
                f"{', '.join(f'{name}: {found}' for name, found in wrong.items())}. {REMEDY}"
            )
        table = table.select(list(types))
        table.validate(full=True)
        columns = {name: _array_of(table[name]) for name in types}
    except (pa.ArrowException, OSError, struct.error) as error:
        # OSError too: it is what Arrow calls an offset beyond the file.
        raise FormatError(f"{where} is damaged: {error!s:.200}. {REMEDY}") from error
    if any(_has_nulls(column) for column in columns.values()):
        raise FormatError(f"{where}: expected no missing values. {REMEDY}")
    return columns


def _refuse_compressed(content: pa.Buffer) -> None:
    """Looks at every batch before it is read: of a few bytes a compressed one could make any number.

    pyarrow does not tell, so that the one field is looked up in the message itself (Arrow's Message.fbs and Schema.fbs:
    a Message's header is its field 2; a RecordBatch's compression is its field 3, absent where there is none).
    """
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(content.slice(_MAGIC_BYTES))):
        if message.type == "schema":
            continue
        metadata = bytes(message.metadata)
        (root,) = _UINT32.unpack_from(metadata)
        header = _flatbuffer_field(metadata, root, 2)
        batch = header + _UINT32.unpack_from(metadata, header)[0]
        if message.type != "record batch" or _flatbuffer_field(metadata, batch, 3):
            raise pa.ArrowInvalid("its columns are compressed, expected them as they are in memory")


def _flatbuffer_field(content: bytes, table: int, number: int) -> int:
    """Where a field of a table of a flatbuffer lies; 0 where it is absent."""
    fields = table - _INT32.unpack_from(content, table)[0]
    entry = 4 + 2 * number
    is_there = entry < _UINT16.unpack_from(content, fields)[0]
    offset: int = _UINT16.unpack_from(content, fields + entry)[0] if is_there else 0
    return table + offset if offset else 0


def numbers(column: pa.Array, *, where: str) -> NDArray[Any]:
    """A column of numbers without copying.

    Raises:
        FormatError: the values do not lie as their type demands.
    """
    values: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    if values.ctypes.data % values.itemsize:
        raise FormatError(f"{where}: expected aligned columns. {REMEDY}")
    return values


def require(condition: Condition, expected: str, *, where: str) -> None:
    """Checks what a table says.

    Raises:
        FormatError: the condition, of one or of all rows, is not met.
    """
    if not np.all(condition):
        raise FormatError(f"{where}: expected {expected}. {REMEDY}")


def _type_of(table: pa.Table, name: str) -> pa.DataType | None:
    """None where there is no column of the name, or several."""
    place = table.schema.get_field_index(name)
    return None if place < 0 else table.schema.field(place).type


def _array_of(column: pa.ChunkedArray) -> pa.Array:
    """The one array that the job writes a column as, without copying; others are joined."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _has_nulls(column: pa.Array) -> bool:
    return bool(column.null_count or (pa.types.is_list(column.type) and column.values.null_count))
