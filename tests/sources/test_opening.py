"""What is refused when a dataset is opened, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predecode.transforms.errors import SourceError, SourceNotFoundError, UsageError
from predecode.transforms.sources.lerobot_info import PathTemplate
from tests.dirty import edit_feature, edit_info, edit_table, set_values
from tests.sources.reading import episode, open_at

CopyDataset = Callable[[str], Path]


def test_a_name_that_is_no_folder_says_how_to_download_it() -> None:
    with pytest.raises(
        SourceNotFoundError, match=r"hf download lerobot/pusht --repo-type dataset --local-dir"
    ) as error:
        open_at("lerobot/pusht")
    assert "hf://datasets/lerobot/pusht" in str(error.value)


def test_a_folder_without_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"meta/info\.json is missing"):
        open_at(tmp_path)
    with pytest.raises(SourceNotFoundError, match="no such folder"):
        open_at(tmp_path / "none")
    with pytest.raises(SourceNotFoundError, match=r"meta/info\.json is missing"):
        open_at("memory://nothing/here")


def test_version_1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data/info.json").write_text("{}")
    with pytest.raises(SourceNotFoundError, match=r"version 1\.x"):
        open_at(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "[" * 100_000])
def test_broken_info(copy_dataset: CopyDataset, text: str) -> None:
    root = copy_dataset("pusht_v30")
    (root / "meta/info.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"info\.json: expected"):
        open_at(root)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("codebase_version", "v1.6", "too old"),
        ("codebase_version", "v3.1", "not known"),
        ("codebase_version", "v4.0", "not known"),
        ("codebase_version", 3, "such as 'v3.0'"),
        ("codebase_version", None, "such as 'v3.0'"),
        ("fps", None, "expected fps"),
        ("fps", 0, "expected fps"),
        ("fps", 1e9, "expected fps"),
        ("fps", float("nan"), "expected fps"),
        ("fps", True, "expected fps"),
        ("fps", "10", "expected fps"),
        ("features", [], "expected `features`"),
        ("video_path", None, "expected a path"),
        ("video_path", "videos/{video_key.__class__}/{chunk_index}", "expected a path"),
        ("video_path", "videos/{video_key!r}/{chunk_index}", "expected a path"),
        ("video_path", "videos/{video_key}/{episode_chunk:03d}.mp4", "expected a path"),
        ("video_path", "videos/{video_key}/{file_index:0999999999d}.mp4", "expected a path"),
        ("video_path", "videos/{video_key}/{file_index:{chunk_index}}.mp4", "expected a path"),
        ("video_path", "videos/{video_key", "expected a path"),
        ("video_path", "../{video_key}/{file_index}.mp4", "inside the dataset"),
        ("video_path", "/etc/{video_key}", "inside the dataset"),
        ("video_path", "videos/\0{video_key}", "inside the dataset"),
        ("video_path", "s3://bucket/{video_key}", "inside the dataset"),
        ("video_path", "v" * 2000, "inside the dataset"),
    ],
)
def test_bad_info_v30(copy_dataset: CopyDataset, key: str, value: Any, message: str) -> None:
    root = copy_dataset("pusht_v30")
    edit_info(root, **{key: value})
    with pytest.raises(SourceError, match=message):
        open_at(root)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("chunks_size", 0, "expected chunks_size"),
        ("chunks_size", 2.5, "expected chunks_size"),
        ("video_path", "videos/{chunk_index:03d}/{video_key}.mp4", "expected a path"),
    ],
)
def test_bad_info_v21(copy_dataset: CopyDataset, key: str, value: Any, message: str) -> None:
    root = copy_dataset("pusht_v21")
    edit_info(root, **{key: value})
    with pytest.raises(SourceError, match=message):
        open_at(root)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("task_index", None, "expected a feature 'task_index'"),
        ("timestamp", {"dtype": "int64", "shape": [1]}, "float32"),
        ("frame_index", {"dtype": "int64", "shape": [2]}, r"shape \(1,\)"),
        ("task", {"dtype": "string", "shape": [1]}, "--exclude-features task"),
        ("words", {"dtype": "string", "shape": [3]}, "--exclude-features words"),
        ("said", {"dtype": "language", "shape": [1]}, "--exclude-features said"),
        ("../up", {"dtype": "float32", "shape": [1]}, "not safe"),
    ],
)
def test_bad_features(copy_dataset: CopyDataset, name: str, spec: dict[str, Any] | None, message: str) -> None:
    root = copy_dataset("pusht_v30")
    edit_feature(root, name, spec)
    with pytest.raises(SourceError, match=message):
        open_at(root)


def test_what_is_not_needed_is_not_believed(copy_dataset: CopyDataset) -> None:
    root = copy_dataset("pusht_v30")
    edit_info(root, total_episodes=-1, total_frames="many", chunks_size=None, data_path="../{x}", splits=None, tools=[])
    assert open_at(root).fps == 10


def test_a_version_without_v_and_no_chunks_size(copy_dataset: CopyDataset) -> None:
    root = copy_dataset("pusht_v21")
    edit_info(root, codebase_version="2.1", chunks_size=None)
    source = open_at(root)
    assert source.summary()["codebase_version"] == "v2.1"
    assert episode(source, 5).videos[0].path == "videos/chunk-000/observation.image/episode_000005.mp4"


def test_no_template_is_needed_without_video(copy_dataset: CopyDataset) -> None:
    root = copy_dataset("pusht_v30")
    edit_info(root, video_path=None)
    assert open_at(root, excluded=frozenset({"observation.image"})).fps == 10


def test_excluding_what_is_not_there() -> None:
    with pytest.raises(UsageError):
        open_at("lerobot/pusht", excluded=frozenset({"index"}))


def test_files_that_are_missing(copy_dataset: CopyDataset) -> None:
    root = copy_dataset("pusht_v30")
    source = open_at(root)
    for path in root.glob("data/*/*"):
        path.unlink()
    for path in root.glob("meta/episodes/*/*"):
        path.unlink()
    with pytest.raises(SourceError, match="data/"):
        list(source.data_files())
    with pytest.raises(SourceError, match="meta/episodes/"):
        list(source.metadata_files())
    (root / "meta/tasks.parquet").unlink()
    with pytest.raises(SourceError, match=r"tasks\.parquet"):
        open_at(root)
    old = copy_dataset("pusht_v21")
    old_source = open_at(old)
    (old / "meta/episodes.jsonl").unlink()
    with pytest.raises(SourceError, match=r"episodes\.jsonl"):
        list(old_source.metadata_files())
    (old / "meta/tasks.jsonl").unlink()
    with pytest.raises(SourceError, match=r"tasks\.jsonl"):
        open_at(old)


class TestTasks:
    """Section 1.5: by row position in v3.0, by number in v2.x."""

    def test_v30_goes_by_row_position(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        before = open_at(root).tasks
        numbers = pa.array([5, 0], type=pa.int64())
        edit_table(root / "meta/tasks.parquet", lambda table: table.set_column(0, "task_index", numbers))
        assert open_at(root).tasks == before

    @pytest.mark.parametrize("column", ["task", "__index_level_0__"])
    def test_v30_knows_the_names_of_the_column(self, copy_dataset: CopyDataset, column: str) -> None:
        root = copy_dataset("pusht_v30")
        pq.write_table(pa.table({"task_index": [0, 1], column: ["one", "two"]}), root / "meta/tasks.parquet")
        assert open_at(root).tasks == ("one", "two")

    def test_v30_without_strings(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        pq.write_table(pa.table({"task_index": [0, 1]}), root / "meta/tasks.parquet")
        with pytest.raises(SourceError, match="column of strings"):
            open_at(root)
        (root / "meta/tasks.parquet").write_bytes(b"nothing")
        with pytest.raises(SourceError, match="cannot be read"):
            open_at(root)

    def test_v21_goes_by_number(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v21")
        (root / "meta/tasks.jsonl").write_text(
            '{"task_index": 3, "task": "c"}\n\n{"task_index": 0, "task": "a"}\n{"task_index": 1, "task": "b"}\n'
        )
        assert open_at(root).tasks == ("a", "b", "", "c")

    @pytest.mark.parametrize("line", ["{", "7", '{"task_index": -1, "task": "x"}', '{"task_index": 1e99, "task": "x"}'])
    def test_v21_with_a_broken_line(self, copy_dataset: CopyDataset, line: str) -> None:
        root = copy_dataset("pusht_v21")
        (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "a"}\n' + line)
        with pytest.raises(SourceError, match="line 2"):
            open_at(root)

    def test_subtasks_where_there_are_some(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("zoo_v30")
        edit_feature(root, "subtask_index", {"dtype": "int64", "shape": [1]})
        for path in root.glob("data/*/*.parquet"):
            edit_table(path, lambda table: table.append_column("subtask_index", pa.array([1] * table.num_rows)))
        assert open_at(root).text_features == ("note", "task")
        pq.write_table(
            pa.table({"subtask_index": [0, 1], "subtask": ["reach", "grasp"]}), root / "meta/subtasks.parquet"
        )
        source = open_at(root)
        assert source.text_features == ("note", "task", "subtask")
        first = episode(source, 0)
        with source.reader(tolerance_s=1e-4) as reader:
            rows = reader.rows(first, 0, 2)
        assert rows["subtask"] == ["grasp", "grasp"]
        assert list(rows)[-2:] == ["task", "subtask"]
        assert open_at(root, excluded=frozenset({"subtask_index"})).text_features == ("note", "task")


class TestStats:
    def test_those_of_the_features(self, data_dir: Path) -> None:
        stats = open_at(data_dir / "zoo_v30", excluded=frozenset({"action"})).stats()
        assert stats is not None
        assert "action" not in stats
        assert np.allclose(stats["index"]["mean"], 28.5)

    def test_none_or_broken(self, copy_dataset: CopyDataset) -> None:
        assert open_at(copy_dataset("pusht_v21")).stats() is None
        root = copy_dataset("pusht_v30")
        (root / "meta/stats.json").write_text("{")
        with pytest.raises(SourceError, match=r"stats\.json: expected JSON"):
            open_at(root).stats()


def test_templates_accept_widths() -> None:
    template = PathTemplate.parse(
        "{video_key}/{file_index:03d}-{chunk_index:5}", ("video_key", "chunk_index", "file_index"), "x"
    )
    assert template.path(video_key="top", chunk_index=2, file_index=1) == "top/001-    2"


def test_set_values_is_used_with_lists(copy_dataset: CopyDataset) -> None:
    """The tool of other tests: a list of another length really is in the file."""
    root = copy_dataset("pusht_v30")
    set_values(root, "action", {1: [1.0, 2.0, 3.0]})
    assert pq.read_table(root / "data/chunk-000/file-000.parquet").column("action")[1].as_py() == [1.0, 2.0, 3.0]
