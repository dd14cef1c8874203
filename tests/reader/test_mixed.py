"""Several outputs read together: shares, exact passes, resume, ranks, and what does not go together."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from predecode.reader import MixedWindows, WindowDataset, WindowLoader
from predecode.reader.mixed import MixedOrder, share_out
from predecode.reader.permutation import Identity, Permutation
from predecode.transforms.errors import UsageError
from tests.reader.conftest import Materialized
from tests.reader.damage import damage_member

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def open_output(output: Path, **options: Any) -> WindowDataset:
    return WindowDataset(str(output), **{"return_uint8": True, **options})


@pytest.fixture(scope="module")
def output(materialized: Materialized) -> Path:
    return materialized("zoo_v30", "contiguous", None)


@pytest.fixture(scope="module")
def datasets(materialized: Materialized, output: Path) -> tuple[WindowDataset, WindowDataset]:
    """21 windows, and 37 others that are stored another way."""
    other = materialized("zoo_v30", "contiguous", 7, image_codec="zstd")
    return open_output(output, episodes=[1, 3]), open_output(other, episodes=[0, 2, 4, 5, 6])


@pytest.fixture(scope="module")
def mixed(datasets: tuple[WindowDataset, WindowDataset]) -> MixedWindows:
    return MixedWindows([(datasets[0], 2), (datasets[1], 1)], num_windows=45)


def seen(batches: Any) -> list[list[tuple[int, int]]]:
    """Per batch the numbers of dataset and frame of its items."""
    return [list(zip(batch["dataset_index"].tolist(), batch["index"].tolist(), strict=True)) for batch in batches]


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), num_windows=st.integers(0, 10**9))
def test_shares_add_up_and_are_within_one_of_the_weights(weights: list[float], num_windows: int) -> None:
    shares = share_out(num_windows, weights)
    assert sum(shares) == num_windows
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - num_windows * weight / sum(weights)) < 1 + 1e-6 * num_windows


@given(sizes=SIZES, data=st.data(), seed=st.integers(0, 9), first_epoch=st.integers(0, 50))
def test_no_window_comes_once_more_before_all_others_have_come(
    sizes: list[int], data: st.DataObject, seed: int, first_epoch: int
) -> None:
    shares = [data.draw(st.integers(1, 60)) for _ in sizes]
    starts = np.cumsum([0, *sizes])
    counts: Counter[int] = Counter()
    for epoch in range(4):
        order = MixedOrder(
            Permutation(sum(shares), seed=seed, epoch=epoch), sizes=sizes, shares=shares, seed=seed, epoch=epoch
        )
        items = order(np.arange(len(order)))
        which = np.searchsorted(starts, items, side="right") - 1
        assert np.bincount(which, minlength=len(sizes)).tolist() == shares
        counts.update(items.tolist())
        for start, stop in pairwise(starts):
            times = [counts[item] for item in range(start, stop)]
            assert max(times) - min(times) <= 1
    late = MixedOrder(Identity(sum(shares)), sizes=sizes, shares=shares, seed=seed, epoch=first_epoch)
    positions = np.arange(len(late))[::-1]
    assert late(positions).tolist() == late(positions[::-1])[::-1].tolist()


def test_batches_hold_what_the_datasets_give(mixed: MixedWindows) -> None:
    for batch in WindowLoader(mixed, 16, num_threads=3):
        pairs = zip(batch["dataset_index"].tolist(), batch["index"].tolist(), strict=True)
        items = [
            item_of(mixed.datasets[which], index) | {"dataset_index": torch.tensor(which)} for which, index in pairs
        ]
        expected = default_collate(items)
        assert list(batch) == list(expected)
        for key, value in expected.items():
            same = torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value
            assert same, key


def item_of(dataset: WindowDataset, index: int) -> dict[str, Any]:
    """The item whose frame has a number in the source."""
    return next(item for item in dataset if int(item["index"]) == index)


def test_an_epoch_has_the_shares_and_is_shuffled(mixed: MixedWindows) -> None:
    assert mixed.shares == (30, 15)
    loader = WindowLoader(mixed, 9, seed=3)
    assert len(loader) == 5
    epochs = [list(chain(*seen(loader))) for _ in range(7)]
    for epoch in epochs:
        assert Counter(which for which, _ in epoch) == {0: 30, 1: 15}
        assert epoch != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 7
    # 7 epochs ask for 210 windows of 21, 105 of 37: ten times each, and two or three times each.
    counts = Counter(chain(*epochs))
    assert {count for (which, _), count in counts.items() if which == 0} == {10}
    assert {count for (which, _), count in counts.items() if which == 1} == {2, 3}
    again = WindowLoader(mixed, 7, seed=3, num_threads=1, prefetch_batches=0)
    again.set_epoch(4)
    assert sorted(chain(*seen(again))) == sorted(epochs[4])
    assert list(chain(*seen(WindowLoader(mixed, 9, seed=4)))) != epochs[0]


def test_without_shuffle_datasets_come_one_after_the_other(mixed: MixedWindows) -> None:
    loader = WindowLoader(mixed, 10, shuffle=False)
    first, second = (list(chain(*seen(loader))) for _ in range(2))
    of_first = [int(item["index"]) for item in mixed.datasets[0]]
    assert [index for which, index in first if which == 0] == (of_first * 2)[:30]
    assert [index for which, index in second if which == 0] == (of_first * 4)[30:60]
    with pytest.raises(UsageError, match="shuffled as a whole"):
        next(iter(WindowLoader(mixed, 10, shuffle="windowed")))


def test_stopping_anywhere_and_going_on_is_as_if_nothing_had_happened(mixed: MixedWindows) -> None:
    whole = WindowLoader(mixed, 8, seed=1)
    expected = seen(whole) + seen(whole)
    for stop in range(len(expected) + 1):
        loader = WindowLoader(mixed, 8, seed=1)
        found: list[list[tuple[int, int]]] = []
        while len(found) < stop:
            for batch in loader:
                found += seen([batch])
                if len(found) == stop:
                    break
        state = json.loads(json.dumps(loader.state_dict()))
        assert len(json.dumps(state)) < 1024
        resumed = WindowLoader(mixed, 8, seed=1)
        resumed.load_state_dict(state)
        while len(found) < len(expected):
            found += seen(resumed)
        assert found == expected


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 4)])
def test_what_is_left_is_dealt_out_again_to_another_number_of_ranks(
    mixed: MixedWindows, before: int, after: int
) -> None:
    def ranks(world_size: int) -> list[WindowLoader]:
        return [
            WindowLoader(mixed, 4, seed=2, rank=rank, world_size=world_size, tail="exact") for rank in range(world_size)
        ]

    found: list[tuple[int, int]] = []
    states = []
    for loader in ranks(before):
        batches = iter(loader)
        found += chain(*seen(next(batches) for _ in range(3)))
        states.append(loader.state_dict())
    assert all(state == states[0] for state in states)
    for loader in ranks(after):
        loader.load_state_dict(states[0])
        found += chain(*seen(loader))
    assert sorted(found) == sorted(chain(*seen(WindowLoader(mixed, 4, seed=2))))


def test_a_state_of_another_mixture_is_refused(
    mixed: MixedWindows, datasets: tuple[WindowDataset, WindowDataset]
) -> None:
    state = WindowLoader(mixed, 4).state_dict()
    for other in (MixedWindows([(datasets[0], 1), (datasets[1], 1)], num_windows=45), mixed.datasets[0]):
        with pytest.raises(UsageError, match="belongs to another loader"):
            WindowLoader(other, 4).load_state_dict(state)


def test_as_a_map_style_dataset_it_has_all_windows(mixed: MixedWindows) -> None:
    assert len(mixed) == 58
    pairs = [(int(item["dataset_index"]), int(item["index"])) for item in mixed]
    assert pairs == [(which, int(item["index"])) for which, dataset in enumerate(mixed.datasets) for item in dataset]
    assert int(mixed[-1]["index"]) == pairs[-1][1]
    assert [int(item["index"]) for item in mixed.__getitems__([57, 0, 21, 20])] == [
        pairs[number][1] for number in (57, 0, 21, 20)
    ]
    with pytest.raises(IndexError, match="there are 58 windows"):
        mixed[58]
    assert seen(DataLoader(mixed, batch_size=58)) == [pairs]


def test_random_transforms_are_seeded_for_each_window(output: Path) -> None:
    def noisy(frames: torch.Tensor) -> torch.Tensor:
        return frames.float() + torch.rand(())

    parts = [(open_output(output, episodes=[number], image_transforms=noisy), 1.0) for number in (1, 2)]
    one, two = (next(iter(WindowLoader(MixedWindows(parts), 17, num_threads=threads))) for threads in (1, 3))
    assert torch.equal(one["observation.images.cam"], two["observation.images.cam"])


def test_damaged_windows_can_be_left_out(tmp_path: Path, output: Path) -> None:
    broken = Path(shutil.copytree(output, tmp_path / "broken"))
    damage_member(broken, 0, 0, "data.safetensors")
    mixed = MixedWindows([(open_output(output), 1), (open_output(broken), 1)])
    loader = WindowLoader(mixed, 8, on_error="skip")
    found = list(chain(*seen(loader)))
    assert loader.skipped.count > 0
    assert len(found) == 116 - loader.skipped.count
    assert Counter(which for which, _ in found)[0] == 58


def test_datasets_that_differ_are_refused_and_the_difference_is_named(materialized: Materialized, output: Path) -> None:
    first = open_output(output)
    smaller = materialized("zoo_v30", "contiguous", None, image_size=(16, 16))
    pusht = materialized("pusht_v30", "single", None, episodes="0:1")
    cases = [
        (
            open_output(smaller),
            r"the feature observation\.images\.cam is video uint8 \(16, 16, 3\).*expected .*\(48, 64",
        ),
        (open_output(output, delta_timestamps={"action": [0.0]}), r"is .* without deltas, expected .* at the deltas"),
        (open_output(output, return_uint8=False), "return_uint8 is False, expected True"),
        (open_output(output, image_transforms=torch.abs), "image_transforms is .*abs.*, expected not there"),
        (open_output(pusht), r"the feature observation\.images\.cam is not there, expected video"),
    ]
    for other, message in cases:
        with pytest.raises(UsageError, match=message):
            MixedWindows([(first, 1), (other, 1)])


@pytest.mark.parametrize(
    ("weights", "num_windows", "message"),
    [
        ([], None, "expected at least one dataset"),
        ([1, 0], None, "expected weights above 0, got 0"),
        ([1, float("nan")], None, "expected weights above 0, got nan"),
        ([1, True], None, "expected weights above 0, got True"),
        ([1, 1e-9], None, r"has 37 windows and 0 of the 58 of an epoch: expected at least one of each"),
        ([1, 1], 1, "Leave it out, raise its weight or num_windows"),
    ],
)
def test_weights_that_make_no_sense(
    weights: list[float], num_windows: int | None, message: str, datasets: tuple[WindowDataset, WindowDataset]
) -> None:
    with pytest.raises(UsageError, match=message):
        MixedWindows(list(zip(datasets, weights, strict=False)), num_windows=num_windows)
