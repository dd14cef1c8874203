"""Positions through what befalls a training: kills, other numbers of ranks, every step, workers of all kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader
from tests.reader.conftest import Materialized
from tests.reader.training import BATCH_SIZE, LOADER_SEED

NUM_WINDOWS = 58

Loaders = Callable[..., Any]


@pytest.fixture(scope="module")
def output(materialized: Materialized) -> str:
    return str(materialized("zoo_v30", "contiguous", None))


@pytest.fixture(scope="module")
def dataset(output: str) -> WindowDataset:
    return WindowDataset(output, return_uint8=True)


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].reshape(-1).tolist() for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again_it_sees_each_batch_as_if_it_had_lived(
    dataset: WindowDataset, output: str, tmp_path: Path, seed: int
) -> None:
    epochs, kills = 4, 10
    program = [sys.executable, "-m", "tests.reader.training", output, str(tmp_path), str(epochs), str(kills), str(seed)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "error.txt").exists(), (tmp_path / "error.txt").read_text()
    lines = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    seen: dict[tuple[int, int], list[int]] = {}
    for epoch, position, batch in lines:
        # A batch that was seen, but not saved, is seen again: the same one, and next.
        assert seen.get((epoch, position), batch) == batch
        assert (epoch, position) not in seen or list(seen)[-1] == (epoch, position)
        seen[epoch, position] = batch
    whole = WindowLoader(dataset, BATCH_SIZE, seed=LOADER_SEED)
    of_epochs = [indices(whole) for _ in range(epochs)]
    assert list(seen.values()) == list(chain(*of_epochs))
    assert all(sorted(chain(*epoch)) == list(range(NUM_WINDOWS)) for epoch in of_epochs)


@pytest.mark.parametrize("tail", ["exact", "even"])
def test_ranks_that_change_again_and_again_lose_nothing(dataset: WindowDataset, tail: Any) -> None:
    """What all ranks get in a step, in order of ranks, are the next positions of one order for all of them."""

    def ranks(world_size: int) -> list[WindowLoader]:
        return [
            WindowLoader(dataset, 3, seed=4, rank=rank, world_size=world_size, tail=tail) for rank in range(world_size)
        ]

    one = WindowLoader(dataset, 3, seed=4)
    expected = [list(chain(*indices(one))) for _ in range(3)]
    state: dict[str, Any] | None = None
    seen: list[list[int]] = [[], [], []]
    for turn in range(30):
        world_size, steps = (2, 3, 1, 4, 2, 5)[turn % 6], turn % 3 + 1
        loaders = ranks(world_size)
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(json.loads(json.dumps(state)))
        epoch = loaders[0].state_dict()["epoch"]
        if epoch == 3:
            break
        batches = [indices(islice(loader, steps)) for loader in loaders]
        for step in range(steps):
            seen[epoch] += chain(*(of_rank[step] for of_rank in batches if step < len(of_rank)))
        states = [loader.state_dict() for loader in loaders]
        assert all(state == states[0] for state in states)
        state = states[0]
    assert epoch == 3, "the turns reach the end of the third epoch"
    for order, found in zip(expected, seen, strict=True):
        assert found == order[: len(found)]
        assert len(found) == NUM_WINDOWS if tail == "exact" else len(found) > NUM_WINDOWS - 5


@pytest.fixture(params=[0, pytest.param(2, marks=pytest.mark.slow)])
def loaders(request: pytest.FixtureRequest, output: str) -> Loaders:
    """Gives torchdata's loader of a new stream."""

    def make(**options: Any) -> Any:
        workers = {"num_workers": request.param, "multiprocessing_context": "fork"} if request.param else {}
        return StatefulDataLoader(StreamingWindowDataset("name", output), batch_size=8, **workers, **options)

    return make


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
def test_a_stream_resumes_at_every_step_of_two_epochs(loaders: Loaders) -> None:
    whole = loaders()
    expected = [indices(whole), indices(whole)]
    assert expected[0] != expected[1]
    for epoch in (0, 1):
        assert sorted(chain(*expected[epoch])) == list(range(NUM_WINDOWS))
        for stop in range(1, len(expected[epoch]) + 1):
            stopped = loaders()
            for _ in range(epoch):
                indices(stopped)
            seen = indices(islice(stopped, stop))
            resumed = loaders()
            resumed.load_state_dict(stopped.state_dict())
            seen += indices(resumed)
            assert seen == expected[epoch]
            if epoch == 0 and stop in (1, len(expected[0])):
                assert indices(resumed) == expected[1], "the epoch after it"


def test_a_stream_that_has_ended_stays_ended_and_goes_on_with_the_next_epoch(output: str) -> None:
    stream = StreamingWindowDataset("name", output)
    expected = [[int(item["index"]) for item in stream] for _ in range(2)]
    ended, resumed = StreamingWindowDataset("name", output), StreamingWindowDataset("name", output)
    assert [int(item["index"]) for item in ended] == expected[0]
    resumed.load_state_dict(json.loads(json.dumps(ended.state_dict())))
    assert list(resumed) == []
    assert [int(item["index"]) for item in resumed] == expected[1]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_stream_resumes_with_workers_of_all_kinds(output: str, *, context: str, persistent: bool) -> None:
    def loader() -> Any:
        return StatefulDataLoader(
            StreamingWindowDataset("name", output),
            batch_size=8,
            num_workers=2,
            multiprocessing_context=context,
            persistent_workers=persistent,
        )

    whole = loader()
    expected = [indices(whole) for _ in range(3)]
    assert len({tuple(chain(*epoch)) for epoch in expected}) == 3
    stopped = loader()
    indices(stopped)
    seen = indices(islice(stopped, 3))
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert seen + indices(resumed) == expected[1]
    assert indices(resumed) == expected[2]
