"""Batches in a true shuffle, and positions that can be left and taken up again exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from predecode.reader import WindowDataset, WindowLoader
from predecode.transforms.errors import UsageError
from tests.reader.conftest import Materialized

NUM_WINDOWS = 58


@pytest.fixture(scope="module")
def dataset(materialized: Materialized) -> WindowDataset:
    return WindowDataset(str(materialized("zoo_v30", "contiguous", None)), return_uint8=True)


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_batches_are_what_collating_the_items_gives(dataset: WindowDataset) -> None:
    for batch in WindowLoader(dataset, 16, num_threads=3):
        expected = default_collate([dataset[index] for index in batch["index"].tolist()])
        assert list(batch) == list(expected)
        for key, value in expected.items():
            same = torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value
            assert same, key


def test_floats_too(materialized: Materialized) -> None:
    floats = WindowDataset(str(materialized("zoo_v30", "contiguous", None)))
    batch = next(iter(WindowLoader(floats, 8)))
    expected = default_collate([floats[index] for index in batch["index"].tolist()])
    assert torch.equal(batch["observation.images.cam"], expected["observation.images.cam"])


def test_each_epoch_is_another_permutation_and_the_same_for_the_same_seed(dataset: WindowDataset) -> None:
    loader = WindowLoader(dataset, 10, seed=3)
    epochs = [flat(indices(loader)) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_WINDOWS))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = WindowLoader(dataset, 7, seed=3, num_threads=1, prefetch_batches=0)
    again.set_epoch(1)
    assert flat(indices(again)) == epochs[1]
    assert flat(indices(WindowLoader(dataset, 10, seed=4))) != epochs[0]


def test_without_shuffle_it_is_the_datasets_order(dataset: WindowDataset) -> None:
    loader = WindowLoader(dataset, 25, shuffle=False)
    assert flat(indices(loader)) == flat(indices(loader)) == list(range(NUM_WINDOWS))
    assert len(loader) == 3
    assert len(WindowLoader(dataset, 25, drop_last=True)) == 2


def test_a_windowed_order_reads_shards_in_turn_and_each_window_once(dataset: WindowDataset) -> None:
    loader = WindowLoader(dataset, 5, shuffle="windowed", window_shards=1, seed=1)
    epochs = [flat(indices(loader)) for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(NUM_WINDOWS))
    assert epochs[0] != epochs[1]
    shards = dataset._index.locate(np.array(epochs[0])).shard
    assert np.count_nonzero(np.diff(shards)) == len(set(shards.tolist())) - 1
    resumed = WindowLoader(dataset, 5, shuffle="windowed", window_shards=1, seed=1)
    stopped = WindowLoader(dataset, 5, shuffle="windowed", window_shards=1, seed=1)
    seen = next(iter(stopped))["index"].tolist()
    resumed.load_state_dict(stopped.state_dict())
    assert seen + flat(indices(resumed)) == epochs[0]
    with pytest.raises(UsageError, match="'windowed', got 'buffered'"):
        WindowLoader(dataset, 5, shuffle="buffered")  # type: ignore[arg-type]


def test_stopping_anywhere_and_going_on_is_as_if_nothing_had_happened(dataset: WindowDataset) -> None:
    whole = WindowLoader(dataset, 9, seed=1)
    expected = indices(whole) + indices(whole)
    for stop in range(len(expected) + 1):
        loader = WindowLoader(dataset, 9, seed=1)
        seen: list[list[int]] = []
        while len(seen) < stop:
            for batch in loader:
                seen.append(batch["index"].tolist())
                if len(seen) == stop:
                    break
        state = json.loads(json.dumps(loader.state_dict()))
        assert len(json.dumps(state)) < 1024
        resumed = WindowLoader(dataset, 9, seed=1)
        resumed.load_state_dict(state)
        while len(seen) < len(expected):
            seen += indices(resumed)
        assert seen == expected


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 4)])
def test_what_is_left_is_dealt_out_again_to_another_number_of_ranks(
    dataset: WindowDataset, before: int, after: int
) -> None:
    def ranks(world_size: int, **options: Any) -> list[WindowLoader]:
        return [
            WindowLoader(dataset, 4, seed=2, rank=rank, world_size=world_size, tail="exact", **options)
            for rank in range(world_size)
        ]

    seen: list[int] = []
    states = []
    for loader in ranks(before):
        batches = iter(loader)
        for _ in range(3):
            seen += next(batches)["index"].tolist()
        states.append(loader.state_dict())
    assert all(state == states[0] for state in states)
    for loader in ranks(after):
        loader.load_state_dict(states[0])
        seen += flat(indices(loader))
    assert sorted(seen) == list(range(NUM_WINDOWS))


def test_an_even_tail_gives_all_ranks_as_many_batches(dataset: WindowDataset) -> None:
    loaders = [WindowLoader(dataset, 8, rank=rank, world_size=3) for rank in range(3)]
    batches = [indices(loader) for loader in loaders]
    assert len({tuple(map(len, of_rank)) for of_rank in batches}) == 1
    seen = [index for of_rank in batches for index in flat(of_rank)]
    assert len(set(seen)) == len(seen) == NUM_WINDOWS - NUM_WINDOWS % 3


def test_a_state_of_another_loader_is_refused(dataset: WindowDataset, materialized: Materialized) -> None:
    state = WindowLoader(dataset, 8).state_dict()
    with pytest.raises(UsageError, match="seed is 0, here 1"):
        WindowLoader(dataset, 8, seed=1).load_state_dict(state)
    part = WindowDataset(str(materialized("zoo_v30", "contiguous", None)), episodes=[0, 1])
    with pytest.raises(UsageError, match="items is 58"):
        WindowLoader(part, 8).load_state_dict(state)
    with pytest.raises(UsageError, match="an epoch and a position"):
        WindowLoader(dataset, 8).load_state_dict({**state, "position": 59})


def test_random_transforms_do_not_depend_on_what_came_before(materialized: Materialized) -> None:
    def noisy(frames: torch.Tensor) -> torch.Tensor:
        return frames + torch.rand(())

    output = str(materialized("zoo_v30", "contiguous", None))
    whole = [batch["observation.img"] for batch in WindowLoader(WindowDataset(output, image_transforms=noisy), 9)]
    loader = WindowLoader(WindowDataset(output, image_transforms=noisy), 9)
    before = torch.random.get_rng_state()
    next(iter(loader))
    assert torch.equal(before, torch.random.get_rng_state())
    resumed = WindowLoader(WindowDataset(output, image_transforms=noisy), 9)
    resumed.load_state_dict(loader.state_dict())
    for batch, expected in zip(resumed, whole[1:], strict=True):
        assert torch.equal(batch["observation.img"], expected)


def test_a_device_is_moved_to(dataset: WindowDataset) -> None:
    batch = next(iter(WindowLoader(dataset, 2, device="meta")))
    assert batch["action"].device.type == "meta"
    assert isinstance(batch["task"], list)


def test_nonsense_is_refused(dataset: WindowDataset) -> None:
    with pytest.raises(UsageError, match="batch size"):
        WindowLoader(dataset, 0)
    with pytest.raises(UsageError, match="rank and world_size, or neither"):
        WindowLoader(dataset, 1, rank=0)
    with pytest.raises(UsageError, match="at least one thread"):
        WindowLoader(dataset, 1, num_threads=-1)
