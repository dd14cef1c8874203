"""Rows of a LeRobot dataset, read plainly: what a certificate compares an output with.

Nothing here is shared with the job. It follows lerobot's rules of values: floats become float32, integers int64, a
declared shape (1,) a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predecode.transforms.errors import DataError
from predecode.transforms.storage import Folder

_BUFFER_BYTES = 1 << 16


class RowStream:
    """Some columns of a Parquet file, read a batch at a time; cheap as long as it is read forwards. For one thread."""

    def __init__(self, folder: Folder, path: str, columns: Sequence[str], *, batch_rows: int) -> None:
        """Opens the file.

        Raises:
            DataError: it is not Parquet, or lacks a column.
        """
        self._path, self._columns, self._batch_rows = path, list(columns), batch_rows
        self._bytes = folder.open(path)
        try:
            self._file = pq.ParquetFile(self._bytes, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        except pa.ArrowException as error:
            self._bytes.close()
            raise DataError(f"{path}: expected a Parquet file: {error}") from error
        if missing := [name for name in columns if name not in self._file.schema_arrow.names]:
            self.close()
            raise DataError(f"{path}: expected a column {missing[0]!r}, found {self._file.schema_arrow.names}.")
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group_starts = np.cumsum([0, *sizes])
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._first, self._batch = metadata.num_rows, None

    def close(self) -> None:
        """Closes the file."""
        self._bytes.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The whole file."""
        yield from self._from_group(0)

    def read(self, start_row: int, stop_row: int) -> pa.Table:
        """Rows of a half-open, not empty range.

        Raises:
            DataError: the file ends before.
        """
        pieces = []
        while start_row < stop_row:
            first, batch = self._batch_of(start_row)
            pieces.append(batch.slice(start_row - first, stop_row - start_row))
            start_row += pieces[-1].num_rows
        return pa.Table.from_batches(pieces)

    def _batch_of(self, row: int) -> tuple[int, pa.RecordBatch]:
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        if row < self._first or self._batch is None or self._group_starts[group] > self._first + len(self._batch):
            self._first, self._batch = int(self._group_starts[group]), None
            self._stream = self._from_group(group)
        while self._batch is None or row >= self._first + len(self._batch):
            self._first += 0 if self._batch is None else len(self._batch)
            self._batch = next(self._stream, None)
            if self._batch is None:
                raise DataError(f"{self._path}: expected a row {row}, the file ends before.")
        return self._first, self._batch

    def _from_group(self, group: int) -> Iterator[pa.RecordBatch]:
        groups = list(range(group, self._file.metadata.num_row_groups))
        try:
            for batch in self._file.iter_batches(self._batch_rows, groups, self._columns, use_threads=False):
                yield batch.select(self._columns)  # A column "a" also brings "a.b": the dot is taken for nesting.
        except pa.ArrowException as error:
            raise DataError(f"{self._path}: expected rows, got what cannot be read: {error}") from error


def item_dtype(declared: str) -> str:
    """The dtype that lerobot gives values in an item.

    >>> item_dtype("float64"), item_dtype("uint8"), item_dtype("bool")
    ('float32', 'int64', 'bool')
    """
    if declared.startswith("float"):
        return "float32"
    return "bool" if declared == "bool" else "int64"


def item_shape(declared: Sequence[int]) -> tuple[int, ...]:
    """The shape of one frame's value in an item.

    >>> item_shape([1]), item_shape([7]), item_shape([2, 3])
    ((), (7,), (2, 3))
    """
    return () if tuple(declared) == (1,) else tuple(declared)


def number_column(column: pa.ChunkedArray, spec: Mapping[str, Any], where: str) -> NDArray[Any]:
    """Values of a number feature: (rows, *item_shape) of its item dtype.

    Raises:
        DataError: a null, or another number of values than declared.
    """
    flat = _flat(column, where)
    shape = (len(column), *item_shape(spec["shape"]))
    if len(flat) != np.prod(shape):
        raise DataError(f"{where}: expected {shape} values, got {len(flat)}.")
    declared = flat.to_numpy(zero_copy_only=False).astype(spec["dtype"])
    with np.errstate(over="ignore"):  # What is beyond float32 becomes infinite, as in a tensor.
        return declared.astype(item_dtype(spec["dtype"])).reshape(shape)


def text_column(column: pa.ChunkedArray, where: str) -> list[str]:
    """Values of a string feature.

    Raises:
        DataError: a null, or not one string a row.
    """
    texts = _flat(column, where).cast(pa.string()).to_pylist()
    if len(texts) != len(column):
        raise DataError(f"{where}: expected one string a row, got {len(texts)} in {len(column)} rows.")
    return texts


def _flat(column: pa.ChunkedArray, where: str) -> pa.Array:
    """All values one behind the other, whatever lists they are in."""
    flat = column.combine_chunks()
    flat = flat.storage if isinstance(flat, pa.ExtensionArray) else flat
    while True:
        if flat.null_count:
            raise DataError(f"{where}: a value is null.")
        if not hasattr(flat, "flatten") or not hasattr(flat.type, "value_type") or pa.types.is_dictionary(flat.type):
            return flat
        flat = flat.flatten()
