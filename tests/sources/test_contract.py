"""What every source must do, whatever it reads from."""

from __future__ import annotations

import functools
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray

from predecode.transforms.episodes import Episode
from predecode.transforms.errors import UsageError
from predecode.transforms.features import Kind
from predecode.transforms.sources.base import Source
from predecode.transforms.storage import Folder
from tests.dirty import edit_info
from tests.sources.reading import episodes, open_at
from tests.sources.replay_buffers import arrays_of, write_buffer

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"

LAYOUTS = (
    "pusht_v30",
    "pusht_v21",
    "pusht_v20",
    "pusht_images_v30",
    "zoo_v30",
    "aloha_v30",
    "aloha_v21",
    "memory_v30",
    "memory_v21",
    "zarr_v2",
    "zarr_v3",
    "zarr_zip",
    "example_npz",
)


@dataclass
class Opened:
    reopen: Callable[..., Source]
    source: Source
    episodes: dict[int, Episode]


@pytest.fixture(scope="module", params=LAYOUTS)
def opened(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    """Each kind of source; `memory` is one that has no local path."""
    name = str(request.param)
    location: Path | str = data_dir / name
    if name == "pusht_v20":
        location = tmp_path_factory.mktemp("v20") / name
        fsspec.filesystem("file").copy(f"{data_dir}/pusht_v21/", f"{location}/", recursive=True)
        edit_info(Path(location), codebase_version="v2.0")
    memory = fsspec.filesystem("memory")
    if name.startswith("memory"):
        location = f"memory://contract/{name}"
        bundled = {"memory_v30": "zoo_v30", "memory_v21": "pusht_v21"}[name]
        memory.put(f"{data_dir}/{bundled}/", f"/contract/{name}/", recursive=True)
    reopen: Callable[..., Source] = open_at
    if name.startswith("zarr"):
        path = tmp_path_factory.mktemp(name) / ("made.zarr.zip" if name == "zarr_zip" else "made.zarr")
        arrays, ends = arrays_of(open_at(data_dir / "pusht_images_v30"))
        location = write_buffer(path, arrays, ends, version=3 if name == "zarr_v3" else 2)
        reopen = partial(open_at, fps=10.0, task="Push the T.")
    if name == "example_npz":
        location = tmp_path_factory.mktemp(name)
        write_npz(location, *arrays_of(open_at(data_dir / "pusht_images_v30")))
        reopen = open_example
    source = reopen(location)
    yield Opened(partial(reopen, location), source, episodes(source))
    if name.startswith("memory"):
        memory.rm("/contract", recursive=True)


def write_npz(folder: Path, arrays: Mapping[str, NDArray[Any]], ends: Sequence[int]) -> None:
    """What the example of docs/sources.md reads."""
    for index, (start, stop) in enumerate(pairwise([0, *ends])):
        parts: dict[str, Any] = {name: values[start:stop] for name, values in arrays.items()}
        np.savez(folder / f"episode_{index:06d}.npz", **parts)


def open_example(location: Path | str, **options: Any) -> Source:
    source: Source = example_module().NpzSource.open(Folder.of(str(location)), fps=10.0, **options)
    return source


@functools.cache
def example_module() -> ModuleType:
    """The code of docs/sources.md, as a module that can be pickled from."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    module = ModuleType("npz_example")
    sys.modules[module.__name__] = module
    exec(compile(code, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - the page is this project's own
    return module


class TestSource:
    def test_survives_pickling(self, opened: Opened) -> None:
        again = pickle.loads(pickle.dumps(opened.source))  # noqa: S301 - what a runner does
        assert again == opened.source
        assert list(again.data_files()) == list(opened.source.data_files())

    def test_summary_is_plain_json_and_independent_of_place(self, opened: Opened) -> None:
        text = json.dumps(opened.source.summary(), allow_nan=False)
        assert json.loads(text) == opened.source.summary()
        assert "pusht_v" not in text
        assert "memory" not in text

    def test_info_describes_the_features(self, opened: Opened) -> None:
        info = opened.source.info
        assert list(info["features"]) == [feature.name for feature in opened.source.features]
        assert info["fps"] == opened.source.fps
        assert "robot_type" in info

    def test_files_are_sorted_and_exist(self, opened: Opened) -> None:
        for paths in (list(opened.source.data_files()), list(opened.source.metadata_files())):
            assert paths == sorted(paths)
            assert all((opened.source.file_size(path) or 0) > 0 for path in paths)
        assert opened.source.file_size("data/none.parquet") is None

    def test_runs_cover_each_episode_once(self, opened: Opened) -> None:
        for episode in opened.episodes.values():
            frames = [
                frame for run in episode.runs for frame in range(run.first_frame, run.first_frame + run.num_frames)
            ]
            assert frames == list(range(episode.num_frames))

    def test_there_is_a_span_per_video_camera(self, opened: Opened) -> None:
        cameras = [feature.name for feature in opened.source.features if feature.kind is Kind.VIDEO]
        for episode in opened.episodes.values():
            assert [video.camera for video in episode.videos] == cameras
            assert all(video.start_seconds < video.stop_seconds for video in episode.videos)

    def test_rows_have_declared_keys_dtypes_and_shapes(self, opened: Opened) -> None:
        values = [feature for feature in opened.source.features if not feature.is_camera]
        with opened.source.reader(tolerance_s=1e-4) as reader:
            for episode in opened.episodes.values():
                rows = reader.rows(episode, 0, episode.num_frames)
                names = [feature.name for feature in values]
                assert list(rows) == names + [name for name in opened.source.text_features if name not in names]
                for feature in values:
                    got = rows[feature.name]
                    if isinstance(got, list):
                        assert feature.kind is Kind.STRING
                        assert len(got) == episode.num_frames
                    else:
                        assert got.dtype == feature.item_dtype
                        assert got.shape == (episode.num_frames, *feature.item_shape)
                assert np.array_equal(rows["frame_index"], np.arange(episode.num_frames))
                assert set(rows["episode_index"]) == {episode.index}
                tasks = [opened.source.tasks[int(index)] for index in rows["task_index"]]
                assert rows["task"] == tasks

    def test_any_range_equals_the_whole(self, opened: Opened) -> None:
        last = opened.episodes[max(opened.episodes)]
        with opened.source.reader(tolerance_s=1e-4) as reader:
            whole = reader.rows(last, 0, last.num_frames)
            for start, stop in ((3, 6), (0, 1), (2, 5), (last.num_frames - 1, last.num_frames), (1, 1)):
                part = reader.rows(last, start, stop)
                for name, values in part.items():
                    assert len(values) == stop - start
                    assert np.array_equal(values, whole[name][start:stop])

    def test_rows_outside_the_episode_are_refused(self, opened: Opened) -> None:
        episode = opened.episodes[0]
        with opened.source.reader(tolerance_s=1e-4) as reader, pytest.raises(IndexError, match="frames, not"):
            reader.rows(episode, 0, episode.num_frames + 1)

    def test_frames_are_images_and_do_not_depend_on_the_order_of_requests(self, opened: Opened) -> None:
        cameras = [feature.name for feature in opened.source.features if feature.is_camera]
        episode = opened.episodes[max(opened.episodes)]
        with opened.source.reader(tolerance_s=1e-4) as reader:
            for camera in cameras:
                every = list(reader.frames(episode, camera, range(episode.num_frames)))
                assert len(every) == episode.num_frames
                assert all(image.dtype == np.uint8 and image.ndim == 3 for image in every)
                for frames in ([5], [0, 1, 4], [episode.num_frames - 1]):
                    some = list(reader.frames(episode, camera, frames))
                    assert all(np.array_equal(image, every[frame]) for frame, image in zip(frames, some, strict=True))
                assert list(reader.frames(episode, camera, [])) == []

    def test_key_frames_begin_with_the_first(self, opened: Opened) -> None:
        cameras = [feature.name for feature in opened.source.features if feature.is_camera]
        episode = opened.episodes[0]
        with opened.source.reader(tolerance_s=1e-4) as reader:
            for camera in cameras:
                key_frames = reader.key_frames(episode, camera)
                assert key_frames[0] == 0
                assert key_frames == sorted(set(key_frames))
                assert key_frames[-1] < episode.num_frames

    def test_excluded_features_vanish(self, opened: Opened) -> None:
        excluded = next(feature.name for feature in opened.source.features if feature.is_camera)
        source = opened.reopen(excluded=frozenset({excluded, "action"}))
        names = [feature.name for feature in source.features]
        assert {excluded, "action"}.isdisjoint(names)
        assert list(source.info["features"]) == names
        assert list(source.summary()["features"]) == names
        episode = episodes(source)[0]
        assert excluded not in [video.camera for video in episode.videos]
        with source.reader(tolerance_s=1e-4) as reader:
            assert "action" not in reader.rows(episode, 0, 1)

    def test_columns_that_rows_are_found_by_cannot_be_excluded(self, opened: Opened) -> None:
        with pytest.raises(UsageError, match="task_index"):
            opened.reopen(excluded=frozenset({"task_index"}))
