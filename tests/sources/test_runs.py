"""Frame runs: against a brute-force oracle, and the faults that rows show."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.transforms.episodes import FrameRun
from predecode.transforms.errors import SourceError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.sources import lerobot_runs
from predecode.transforms.sources.lerobot_runs import read_frame_runs
from predecode.transforms.storage import Folder
from tests import dirty
from tests.sources.reading import frame_runs, metadata, open_at

CopyDataset = Callable[[str], Path]

INDEXES = [
    Feature(name, Kind.NUMBER, "int64", (1,), "int64") for name in ("episode_index", "frame_index", "task_index")
]
TASKS = {"task_index": ("a", "b")}

_ROWS = st.lists(
    st.tuples(st.integers(-1, 2), st.none() | st.integers(-1, 5), st.none() | st.integers(-1, 3)), max_size=40
)


def _brute_force(rows: list[tuple[int, int | None, int | None]]) -> list[tuple[int, int, int, int | None, bool]]:
    """(episode, first row, frames, first frame or None, has a problem) of each run, row by row."""
    runs: list[tuple[int, int, int, int | None, bool]] = []
    previous: tuple[int, int | None] | None = None
    for row, (episode, frame, task) in enumerate(rows):
        faulty = episode < 0 or frame is None or frame < 0 or task is None or not 0 <= task < 2
        # a row without a number counts as its own row number, so that nulls stay together
        effective = row if frame is None else frame
        if previous == (episode, effective - 1):
            last = runs[-1]
            runs[-1] = (*last[:2], last[2] + 1, last[3], last[4] or faulty)
        else:
            runs.append((episode, row, 1, effective, faulty))
        previous = (episode, effective)
    return runs


@given(rows=_ROWS, batch_rows=st.integers(1, 8), group_rows=st.integers(1, 9))
def test_runs_are_those_of_brute_force(
    rows: list[tuple[int, int | None, int | None]], batch_rows: int, group_rows: int
) -> None:
    columns = [pa.array([row[at] for row in rows], type=pa.int64()) for at in range(3)]
    table = pa.table(columns, names=["episode_index", "frame_index", "task_index"])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(lerobot_runs, "_BATCH_ROWS", batch_rows):
        pq.write_table(table, f"{folder}/rows.parquet", row_group_size=group_rows)
        found = list(read_frame_runs(Folder.of(folder), "rows.parquet", INDEXES, TASKS))
    got = [(episode, run.first_row, run.num_frames, run.first_frame, bool(run.problem)) for episode, run in found]
    assert got == _brute_force(rows)
    assert all(type(number) is int for row in got for number in row[:4])


def test_a_column_of_nulls_is_one_run_an_episode(tmp_path: Path) -> None:
    columns = {
        "episode_index": pa.array(np.repeat([0, 1], 1000)),
        "frame_index": pa.nulls(2000, pa.int64()),
        "task_index": pa.array(np.zeros(2000, dtype=np.int64)),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    found = list(read_frame_runs(Folder.of(str(tmp_path)), "rows.parquet", INDEXES, TASKS))
    assert [(episode, run.num_frames) for episode, run in found] == [(0, 1000), (1, 1000)]
    assert "row 1000: expected a frame_index" in found[1][1].problem


def test_numbers_stored_as_floats(copy_dataset: CopyDataset) -> None:
    root = copy_dataset("pusht_v30")
    before = frame_runs(open_at(root))
    for column in ("episode_index", "frame_index", "task_index"):
        dirty.cast_column(root, column, pa.float64())
    assert frame_runs(open_at(root)) == before


def _problems(root: Path) -> dict[int, set[str]]:
    """Per episode what its runs complain of."""
    return {episode: {run.problem for run in runs} - {""} for episode, runs in frame_runs(open_at(root)).items()}


def _only(problems: dict[int, set[str]]) -> tuple[int, str]:
    """The one episode with a problem, and what that is."""
    ((episode, texts),) = [(episode, texts) for episode, texts in problems.items() if texts]
    (text,) = texts
    return episode, text


class TestFaults:
    def test_task_without_a_string(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "task_index", {220: 9})
        episode, problem = _only(_problems(root))
        assert episode == 1
        assert "row 220: task_index is 9, for which there is no string: the dataset lists 2" in problem

    def test_task_number_that_v21_does_not_list(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v21")
        (root / "meta/tasks.jsonl").write_text('{"task_index": 1, "task": "b"}\n')
        problems = _problems(root)
        assert [episode for episode, texts in problems.items() if texts] == [0, 2, 4]

    @pytest.mark.parametrize("column", ["task_index", "frame_index"])
    def test_nulls(self, copy_dataset: CopyDataset, column: str) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, column, {217: None})
        episode, problem = _only(_problems(root))
        assert (episode, f"row 217: expected a {column}, got null" in problem) == (1, True)

    def test_rows_of_no_episode(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "episode_index", {3: None})
        with pytest.raises(SourceError, match=r"file-000\.parquet: row 3: expected an episode_index"):
            _problems(root)
        dirty.drop_column(root, "episode_index")
        with pytest.raises(SourceError, match="expected a column episode_index"):
            _problems(root)

    def test_a_missing_column_concerns_all_episodes_of_the_file(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("zoo_v30")
        dirty.drop_column(root, "action")
        problems = _problems(root)
        assert [episode for episode, texts in problems.items() if texts] == [0, 1, 2, 3]
        assert "'action': expected one column, got 0. Leave it out with --exclude-features action." in min(problems[0])

    @pytest.mark.parametrize("column", ["frame_index", "task_index"])
    def test_a_missing_index_column(self, copy_dataset: CopyDataset, column: str) -> None:
        root = copy_dataset("pusht_v30")
        dirty.drop_column(root, column)
        assert all(column in min(texts) for texts in _problems(root).values())

    def test_a_column_of_another_type(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.edit_feature(root, "action", {"dtype": "float32", "shape": [3]})
        dirty.cast_column(root, "next.reward", pa.string())
        problem = min(_problems(root)[0])
        assert (
            "'action': expected float32 of shape (3,), as info.json declares, got a column of type fixed_size"
            in problem
        )
        assert "'next.reward': expected float32 of shape (1,)" in problem

    def test_not_parquet(self, copy_dataset: CopyDataset) -> None:
        for name, path in (("pusht_v30", dirty.DATA_FILE), ("pusht_v21", "data/chunk-000/episode_000002.parquet")):
            root = copy_dataset(name)
            (root / path).write_bytes((root / path).read_bytes()[:1000])
            with pytest.raises(SourceError, match=f"{path}: expected a Parquet file"):
                _problems(root)

    def test_damaged_pages(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        content = bytearray((root / dirty.DATA_FILE).read_bytes())
        content[4:-12000] = b"\xff" * (len(content) - 12004)
        (root / dirty.DATA_FILE).write_bytes(content)
        with pytest.raises(SourceError, match="episodes are unknown"):
            _problems(root)

    @pytest.mark.parametrize("num_sound_bytes", [0, 20_000])
    def test_storage_that_fails_is_no_fault_of_the_data(self, data_dir: Path, num_sound_bytes: int) -> None:
        """Neither where the footer is read nor where rows are."""
        source = open_at(data_dir / "pusht_v30")
        path = data_dir / "pusht_v30" / dirty.DATA_FILE

        class Flaky(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() < path.stat().st_size - num_sound_bytes:
                    raise TimeoutError("too slow")
                return super().read(-1 if size is None else size)

        with (
            mock.patch.object(Folder, "open", side_effect=lambda _: Flaky(path)),
            pytest.raises(TimeoutError, match="too slow"),
        ):
            list(source.read_frame_runs(dirty.DATA_FILE))


class TestOddButSound:
    def test_interleaved_episodes(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("zoo_v30")
        dirty.interleave_episodes(root, 0, 1)
        runs = frame_runs(open_at(root))
        assert len(runs[0]) > 5
        assert sum(run.num_frames for run in runs[0]) == 7
        assert sum(run.num_frames for run in runs[1]) == 12

    def test_episodes_over_several_files(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.split_data_file(root, [100, 300])
        runs = frame_runs(open_at(root))
        assert runs[0] == [
            FrameRun("data/chunk-000/file-000.parquet", 0, 0, 100),
            FrameRun("data/chunk-000/file-001.parquet", 0, 100, 116),
        ]

    def test_stale_file_index(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        before = frame_runs(open_at(root))
        dirty.stale_file_index(root)
        assert frame_runs(open_at(root)) == before
        assert not any(entry.problem for entry in metadata(open_at(root)).values())

    def test_gaps_and_duplicates_are_found_by_number(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.renumber_episodes(root, {5: 9, 4: 3})
        assert sorted(frame_runs(open_at(root))) == [0, 1, 2, 3, 9]
        assert len(frame_runs(open_at(root))[3]) == 2
        assert sorted(metadata(open_at(root))) == [0, 1, 2, 3, 9]

    def test_files_elsewhere_are_not_read(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        for extra in ("data/loose.parquet", "data/a/b/deep.parquet", "data/chunk-000/notes.txt"):
            (root / extra).parent.mkdir(parents=True, exist_ok=True)
            (root / extra).write_bytes(b"no")
        assert list(open_at(root).data_files()) == [dirty.DATA_FILE]
