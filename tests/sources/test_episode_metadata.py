"""Episode metadata: lengths, tasks, and where episodes lie in videos."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predecode.transforms.episodes import VideoSpan
from predecode.transforms.errors import SourceError
from tests import dirty
from tests.sources.reading import metadata, open_at

CopyDataset = Callable[[str], Path]

CAMERA = "observation.image"


def _problems(root: Path) -> dict[int, str]:
    return {index: entry.problem for index, entry in metadata(open_at(root)).items() if entry.problem}


class TestVersion30:
    def test_cameras_roll_over_at_different_points(self, data_dir: Path) -> None:
        entry = metadata(open_at(data_dir / "zoo_v30"))[4]
        assert (entry.num_frames, entry.tasks) == (11, ("task1",))
        assert entry.videos == (
            VideoSpan("observation.images.cam", "videos/observation.images.cam/chunk-000/file-001.mp4", 0.9, 2.0),
            VideoSpan("observation.images.wrist", "videos/observation.images.wrist/chunk-000/file-000.mp4", 3.3, 4.4),
        )

    def test_other_file_names(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.rename_video_files(root)
        source = open_at(root)
        assert source.file_size(metadata(source)[5].videos[0].path) == 340_971

    def test_files_that_are_not_there_or_not_parquet(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        (root / dirty.EPISODES_FILE).write_bytes(b"PAR1")
        with pytest.raises(SourceError, match=r"file-000\.parquet: expected a Parquet file"):
            metadata(open_at(root))

    @pytest.mark.parametrize("value", [float("nan"), None, -1, 0.5, 1e300, float("inf")])
    def test_video_columns_that_say_nothing(self, copy_dataset: CopyDataset, value: float | None) -> None:
        root = copy_dataset("pusht_v30")
        dirty.null_video_columns(root, CAMERA, episode=2, value=value)
        assert list(_problems(root)) == [2]
        assert "observation.image: expected a video file_index of 0 or more" in _problems(root)[2]
        assert metadata(open_at(root))[2].num_frames == 199

    def test_video_columns_that_are_missing(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.drop_column(root, f"videos/{CAMERA}/to_timestamp", path=dirty.EPISODES_FILE)
        problems = _problems(root)
        assert len(problems) == 6
        assert "expected video times 0 <= from < to, got from 0.0 to nan s" in problems[0]

    def test_spans_of_two_episodes_overlap(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.wrong_offsets(root, CAMERA, episode=3, seconds=-1.0)
        problems = _problems(root)
        assert sorted(problems) == [2, 3]
        assert "overlap those of episode 3" in problems[2]
        assert "overlap those of episode 2" in problems[3]

    def test_a_span_within_another(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.wrong_offsets(root, CAMERA, episode=5, seconds=-80.0)
        problems = _problems(root)
        assert sorted(problems) == [0, 5]
        assert "overlap those of episode 0" in problems[5]

    def test_less_than_half_a_frame_is_no_overlap(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.wrong_offsets(root, CAMERA, episode=3, seconds=-0.04)
        assert _problems(root) == {}

    def test_same_times_in_different_files_are_no_overlap(self, data_dir: Path) -> None:
        assert _problems(data_dir / "zoo_v30") == {}

    def test_a_video_shorter_than_its_rows(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.short_span(root, CAMERA, episode=1, num_frames=173, fps=10)
        problems = _problems(root)
        assert list(problems) == [1]
        assert "observation.image: the video has 173 frames for 174 rows" in problems[1]

    @pytest.mark.parametrize(("value", "message"), [(0, "got 0.0"), (-3, "got -3.0"), (None, "got nan")])
    def test_lengths(self, copy_dataset: CopyDataset, value: int | None, message: str) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "length", {4: value}, path=dirty.EPISODES_FILE)
        assert list(_problems(root)) == [4]
        assert f"expected a length of 1 or more, {message}" in _problems(root)[4]

    def test_columns_that_are_missing(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_images_v30")
        dirty.drop_column(root, "tasks", path=dirty.EPISODES_FILE)
        assert metadata(open_at(root))[0].tasks == ()
        dirty.drop_column(root, "length", path=dirty.EPISODES_FILE)
        assert len(_problems(root)) == 6
        dirty.drop_column(root, "episode_index", path=dirty.EPISODES_FILE)
        with pytest.raises(SourceError, match="row 0: expected an episode_index"):
            metadata(open_at(root))

    def test_negative_and_null_numbers(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "episode_index", {1: -4}, path=dirty.EPISODES_FILE)
        assert "expected an episode_index of 0 or more" in _problems(root)[-4]
        dirty.set_values(root, "episode_index", {1: None}, path=dirty.EPISODES_FILE)
        with pytest.raises(SourceError, match="row 1: expected an episode_index"):
            metadata(open_at(root))

    def test_several_files_and_an_empty_one(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        before = metadata(open_at(root))
        table = pq.read_table(root / dirty.EPISODES_FILE)
        folder = (root / dirty.EPISODES_FILE).parent
        for number, part in enumerate((table.slice(0, 4), table.slice(4), table.slice(0, 0))):
            pq.write_table(part, folder / f"file-{number:03d}.parquet")
        assert metadata(open_at(root)) == before

    def test_other_types_of_columns(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        before = metadata(open_at(root))
        for column in ("episode_index", "length", f"videos/{CAMERA}/chunk_index"):
            dirty.cast_column(root, column, pa.float64(), path=dirty.EPISODES_FILE)
        dirty.cast_column(root, "tasks", pa.large_list(pa.large_string()), path=dirty.EPISODES_FILE)
        assert metadata(open_at(root)) == before
        dirty.cast_column(root, f"videos/{CAMERA}/chunk_index", pa.string(), path=dirty.EPISODES_FILE)
        assert len(_problems(root)) == 6


class TestVersion21:
    def test_one_file_an_episode(self, data_dir: Path) -> None:
        entry = metadata(open_at(data_dir / "aloha_v21"))[1]
        assert entry.num_frames == 45
        assert [video.path for video in entry.videos] == [
            f"videos/chunk-000/observation.images.{camera}/episode_000001.mp4" for camera in ("top", "angle")
        ]
        assert [(video.start_seconds, video.stop_seconds) for video in entry.videos] == [(0.0, math.inf)] * 2

    def test_chunks(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v21")
        dirty.edit_info(root, chunks_size=2)
        assert metadata(open_at(root))[5].videos[0].path == "videos/chunk-002/observation.image/episode_000005.mp4"

    @pytest.mark.parametrize(
        "line", ["{", "3", '{"length": 3}', '{"episode_index": -1, "length": 2}', '{"episode_index": "0"}', "\xff"]
    )
    def test_broken_lines(self, copy_dataset: CopyDataset, line: str) -> None:
        root = copy_dataset("pusht_v21")
        with (root / "meta/episodes.jsonl").open("ab") as file:
            file.write(line.encode("latin-1"))
        with pytest.raises(SourceError, match=r"episodes\.jsonl: line 7"):
            metadata(open_at(root))

    @pytest.mark.parametrize("length", [0, -1, "null", '"3"', 1e300])
    def test_lengths(self, copy_dataset: CopyDataset, length: Any) -> None:
        root = copy_dataset("pusht_v21")
        with (root / "meta/episodes.jsonl").open("a") as file:
            file.write(f'{{"episode_index": 6, "length": {length}}}\n')
        problems = _problems(root)
        assert list(problems) == [6]
        assert "expected a length of 1 or more" in problems[6]
