"""Rows of Parquet files in bounded memory, however large a row group is."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from predecode.transforms.errors import DataError
from predecode.transforms.storage import Folder

_BUFFER_BYTES = 1 << 16
"""Read ahead per column: without it a whole column of a row group is in memory."""

_KEPT_BYTES = 1 << 24
_KEPT_BATCHES = 32
"""What a cursor keeps of what it has read, at most."""


class RowFile:
    """A Parquet file, open for reading."""

    def __init__(self, folder: Folder, path: str) -> None:
        """Opens the file and reads its footer.

        Raises:
            DataError: it is not Parquet, or damaged.
            OSError: storage fails.
        """
        self.path = path
        self._bytes = _WatchedFile(folder.open(path))
        try:
            with self._reading():
                self._file = pq.ParquetFile(self._bytes, pre_buffer=False, buffer_size=_BUFFER_BYTES)
                metadata = self._file.metadata
                sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
                self.schema: pa.Schema = self._file.schema_arrow
        except BaseException:
            self._bytes.close()
            raise
        self._group_starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._cursors: dict[tuple[str, ...], RowCursor] = {}

    @property
    def num_rows(self) -> int:
        """Rows in the file."""
        return int(self._group_starts[-1])

    def row_group_of(self, row: int) -> tuple[int, int]:
        """Number and first row of the row group that holds a row of the file."""
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        return group, int(self._group_starts[group])

    def batches(self, columns: Sequence[str], *, batch_rows: int, first_group: int = 0) -> Iterator[pa.RecordBatch]:
        """All rows from a row group on, a batch at a time.

        Raises:
            DataError: the file is damaged.
            OSError: storage fails.
        """
        groups = range(first_group, len(self._group_starts) - 1)
        with self._reading():
            for batch in self._file.iter_batches(batch_rows, list(groups), list(columns), use_threads=False):
                # a column "a" also selects "a.b", because pyarrow reads the dot as nesting
                yield batch.select(columns)

    def cursor(self, columns: Sequence[str], *, batch_rows: int) -> RowCursor:
        """The cursor over these columns: the same one each time, so that it can go on where it was."""
        key = tuple(columns)
        if key not in self._cursors:
            self._cursors[key] = RowCursor(self, key, batch_rows)
        return self._cursors[key]

    def close(self) -> None:
        """Closes the file."""
        self._cursors.clear()
        self._file.close()
        self._bytes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Tells damaged content (DataError) from storage that fails (what it raised)."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if self._bytes.failed or isinstance(error, MemoryError):
                raise
            raise DataError(f"{self.path}: expected a Parquet file, got what cannot be read as one: {error}") from error


class RowCursor:
    """Goes through some columns of a file, forwards at no cost.

    Parquet cannot start within a row group, so going back starts its row group again. The last batches are kept, up to
    16 MiB, because a request usually overlaps the one before it.
    """

    def __init__(self, file: RowFile, columns: tuple[str, ...], batch_rows: int) -> None:
        """Reads nothing yet; `RowFile.cursor` makes them."""
        self._file = file
        self._columns = columns
        self._batch_rows = batch_rows
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._stream_row = file.num_rows
        self._kept: deque[tuple[int, pa.RecordBatch]] = deque(maxlen=_KEPT_BATCHES)

    def read(self, start_row: int, stop_row: int) -> pa.RecordBatch:
        """The first rows of a half-open range, not empty: as many as one batch holds. To be called until all are there.

        Raises:
            DataError: the file is damaged, or ends before.
            OSError: storage fails.
        """
        first_row, batch = self._batch_that_holds(start_row)
        return batch.slice(start_row - first_row, stop_row - start_row)

    def _batch_that_holds(self, row: int) -> tuple[int, pa.RecordBatch]:
        for first_row, batch in reversed(self._kept):
            if first_row <= row < first_row + batch.num_rows:
                return first_row, batch
        if row >= self._file.num_rows:
            raise DataError(f"{self._file.path}: expected a row {row}, got a file of {self._file.num_rows} rows.")
        group, group_row = self._file.row_group_of(row)
        if row < self._stream_row or group_row > self._stream_row:
            self._kept.clear()
            self._stream = self._file.batches(self._columns, batch_rows=self._batch_rows, first_group=group)
            self._stream_row = group_row
        for batch in self._stream:
            found = (self._stream_row, batch)
            self._stream_row += batch.num_rows
            if row < self._stream_row:
                self._keep(found)
                return found
        raise DataError(f"{self._file.path}: expected {self._file.num_rows} rows, got {self._stream_row}.")

    def _keep(self, found: tuple[int, pa.RecordBatch]) -> None:
        self._kept.append(found)
        while len(self._kept) > 1 and sum(batch.get_total_buffer_size() for _, batch in self._kept) > _KEPT_BYTES:
            self._kept.popleft()


class _WatchedFile:
    """A file that remembers whether reading it failed: Arrow reports damaged content as OSError, too."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failed = False

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception:
            self.failed = True
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
