"""The stream under PyTorch's loaders: each window once, new orders, every worker at work, exact resume."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from predecode.reader import StreamingWindowDataset, WindowDataset
from predecode.transforms.errors import UsageError
from tests.reader.conftest import Materialized

NUM_WINDOWS = 58

Streams = Callable[..., StreamingWindowDataset]


@pytest.fixture(scope="module")
def streams(materialized: Materialized) -> Streams:
    root = str(materialized("zoo_v30", "contiguous", None))
    return lambda **options: StreamingWindowDataset("some/name", root, **options)


def indices(loader: Any) -> list[int]:
    return [int(index) for batch in loader for index in batch["index"].reshape(-1)]


def test_items_are_those_of_the_map_style_dataset(streams: Streams, materialized: Materialized) -> None:
    whole = WindowDataset(str(materialized("zoo_v30", "contiguous", None)))
    for item in streams():
        expected = whole[int(item["index"])]
        assert list(item) == list(expected)
        for key, value in expected.items():
            assert torch.equal(item[key], value) if isinstance(value, torch.Tensor) else item[key] == value


def test_it_has_what_lerobots_class_has(streams: Streams) -> None:
    stream = streams(episodes=[1, 3])
    assert (stream.num_frames, stream.num_episodes, stream.episodes, stream.fps) == (21, 2, [1, 3], 10)
    assert stream.repo_id == stream.meta.repo_id == "some/name"
    assert stream.features["observation.images.cam"]["shape"] == (48, 64, 3)
    assert stream.meta.camera_keys == ["observation.images.cam", "observation.images.wrist", "observation.img"]
    assert stream.stats["observation.images.cam"]["mean"].shape == (3, 1, 1)
    assert (stream.meta.total_frames, stream.meta.total_episodes) == (21, 2)
    whole = streams().meta
    of_1_and_3 = [*range(7, 19), *range(24, 33)]
    assert [whole.episodes["dataset_from_index"][episode] for episode in (1, 3)] == [7, 24]
    assert (whole.total_frames, whole.total_episodes, len(whole.episodes)) == (NUM_WINDOWS, 7, 7)
    assert sorted(indices(stream)) == of_1_and_3


def test_what_it_was_made_with_can_be_asked_for(streams: Streams, materialized: Materialized) -> None:
    root = materialized("zoo_v30", "contiguous", None)
    stream = streams(delta_timestamps={"action": [0.0, 0.3]}, revision="v3.0", buffer_size=7, shuffle=False, seed=5)
    assert stream.root == stream.meta.root == root
    assert stream.streaming_from_local
    assert (stream.delta_timestamps, stream.delta_indices) == ({"action": [0.0, 0.3]}, {"action": [0, 3]})
    assert (stream.revision, stream.buffer_size, stream.shuffle, stream.seed) == ("v3.0", 7, False, 5)
    assert stream.num_shards == len(list(root.glob("train/*.tar")))
    assert set(streams().delta_indices) == {
        key.removesuffix("_is_pad") for key in next(iter(streams())) if "_pad" in key
    }


def test_orders_are_drawn_from_a_generator_in_place_of_the_seed(streams: Streams) -> None:
    first, again, other = (indices(streams(rng=np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert sorted(first) == sorted(other) == list(range(NUM_WINDOWS))
    assert first == again != other
    assert first != indices(streams())


def test_transforms_see_every_camera_also_when_they_are_set_later(streams: Streams) -> None:
    """lerobot's class fails where a camera is stored images."""
    stream = streams(shuffle=False)
    plain = next(iter(stream))
    stream.image_transforms = torch.neg
    changed = next(iter(streams(shuffle=False, image_transforms=torch.neg)))
    stream.set_epoch(0)
    for item in (next(iter(stream)), changed):
        for camera in stream.meta.camera_keys:
            assert torch.equal(item[camera], -plain[camera])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 3])
def test_an_even_tail_gives_all_ranks_as_many_batches(streams: Streams, world_size: int, workers: int) -> None:
    epochs = []
    for rank in range(world_size):
        stream = streams(rank=rank, world_size=world_size, tail="even")
        context = "fork" if workers else None
        loader = DataLoader(stream, batch_size=4, num_workers=workers, multiprocessing_context=context)
        epochs.append([batch["index"].tolist() for batch in loader])
    assert len({tuple(map(len, batches)) for batches in epochs}) == 1
    seen = [index for batches in epochs for batch in batches for index in batch]
    assert len(set(seen)) == len(seen) == NUM_WINDOWS - NUM_WINDOWS % (world_size * max(workers, 1))
    with pytest.raises(UsageError, match="tail"):
        streams(tail="odd")


def test_without_shuffle_it_is_in_order(streams: Streams) -> None:
    assert indices(streams(shuffle=False)) == list(range(NUM_WINDOWS))


def test_what_an_index_makes_needless_is_accepted(streams: Streams) -> None:
    stream = streams(revision="v3.0", force_cache_sync=True, streaming=False, buffer_size=1, max_num_shards=1)
    assert sorted(indices(stream)) == list(range(NUM_WINDOWS))


def test_unknown_features_are_refused_with_those_there_are(streams: Streams) -> None:
    with pytest.raises(UsageError, match=r"no feature 'actoin'.*observation\.images\.cam"):
        streams(delta_timestamps={"actoin": [0.0]})


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("persistent", [False, True])
def test_every_worker_has_work_and_epochs_advance(streams: Streams, *, context: str, persistent: bool) -> None:
    loader = DataLoader(
        streams(), batch_size=4, num_workers=2, persistent_workers=persistent, multiprocessing_context=context
    )
    epochs = [indices(loader) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_WINDOWS))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    sizes = [len(batch["index"]) for batch in loader]
    assert len(sizes) == 2 * 8, "29 windows of each worker"


def test_set_epoch_gives_the_order_of_that_epoch(streams: Streams) -> None:
    stream = streams()
    first = indices(stream)
    assert indices(stream) != first
    stream.set_epoch(0)
    assert indices(stream) == first


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (2, 0), (3, 2), (59, 1)])
def test_each_window_once_over_all_ranks_and_workers(streams: Streams, world_size: int, workers: int) -> None:
    seen: list[int] = []
    for rank in range(world_size if world_size < 10 else 3):
        stream = streams(rank=rank, world_size=world_size)
        context = "fork" if workers else None
        seen += indices(DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context))
    assert len(set(seen)) == len(seen)
    if world_size < 10:
        assert sorted(seen) == list(range(NUM_WINDOWS))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_under_torchdatas_loader(streams: Streams, workers: int) -> None:
    def loader() -> Any:
        context = "fork" if workers else None
        return StatefulDataLoader(streams(), batch_size=5, num_workers=workers, multiprocessing_context=context)

    whole = loader()
    expected = [batch["index"].tolist() for batch in whole]
    for stop in (1, 4, len(expected) - 1):
        stopped = loader()
        seen = [batch["index"].tolist() for batch in islice(stopped, stop)]
        state = stopped.state_dict()
        resumed = loader()
        resumed.load_state_dict(state)
        seen += [batch["index"].tolist() for batch in resumed]
        assert seen == expected


def test_a_state_of_another_stream_is_refused(streams: Streams) -> None:
    state = streams().state_dict()
    with pytest.raises(UsageError, match="seed is 42, here 7"):
        streams(seed=7).load_state_dict(state)
