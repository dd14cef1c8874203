"""The Parquet cursor: the right rows in any order of requests, in bounded memory."""

from __future__ import annotations

import io
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.transforms.errors import DataError
from predecode.transforms.rows import RowCursor, RowFile
from predecode.transforms.storage import Folder

NUM_ROWS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("rows")
    table = pa.table({"a": np.arange(NUM_ROWS), "a.b": np.arange(NUM_ROWS) * 2})
    with pq.ParquetWriter(path / "rows.parquet", table.schema) as writer:
        for start, stop in ((0, 1), (1, 40), (40, 90), (90, 100)):
            writer.write_table(table.slice(start, stop - start))
    return Folder.of(str(path))


def _rows(cursor: RowCursor, start: int, stop: int) -> list[int]:
    found: list[int] = []
    while start + len(found) < stop:
        piece = cursor.read(start + len(found), stop)
        assert piece.num_rows > 0
        found += piece.column("a").to_pylist()
    return found


@given(
    requests=st.lists(st.tuples(st.integers(0, NUM_ROWS - 1), st.integers(1, 30)), max_size=12),
    batch_rows=st.integers(1, 50),
)
def test_any_order_of_requests(folder: Folder, requests: list[tuple[int, int]], batch_rows: int) -> None:
    with RowFile(folder, "rows.parquet") as file:
        cursor = file.cursor(["a"], batch_rows=batch_rows)
        for start, length in requests:
            stop = min(start + length, NUM_ROWS)
            assert _rows(cursor, start, stop) == list(range(start, stop))


def test_columns_are_told_apart_by_their_whole_name(folder: Folder) -> None:
    with RowFile(folder, "rows.parquet") as file:
        assert file.cursor(["a"], batch_rows=10).read(0, 1).schema.names == ["a"]
        assert file.cursor(["a.b"], batch_rows=10).read(3, 4).column("a.b").to_pylist() == [6]


def test_the_cursor_of_the_same_columns_goes_on(folder: Folder) -> None:
    with RowFile(folder, "rows.parquet") as file:
        assert file.cursor(["a"], batch_rows=10) is file.cursor(["a"], batch_rows=10)
        assert file.cursor(["a"], batch_rows=10) is not file.cursor(["a.b"], batch_rows=10)


def test_rows_behind_the_end(folder: Folder) -> None:
    with (
        RowFile(folder, "rows.parquet") as file,
        pytest.raises(DataError, match="expected a row 100, got a file of 100"),
    ):
        file.cursor(["a"], batch_rows=10).read(100, 101)


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    images = [number.to_bytes(4, "big") * 5000 for number in range(3000)]
    options = {"compression": "none", "write_batch_size": 16, "use_dictionary": False}  # pages of about 1 MB
    pq.write_table(pa.table({"image": images}), tmp_path / "rows.parquet", **options)
    assert pq.read_metadata(tmp_path / "rows.parquet").row_group(0).total_byte_size > 60_000_000
    before = pa.total_allocated_bytes()
    most = 0
    reads: list[int] = []

    class Watched(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(-1 if size is None else size)
            reads.append(len(data))
            return data

    opened = mock.patch.object(Folder, "open", side_effect=lambda name: Watched(tmp_path / name))
    with opened, RowFile(Folder.of(str(tmp_path)), "rows.parquet") as file:
        cursor = file.cursor(["image"], batch_rows=8)
        for row in (0, 1, 5, 2999, *range(0, 3000, 10)):
            assert cursor.read(row, row + 1).column("image")[0].as_py() == images[row]
            most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 25_000_000  # 16 MB are kept
    assert max(reads) < 2_000_000  # bytes that Python holds are not counted above
