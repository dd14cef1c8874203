"""Every value of the goldens of single items, from every bundled layout: what lerobot itself returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from predecode.transforms.sources.base import Source
from tests.sources.reading import episodes, open_at, read_golden, same
from tests.sources.replay_buffers import arrays_of, write_buffer


def _items(source: Source) -> list[dict[str, Any]]:
    """All items, in the order of lerobot's rows."""
    items: list[dict[str, Any]] = []
    with source.reader(tolerance_s=1e-4) as reader:
        for episode in episodes(source).values():
            rows = reader.rows(episode, 0, episode.num_frames)
            found = [{name: values[frame] for name, values in rows.items()} for frame in range(episode.num_frames)]
            for camera in [feature.name for feature in source.features if feature.is_camera]:
                images = reader.frames(episode, camera, range(episode.num_frames))
                for item, image in zip(found, images, strict=True):
                    item[camera] = image.transpose(2, 0, 1)
            items += found
    return items


@pytest.mark.parametrize("name", ["pusht_v30", "pusht_v21", "pusht_images_v30", "zoo_v30"])
def test_items_are_those_of_lerobot(data_dir: Path, name: str) -> None:
    expected, _ = read_golden(data_dir / "goldens" / f"{name}.single.safetensors.gz")
    source = open_at(data_dir / name)
    items = _items(source)
    keys = {key.split("/", 1)[1] for key in expected}
    assert keys == set(items[0])
    wrong = [key for key, value in expected.items() if not same(_value(items, key), value)]
    assert wrong == []


@pytest.mark.parametrize("version", [2, 3])
def test_items_of_a_replay_buffer_of_the_same_data_are_those_of_lerobot(
    data_dir: Path, tmp_path: Path, version: int
) -> None:
    expected, _ = read_golden(data_dir / "goldens" / "pusht_images_v30.single.safetensors.gz")
    arrays, ends = arrays_of(open_at(data_dir / "pusht_images_v30"))
    path = write_buffer(tmp_path / "made.zarr", arrays, ends, version=version)
    items = _items(open_at(path, fps=10.0, task="Push the T."))
    keys = {key.split("/", 1)[1] for key in expected}
    assert keys == set(items[0])
    # a replay buffer has one task
    wrong = [key for key, value in expected.items() if "/task" not in key and not same(_value(items, key), value)]
    assert wrong == []
    assert {item["task"] for item in items} == {"Push the T."}
    assert {int(item["task_index"]) for item in items} == {0}


def _value(items: list[dict[str, Any]], key: str) -> NDArray[Any] | str:
    item, name = key.split("/", 1)
    value: NDArray[Any] | str = items[int(item)][name]
    return value


def test_both_versions_of_one_dataset_hold_the_same(data_dir: Path) -> None:
    for old, new in (("pusht_v21", "pusht_v30"), ("aloha_v21", "aloha_v30")):
        sources = [open_at(data_dir / name) for name in (old, new)]
        summaries = [source.summary() for source in sources]
        assert [summary.pop("codebase_version") for summary in summaries] == ["v2.1", "v3.0"]
        assert summaries[0] == summaries[1]
        old_items, new_items = (_rows(source) for source in sources)
        assert all(same(old_items[key], value) for key, value in new_items.items())


def _rows(source: Source) -> dict[str, NDArray[Any]]:
    with source.reader(tolerance_s=1e-4) as reader:
        return {
            f"{episode.index}/{name}": values
            for episode in episodes(source).values()
            for name, values in reader.rows(episode, 0, episode.num_frames).items()
            if not isinstance(values, list)
        }
