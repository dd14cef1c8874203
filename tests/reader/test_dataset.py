"""What a WindowDataset offers beyond the items themselves: choices, indices, collation."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from predecode.reader import WindowDataset
from predecode.reader.episode_table import EpisodeTable
from predecode.transforms.errors import FormatError, UsageError
from tests.reader.conftest import Materialized


@pytest.fixture(scope="module")
def output(materialized: Materialized) -> str:
    """zoo_v30 with the windows of "contiguous", as runs."""
    return str(materialized("zoo_v30", "contiguous", None))


@pytest.fixture(scope="module")
def whole(output: str) -> WindowDataset:
    return WindowDataset(output)


def test_indices_are_those_of_a_sequence(whole: WindowDataset) -> None:
    assert (len(whole), whole.num_frames, whole.num_episodes, whole.fps) == (58, 58, 7, 10)
    assert whole[-1]["index"] == whole[57]["index"] == 57
    assert whole[-58]["index"] == 0
    for index in (58, -59):
        with pytest.raises(IndexError, match="there are 58 windows"):
            whole[index]
    with pytest.raises(TypeError):
        whole["0"]  # type: ignore[index]


def test_several_items_at_once_are_the_single_ones(whole: WindowDataset) -> None:
    indices = [57, 0, 31, 31, 8]
    for item, index in zip(whole.__getitems__(indices), indices, strict=True):
        single = whole[index]
        assert list(item) == list(single)
        for key, value in single.items():
            assert torch.equal(item[key], value) if isinstance(value, torch.Tensor) else item[key] == value


def test_episodes_are_a_selection_in_their_order(output: str, whole: WindowDataset) -> None:
    chosen = WindowDataset(output, episodes=[4, 1])
    assert chosen.episodes == [1, 4]
    expected = [int(item["index"]) for item in whole if int(item["episode_index"]) in (1, 4)]
    assert [int(item["index"]) for item in chosen] == expected
    with pytest.raises(UsageError, match=r"0 to 6; got \[7\]"):
        WindowDataset(output, episodes=[7])


def test_metadata_counts_the_selections_own_items(output: str, whole: WindowDataset) -> None:
    """As lerobot's samplers take it: row by number of the episode, items by number in the dataset."""
    chosen = WindowDataset(output, episodes=[4, 1])
    episodes = chosen.meta.episodes
    assert (len(episodes), chosen.meta.total_episodes, chosen.meta.total_frames) == (5, 2, len(chosen))
    assert episodes["dataset_from_index"] == [0, 0, 12, 12, 12]
    assert episodes["dataset_to_index"] == [0, 12, 12, 12, 23]
    for episode in (1, 4):
        row = episodes[episode]
        items = range(row["dataset_from_index"], row["dataset_to_index"])
        assert {int(chosen[item]["episode_index"]) for item in items} == {episode}
        assert row == whole.meta.episodes[episode] | {key: row[key] for key in row if key.startswith("dataset_")}
    assert episodes[-1] == episodes[4]
    assert episodes[0]["tasks"] == []
    with pytest.raises(IndexError, match="below 5, got 5"):
        episodes[5]
    with pytest.raises(KeyError, match="got 'frames'"):
        episodes["frames"]
    far = EpisodeTable(pa.table({"episode_index": [1, 1 << 40], "length": [5, 2], "tasks": [["push"], ["pull"]]}))
    assert (far[1 << 40]["dataset_from_index"], far[1 << 39]["length"]) == (5, 0)
    with pytest.raises(FormatError, match="got 1099511627776"):
        far["length"]
    assert chosen.absolute_to_relative_idx is None


def test_metadata_of_a_split_has_rows_for_the_episodes_of_the_other(materialized: Materialized) -> None:
    output = materialized("zoo_v30", "single", None, validation_fraction=0.4)
    train, val = WindowDataset(output), WindowDataset(output, split="val")
    assert sorted([*train.episodes, *val.episodes]) == list(range(7))
    for dataset in (train, val):
        lengths = dataset.meta.episodes["length"]
        assert [episode for episode, length in enumerate(lengths) if length] == dataset.episodes
        assert sum(lengths) == dataset.meta.total_frames == len(dataset)
        last = dataset.meta.episodes[dataset.episodes[-1]]
        assert int(dataset[last["dataset_to_index"] - 1]["episode_index"]) == dataset.episodes[-1]


def test_what_it_was_made_with_can_be_asked_for(output: str, whole: WindowDataset) -> None:
    part = WindowDataset(output, delta_timestamps={"action": [0.3, 0.0]}, repo_id="some/name")
    assert (part.repo_id, whole.repo_id) == ("some/name", output)
    assert part.root == Path(output)
    assert (part.delta_indices, part.delta_timestamps) == ({"action": [3, 0]}, {"action": [0.3, 0.0]})
    assert list(part.meta.tasks.index) == ["task0", "task1", "task2"]
    assert part.meta.tasks is part.meta.tasks


def test_fewer_deltas_and_features_are_columns_of_the_whole(output: str, whole: WindowDataset) -> None:
    asked = {"action": [0.3, 0.0, 0.3], "observation.images.cam": [-0.1], "u8": [0.0]}
    part = WindowDataset(output, delta_timestamps=asked)
    for index in (0, 6, 7, 57):
        all_of_it, item = whole[index], part[index]
        assert torch.equal(item["action"], all_of_it["action"][[3, 0, 3]])
        assert torch.equal(item["action_is_pad"], all_of_it["action_is_pad"][[3, 0, 3]])
        assert torch.equal(item["observation.images.cam"], all_of_it["observation.images.cam"][1])
        assert torch.equal(item["observation.images.cam_is_pad"], all_of_it["observation.images.cam_is_pad"][[1]])
        assert torch.equal(item["observation.state"], all_of_it["observation.state"][1])
        assert torch.equal(item["observation.img"], all_of_it["observation.img"][1])
        assert torch.equal(item["u8"], all_of_it["u8"][None])
        assert not item["u8_is_pad"].any()
        masks = [key for key in item if key.endswith("_is_pad")]
        assert masks == ["action_is_pad", "observation.images.cam_is_pad", "u8_is_pad"]
        assert list(item)[-1] == "task"


def test_what_was_not_materialized_is_refused_with_what_there_is(output: str, materialized: Materialized) -> None:
    with pytest.raises(UsageError, match=r"'action' was not materialized at the deltas \[8\].*There are: \[0, 1"):
        WindowDataset(output, delta_timestamps={"action": [0.8]})
    with pytest.raises(UsageError, match=r"'f64' was materialized without a window"):
        WindowDataset(output, delta_timestamps={"f64": [0.1]})
    with pytest.raises(UsageError, match="there is no feature 'actoin'"):
        WindowDataset(output, delta_timestamps={"actoin": [0.0]})
    far = str(materialized("zoo_v30", "far", 7))
    with pytest.raises(UsageError, match=r"'observation.images.cam'.*the anchor's own frame is not there"):
        WindowDataset(far, delta_timestamps={"action": [0.0]})


def test_the_anchors_own_rows_are_there_without_a_delta_0(materialized: Materialized) -> None:
    plain = WindowDataset(str(materialized("zoo_v30", "single", 1)))
    unordered = WindowDataset(
        str(materialized("zoo_v30", "unordered", 1)), delta_timestamps={"observation.images.cam": [0.0]}
    )
    for index in (0, 20, 57):
        for name in ("f64", "observation.mat", "b3", "observation.state"):
            assert torch.equal(unordered[index][name], plain[index][name])


def test_frames_of_videos_stay_uint8_if_asked_and_stored_images_never_do(output: str, whole: WindowDataset) -> None:
    item, floats = WindowDataset(output, return_uint8=True)[3], whole[3]
    for camera in ("observation.images.cam", "observation.images.wrist"):
        assert item[camera].dtype == torch.uint8
        assert torch.equal(item[camera] / 255, floats[camera])
    assert torch.equal(item["observation.img"], floats["observation.img"])


def test_padding_with_zeros_changes_padded_slots_only(output: str, whole: WindowDataset) -> None:
    zeros = WindowDataset(output, pad="zeros")
    for index in (0, 6, 30):
        for name in ("action", "observation.images.cam", "next.done"):
            mask, edge, item = whole[index][f"{name}_is_pad"], whole[index][name], zeros[index][name]
            assert torch.equal(item[~mask], edge[~mask])
            assert not item[mask].any()
    assert whole[0]["observation.images.cam_is_pad"].any()


def test_image_transforms_see_the_whole_padded_tensor_of_each_camera(output: str, whole: WindowDataset) -> None:
    seen: list[tuple[int, ...]] = []

    def mirror(frames: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(frames.shape))
        return frames.flip(-1)

    item = WindowDataset(output, image_transforms=mirror)[0]
    assert seen == [(5, 3, 48, 64), (3, 32, 40), (2, 3, 16, 24)]
    assert torch.equal(item["observation.images.cam"], whole[0]["observation.images.cam"].flip(-1))
    assert torch.equal(item["action"], whole[0]["action"])


def test_dataloaders_collate_it_with_and_without_workers(whole: WindowDataset) -> None:
    expected = default_collate([whole[index] for index in range(4)])
    for workers in (0, 2):
        loader = DataLoader(
            whole, batch_size=4, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        batch = next(iter(loader))
        assert list(batch) == list(expected)
        for key, value in expected.items():
            assert torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value


def test_it_can_be_pickled_after_use(whole: WindowDataset) -> None:
    assert whole[5]["index"] == 5
    copy = pickle.loads(pickle.dumps(whole))  # noqa: S301 - Our own.
    assert torch.equal(copy[5]["observation.images.cam"], whole[5]["observation.images.cam"])


@pytest.mark.slow
def test_a_program_may_end_with_a_dataset_open(output: str) -> None:
    code = "import sys, predecode.reader as reader; dataset = reader.WindowDataset(sys.argv[1]); dataset[0]"
    done = subprocess.run([sys.executable, "-c", code, output], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_flipped_bit_in_a_shard_is_named(materialized: Materialized, tmp_path: Path) -> None:
    import shutil

    output = Path(shutil.copytree(materialized("zoo_v30", "contiguous", None), tmp_path / "out"))
    (tar,) = list(output.glob("train/shard-00000.tar"))
    content = bytearray(tar.read_bytes())
    # The middle of the largest member, which is some camera's.
    place = content.index(b"IDAT") + 10
    content[place] ^= 4
    tar.write_bytes(content)
    dataset = WindowDataset(str(output))
    failures = []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except FormatError as error:
            failures.append(str(error))
    assert failures
    assert all("shard-00000.tar" in message and "checksum does not fit" in message for message in failures)


def test_an_unfinished_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(FormatError, match="not finished"):
        WindowDataset(str(tmp_path))
    with pytest.raises(UsageError, match="pad"):
        WindowDataset(str(tmp_path), pad="mirror")  # type: ignore[arg-type]


def test_values_are_the_callers_own(whole: WindowDataset) -> None:
    first = whole[0]["observation.images.cam"]
    kept = first.clone()
    for index in range(1, 40):
        whole[index]
    assert torch.equal(first, kept)
    assert np.isfinite(kept.numpy()).all()
