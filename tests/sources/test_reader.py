"""What the reader does with each fault that only shows when rows and frames are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from predecode.transforms.episodes import Episode, FrameRun
from predecode.transforms.errors import DataError
from predecode.transforms.rows import RowFile
from predecode.transforms.sources import lerobot_reader
from predecode.transforms.sources.base import Rows, Source
from predecode.transforms.storage import Folder
from tests import dirty
from tests.sources.reading import episode, open_at

CopyDataset = Callable[[str], Path]

CAMERA = "observation.image"


def _rows(source: Source, of: Episode) -> Rows:
    with source.reader(tolerance_s=1e-4) as reader:
        return reader.rows(of, 0, of.num_frames)


def _frames(source: Source, of: Episode, camera: str = CAMERA, tolerance_s: float = 1e-4) -> list[np.ndarray]:
    with source.reader(tolerance_s=tolerance_s) as reader:
        return [image.copy() for image in reader.frames(of, camera, range(of.num_frames))]


def _equal(one: Rows, other: Rows) -> bool:
    return list(one) == list(other) and all(np.array_equal(values, other[name]) for name, values in one.items())


class TestRows:
    def test_nulls(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "next.reward", {220: None})
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 1, frame 4 \(data/.*, row 220\): feature 'next.reward' is null"):
            _rows(source, episode(source, 1))
        assert len(_rows(source, episode(source, 0))["task"]) == 216

    def test_a_vector_of_another_length(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "action", {217: [1.0, 2.0, 3.0]})
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 1, frame 1 \(.*'action': expected shape \(2,\), got a list of 3"):
            _rows(source, episode(source, 1))

    def test_a_task_without_a_string(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "task_index", {1: -1})
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 0, frame 1 .*task_index is -1, for which there is no string"):
            _rows(source, episode(source, 0))

    def test_a_missing_column(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.drop_column(root, "action")
        source = open_at(root)
        with pytest.raises(DataError, match=r"expected a column 'action'.*--exclude-features action"):
            _rows(source, episode(source, 0))
        without = open_at(root, excluded=frozenset({"action"}))
        assert "action" not in _rows(without, episode(without, 0))

    def test_another_type(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("zoo_v30")
        before = _rows(open_at(root), episode(open_at(root), 0))
        dirty.cast_column(root, "action", pa.list_(pa.float64()))
        dirty.cast_column(root, "note", pa.large_string())
        dirty.cast_column(root, "i32", pa.large_list(pa.int64()))
        source = open_at(root)
        assert _equal(before, _rows(source, episode(source, 0)))

    @pytest.mark.parametrize("index", [0, 1])
    def test_interleaved_episodes(self, copy_dataset: CopyDataset, index: int) -> None:
        root = copy_dataset("zoo_v30")
        before = _rows(open_at(root), episode(open_at(root), index))
        dirty.interleave_episodes(root, 0, 1)
        source = open_at(root)
        assert _equal(before, _rows(source, episode(source, index)))

    def test_rows_in_reverse(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("zoo_v30")
        before = _rows(open_at(root), episode(open_at(root), 3))
        dirty.reorder_rows(root, list(range(32, -1, -1)), row_group_size=5)
        source = open_at(root)
        of = episode(source, 3)
        assert len(of.runs) == 9
        assert _equal(before, _rows(source, of))

    def test_an_episode_over_many_files(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        of = episode(open_at(root), 0)
        before = (_rows(open_at(root), of), _frames(open_at(root), of))
        dirty.split_data_file(root, list(range(30, 216, 30)))
        source = open_at(root)
        assert len({run.path for run in episode(source, 0).runs}) == 8
        assert _equal(before[0], _rows(source, episode(source, 0)))
        assert np.array_equal(before[1], _frames(source, episode(source, 0)))

    def test_a_damaged_file(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        source = open_at(root)
        of = episode(source, 0)
        content = bytearray((root / dirty.DATA_FILE).read_bytes())
        content[4:2000] = b"\xff" * 1996
        (root / dirty.DATA_FILE).write_bytes(content)
        with pytest.raises(DataError, match=r"episode 0, frame 0 .*expected a Parquet file"):
            _rows(source, of)

    def test_memory_of_a_long_episode(self, tmp_path: Path, data_dir: Path) -> None:
        """100,000 rows in one row group: few are in memory at a time."""
        root = tmp_path / "long"
        fsspec.filesystem("file").copy(f"{data_dir}/zoo_v30/", f"{root}/", recursive=True)
        for name in ("observation.img", "observation.images.cam", "observation.images.wrist", "note"):
            dirty.edit_feature(root, name, None)
        dirty.edit_feature(root, "wide", {"dtype": "float32", "shape": [500]})
        dirty.split_data_file(root, [7])
        num_rows = 100_000
        table = pq.read_table(root / dirty.DATA_FILE).take(pa.array(np.zeros(num_rows, dtype=np.int64)))
        table = table.drop_columns(["observation.img", "note", "frame_index"])
        wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(500 * num_rows, dtype=np.float32)), 500)
        table = table.append_column("wide", wide).append_column("frame_index", pa.array(np.arange(num_rows)))
        pq.write_table(table, root / dirty.DATA_FILE, row_group_size=num_rows)
        del table, wide
        of = Episode(0, num_rows, (), (FrameRun(dirty.DATA_FILE, 0, 0, num_rows),), ())
        before = pa.total_allocated_bytes()
        peak = 0
        with open_at(root).reader(tolerance_s=1e-4) as reader:
            for start in range(0, num_rows, 2000):
                rows = reader.rows(of, start, start + 64)
                assert np.array_equal(rows["frame_index"], np.arange(start, start + 64))
                peak = max(peak, pa.total_allocated_bytes() - before)
        assert peak < 40_000_000  # the column "wide" alone is 200 MB


class TestFewFilesOpen:
    def test_files_are_closed(self, copy_dataset: CopyDataset) -> None:
        source = open_at(copy_dataset("pusht_v21"))
        opened: list[RowFile] = []
        closed: list[RowFile] = []

        class Counted(RowFile):
            def __init__(self, folder: Folder, path: str) -> None:
                super().__init__(folder, path)
                opened.append(self)

            def close(self) -> None:
                super().close()
                closed.append(self)

        known = [episode(source, index) for index in range(6)]
        with mock.patch.object(lerobot_reader, "RowFile", Counted), source.reader(tolerance_s=1e-4) as reader:
            for of in known:
                reader.rows(of, 0, 1)
            assert (len(opened), len(closed)) == (6, 4)
        assert len(closed) == 6


class TestVideoFrames:
    def test_missing_file(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.remove_video(root, CAMERA)
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 1, frame 0, camera 'observation.image': videos/.*no such file"):
            _frames(source, episode(source, 1))

    def test_truncated_file(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.truncate_video(root, CAMERA)
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 5, frame 0, camera 'observation.image'"):
            _frames(source, episode(source, 5))

    def test_video_shorter_than_its_rows(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v21")
        dirty.shorten_video(root, CAMERA, num_frames=200)
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 0, frame (19\d|20\d), camera 'observation.image'"):
            _frames(source, episode(source, 0))
        assert len(_frames(source, episode(source, 1))) == 174

    def test_times_behind_the_episode(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.jitter_timestamps(root, row=215, seconds=0.1)
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 0, frame 215, .*expected a time before 21.6 s"):
            _frames(source, episode(source, 0))

    def test_jittered_timestamps(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        before = _frames(open_at(root), episode(open_at(root), 0))
        dirty.jitter_timestamps(root, row=7)
        source = open_at(root)
        with pytest.raises(DataError, match=r"episode 0, frame \d+, camera 'observation.image'.*--tolerance-s"):
            _frames(source, episode(source, 0))
        assert np.array_equal(_frames(source, episode(source, 0), tolerance_s=0.04), before)

    def test_timestamps_that_are_none(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_v30")
        dirty.set_values(root, "timestamp", {7: float("nan")})
        source = open_at(root)
        with pytest.raises(DataError, match="episode 0, frame 7: expected a timestamp in seconds, got nan"):
            _frames(source, episode(source, 0))
        dirty.set_values(root, "timestamp", {7: None})
        with pytest.raises(DataError, match=r"episode 0, frame 7 .*'timestamp' is null"):
            _frames(source, episode(source, 0))

    def test_other_names_and_codecs(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("aloha_v21")
        before = _frames(open_at(root), episode(open_at(root), 0), "observation.images.top")
        dirty.reencode_video(root, "observation.images.top")
        source = open_at(root)
        after = _frames(source, episode(source, 0), "observation.images.top")
        assert np.abs(np.asarray(after, dtype=np.int16) - before).max() <= 3
        other = copy_dataset("pusht_v30")
        dirty.rename_video_files(other)
        assert len(_frames(open_at(other), episode(open_at(other), 5))) == 50

    def test_tolerance_allows_for_float32(self, copy_dataset: CopyDataset) -> None:
        """At 20,000 s a float32 is 1 ms apart: the time of a row cannot be more exact."""
        source = open_at(copy_dataset("pusht_v21"))
        of = episode(source, 0)
        video = mock.Mock()
        video.frames.return_value = iter(())
        with source.reader(tolerance_s=1e-4) as reader:
            timestamps = np.array([0.5, 20_000.1], dtype=np.float32)
            with (
                mock.patch.object(reader, "_timestamps", return_value=timestamps),
                mock.patch.object(reader, "_open_video", return_value=video),
                mock.patch.object(reader, "_videos", {of.videos[0].path: video, "close": None}),
            ):
                list(reader.frames(of, CAMERA, [0, 1]))
                seconds, tolerances_s = video.frames.call_args.args
                reader._videos = mock.Mock()  # type: ignore[attr-defined]
        assert seconds == [0.5, float(np.float32(20_000.1))]
        assert tolerances_s[0] == pytest.approx(1e-4, rel=1e-3)
        assert tolerances_s[1] == pytest.approx(1e-4 + 2**-10)


class TestStoredImages:
    def test_damaged(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_images_v30")
        dirty.break_image(root, CAMERA, row=218)
        source = open_at(root)
        with pytest.raises(
            DataError, match=r"episode 1, frame 2 \(.*row 218\), camera 'observation.image': expected an image"
        ):
            _frames(source, episode(source, 1))
        assert len(_frames(source, episode(source, 0))) == 216

    def test_bomb_and_modes(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_images_v30")
        dirty.image_bomb(root, CAMERA, row=0)
        dirty.other_image_mode(root, CAMERA, row=216, mode="I;16")
        dirty.set_values(root, CAMERA, {390: None, 589: {"bytes": None, "path": None}})
        source = open_at(root)
        for index, message in enumerate(("at most", "got mode I;16.*--exclude-features", "got null", "got null")):
            with pytest.raises(DataError, match=rf"episode {index}, frame 0 .*{message}"):
                _frames(source, episode(source, index))

    def test_paths(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_images_v30")
        buffer = io.BytesIO()
        Image.new("RGB", (5, 4), (1, 2, 3)).save(buffer, "PNG")
        (root / "images").mkdir()
        (root / "images/one.png").write_bytes(buffer.getvalue())
        paths = {0: "images/one.png", 216: "../../etc/passwd", 390: "images/none.png", 589: "/etc/passwd"}
        dirty.set_values(root, CAMERA, {row: {"bytes": None, "path": path} for row, path in paths.items()})
        source = open_at(root)
        with source.reader(tolerance_s=1e-4) as reader:
            (image,) = reader.frames(episode(source, 0), CAMERA, [0])
            assert image.shape == (4, 5, 3)
            assert image[0, 0].tolist() == [1, 2, 3]
            for index in (1, 2, 3):
                with pytest.raises(DataError, match=rf"episode {index}, frame 0 .*got only the path"):
                    list(reader.frames(episode(source, index), CAMERA, [0]))

    @pytest.mark.parametrize("field", ["bytes", "path"])
    def test_plain_columns(self, copy_dataset: CopyDataset, field: str) -> None:
        root = copy_dataset("pusht_images_v30")
        expected = _frames(open_at(root), episode(open_at(root), 5))
        for row, value in enumerate(pq.read_table(root / dirty.DATA_FILE).column(CAMERA).to_pylist()):
            (root / f"{row}.png").write_bytes(value["bytes"])

        def change(table: pa.Table) -> pa.Table:
            at = table.schema.get_field_index(CAMERA)
            values = table.column(CAMERA).to_pylist()
            plain = [value["bytes"] if field == "bytes" else f"{row}.png" for row, value in enumerate(values)]
            return table.set_column(at, CAMERA, pa.array(plain))

        dirty.edit_table(root / dirty.DATA_FILE, change)
        source = open_at(root)
        assert np.array_equal(_frames(source, episode(source, 5)), expected)

    def test_another_type(self, copy_dataset: CopyDataset) -> None:
        root = copy_dataset("pusht_images_v30")

        def change(table: pa.Table) -> pa.Table:
            at = table.schema.get_field_index(CAMERA)
            return table.set_column(at, CAMERA, pa.array(np.zeros(table.num_rows)))

        dirty.edit_table(root / dirty.DATA_FILE, change)
        source = open_at(root)
        with pytest.raises(DataError, match=r"expected image of shape .*column of type double"):
            _frames(source, episode(source, 0))
