"""Damaged windows left out: those and no others, counted, logged, bounded, and without losing the position."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader
from predecode.reader.ranges import NearRanges, Range
from predecode.reader.skipping import read_around_damage
from predecode.transforms.errors import FormatError, UsageError
from tests.reader.conftest import Materialized
from tests.reader.damage import damage_member, unreadable

NUM_WINDOWS = 58
SAMPLES = {(0, 1, "json"), (1, 0, "observation.images.cam.frames"), (2, 1, "data.safetensors")}


@pytest.fixture(scope="module")
def output(materialized: Materialized, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two anchors a sample, in three shards; a member of some samples is damaged."""
    folder = tmp_path_factory.mktemp("damaged") / "output"
    shutil.copytree(materialized("zoo_v30", "contiguous", 2), folder)
    for shard, row, member in SAMPLES:
        damage_member(folder, shard, row, member)
    return str(folder)


@pytest.fixture(scope="module")
def damaged(output: str) -> dict[int, str]:
    found = unreadable(WindowDataset(output))
    assert 4 <= len(found) <= 6, "one or both windows of three samples"
    return found


@pytest.fixture(scope="module")
def dataset(output: str) -> WindowDataset:
    return WindowDataset(output)


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].reshape(-1).tolist() for batch in batches]


def without(batches: Sequence[Sequence[int]], damaged: dict[int, str]) -> list[list[int]]:
    kept = [[index for index in batch if index not in damaged] for batch in batches]
    return [batch for batch in kept if batch]


def whole(materialized: Materialized, batch_size: int, **options: Any) -> list[list[int]]:
    """The batches of the output when it was sound."""
    sound = WindowDataset(str(materialized("zoo_v30", "contiguous", 2)))
    return indices(WindowLoader(sound, batch_size, **options))


def test_what_is_asked_for_by_number_is_given_or_an_error(dataset: WindowDataset, damaged: dict[int, str]) -> None:
    for number, message in damaged.items():
        with pytest.raises(FormatError, match=r"shard-0000\d\.tar, sample \d{6}-\d{6}.*bytes \d+ to \d+"):
            dataset[number]
        with pytest.raises(FormatError):
            dataset.__getitems__([0 if 0 not in damaged else 1, number])
        assert "checksum does not fit" in message
    with pytest.raises(FormatError, match="are damaged"):
        list(WindowLoader(dataset, 8))


@pytest.mark.parametrize("batch_size", [1, 8, 58])
def test_batches_lack_the_damaged_windows_and_no_others(
    dataset: WindowDataset, damaged: dict[int, str], materialized: Materialized, batch_size: int
) -> None:
    loader = WindowLoader(dataset, batch_size, seed=1, num_threads=3, on_error="skip")
    assert loader.skipped.count == 0
    for epoch in range(2):
        expected = WindowLoader(
            WindowDataset(str(materialized("zoo_v30", "contiguous", 2))), batch_size, seed=1, num_threads=3
        )
        expected.set_epoch(epoch)
        assert indices(loader) == without(indices(expected), damaged)
        assert loader.skipped.count == len(damaged)
        assert set(loader.skipped.first) <= set(damaged.values())
        assert len(loader.skipped.first) == min(5, len(damaged))


def test_what_is_left_of_a_batch_is_right(dataset: WindowDataset) -> None:
    for batch in WindowLoader(dataset, 16, on_error="skip"):
        numbers = batch["index"].tolist()
        assert len(batch["task"]) == len(numbers)
        for place, number in enumerate(numbers):
            item = dataset[number]
            assert list(item) == list(batch)
            for key, value in item.items():
                got = batch[key][place]
                assert torch.equal(got, value) if isinstance(value, torch.Tensor) else got == value


def test_transforms_never_see_a_damaged_window(output: str, damaged: dict[int, str]) -> None:
    seen: list[torch.Tensor] = []

    def remember(frames: torch.Tensor) -> torch.Tensor:
        seen.append(frames.clone())
        return frames

    for _ in WindowLoader(WindowDataset(output, image_transforms=remember), 29, on_error="skip"):
        pass
    assert len(seen) == 3 * (NUM_WINDOWS - len(damaged))


def test_stopping_anywhere_and_going_on_skips_alike(
    dataset: WindowDataset, damaged: dict[int, str], materialized: Materialized
) -> None:
    expected = without(whole(materialized, 4), damaged)
    for stop in range(len(expected) + 1):
        loader = WindowLoader(dataset, 4, on_error="skip")
        seen = indices(islice(loader, stop))
        resumed = WindowLoader(dataset, 4, on_error="skip")
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert seen + (indices(resumed) if len(seen) < len(expected) else []) == expected


def test_ranks_take_the_same_steps(dataset: WindowDataset, damaged: dict[int, str], materialized: Materialized) -> None:
    loaders = [WindowLoader(dataset, 7, rank=rank, world_size=3, on_error="skip") for rank in range(3)]
    batches = [indices(loader) for loader in loaders]
    assert len({len(of_rank) for of_rank in batches}) == 1
    sound = [whole(materialized, 7, rank=rank, world_size=3) for rank in range(3)]
    assert batches == [without(of_rank, damaged) for of_rank in sound]
    assert sum(loader.skipped.count for loader in loaders) == len(damaged)
    states = [loader.state_dict() for loader in loaders]
    assert states[0] == states[1] == states[2]


def test_a_batch_of_nothing_is_left_out_by_one_rank_and_ends_the_pass_of_several(
    dataset: WindowDataset, damaged: dict[int, str]
) -> None:
    one = WindowLoader(dataset, 1, shuffle=False, on_error="skip")
    assert len(list(one)) == NUM_WINDOWS - len(damaged) < len(one)
    with pytest.raises(
        FormatError, match=r"A batch of 1 window is damaged throughout.*other ranks.*The first: .*checksum does not fit"
    ):
        list(WindowLoader(dataset, 1, shuffle=False, rank=min(damaged) % 2, world_size=2, on_error="skip"))


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_too_many_end_the_pass(dataset: WindowDataset, damaged: dict[int, str], output: str, allowed: int) -> None:
    message = (
        rf"{allowed + 1} windows are damaged, of 58 in an epoch: more than the {allowed} .* The first: .*sample \d"
    )
    with pytest.raises(FormatError, match=message):
        list(WindowLoader(dataset, 4, on_error="skip", max_skipped=allowed))
    with pytest.raises(FormatError, match=message):
        list(StreamingWindowDataset("name", output, on_error="skip", max_skipped=allowed))
    assert sum(map(len, indices(WindowLoader(dataset, 4, on_error="skip", max_skipped=len(damaged))))) > 0


def test_a_missing_shard_is_too_much_unless_it_is_allowed(materialized: Materialized, tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(materialized("zoo_v30", "contiguous", 2), output)
    (output / "train/shard-00001.tar").unlink()
    dataset = WindowDataset(str(output))
    missing = set(unreadable(dataset))
    assert len(missing) > 16
    with pytest.raises(FormatError, match=r"17 windows are damaged.*more than the 16 .*shard-00001\.tar is missing"):
        list(WindowLoader(dataset, 4, on_error="skip"))
    seen = chain(*indices(WindowLoader(dataset, 4, on_error="skip", max_skipped=NUM_WINDOWS)))
    assert sorted(seen) == sorted(set(range(NUM_WINDOWS)) - missing)


def test_what_storage_raises_is_never_skipped(
    dataset: WindowDataset, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: NearRanges, __: Sequence[Range]) -> list[bytes | memoryview]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(NearRanges, "read_ranges", fail)
    for reading in (
        WindowLoader(dataset, 4, on_error="skip", max_skipped=NUM_WINDOWS),
        StreamingWindowDataset("name", output, on_error="skip", max_skipped=NUM_WINDOWS),
    ):
        with pytest.raises(OSError, match="Input/output error"):
            list(reading)


def test_streams_lack_the_damaged_windows_and_no_others(
    output: str, damaged: dict[int, str], materialized: Materialized
) -> None:
    stream = StreamingWindowDataset("name", output, on_error="skip")
    sound = StreamingWindowDataset("name", str(materialized("zoo_v30", "contiguous", 2)))
    for _ in range(2):
        expected = [int(item["index"]) for item in sound]
        assert [int(item["index"]) for item in stream] == [index for index in expected if index not in damaged]
        assert stream.skipped.count == len(damaged)
    with pytest.raises(FormatError, match="are damaged"):
        list(StreamingWindowDataset("name", output))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_count_together(output: str, damaged: dict[int, str], *, persistent: bool) -> None:
    def loader(**options: Any) -> Any:
        stream = StreamingWindowDataset("name", output, on_error="skip", **options)
        return stream, DataLoader(
            stream, batch_size=3, num_workers=2, persistent_workers=persistent, multiprocessing_context="fork"
        )

    stream, batches = loader(max_skipped=len(damaged))
    for _ in range(3):
        assert sorted(chain(*indices(batches))) == sorted(set(range(NUM_WINDOWS)) - set(damaged))
        assert stream.skipped.count == len(damaged)
    _, batches = loader(max_skipped=len(damaged) - 1)
    with pytest.raises(FormatError, match=rf"more than the {len(damaged) - 1}"):
        list(batches)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
def test_streams_resume_alike(output: str) -> None:
    def loader() -> Any:
        return StatefulDataLoader(StreamingWindowDataset("name", output, on_error="skip"), batch_size=9)

    expected = indices(loader())
    for stop in range(len(expected) + 1):
        stopped = loader()
        seen = indices(islice(stopped, stop))
        resumed = loader()
        resumed.load_state_dict(stopped.state_dict())
        assert seen + indices(resumed) == expected


def test_it_is_logged(dataset: WindowDataset, damaged: dict[int, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="predecode.reader"):
        list(WindowLoader(dataset, 4, on_error="skip"))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == min(5, len(damaged)) + 1
    for message in messages[:-1]:
        number, reason = message.removeprefix("Left out window ").split(": ", 1)
        assert damaged[int(number)] == reason
    assert messages[-1] == f"Left out {len(damaged)} damaged windows of epoch 0."


def test_nonsense_is_refused(dataset: WindowDataset, output: str) -> None:
    with pytest.raises(UsageError, match="one of raise, skip, got 'ignore'"):
        WindowLoader(dataset, 4, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no negative number, got -1"):
        StreamingWindowDataset("name", output, on_error="skip", max_skipped=-1)
    with pytest.raises(UsageError, match="got rank 0 of 0"):
        StreamingWindowDataset("name", output, rank=0, world_size=0)


@pytest.mark.parametrize("bad", [set(), {0}, {6}, {2, 3}, set(range(7))])
def test_reading_around_damage_finds_each_damaged_place(bad: set[int]) -> None:
    def read(start: int, stop: int) -> list[int]:
        if found := bad & set(range(start, stop)):
            raise FormatError(str(min(found)))
        return list(range(start, stop))

    found, damaged = [], set()
    for start, part in read_around_damage(read, 0, 7):
        if isinstance(part, FormatError):
            assert str(part) == str(start)
            damaged.add(start)
        else:
            assert part[0] == start
            found += part
    assert damaged == bad
    assert found == sorted(set(range(7)) - bad)
