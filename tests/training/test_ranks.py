"""Two processes that train together with all-reduce: nobody waits for ever, and nobody trains on another's windows."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader
from tests.pipeline.running import run
from tests.training.conftest import as_option

WORLD_SIZE = 2
EPOCHS = 2
PATIENCE = dt.timedelta(seconds=40)
"""A rank that waits longer for the other fails."""

SELECTIONS: dict[int, list[int] | None] = {58: None, 21: [1, 3], 5: [2]}
"""Episodes by how many windows they have together."""

LOADERS = ("threads", "stream", "stream with 2 workers")


@pytest.fixture(scope="module")
def output(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ranks") / "windows"
    run(data_dir / "zoo_v30", output, delta_indices=as_option({"action": [0, 1, 2]}), image_codec="png")
    return output


@pytest.mark.slow
def test_ranks_train_on_windows_of_their_own_and_end_together(output: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=train_all, args=(rank, str(output), tmp_path)) for rank in range(WORLD_SIZE)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=150)
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * WORLD_SIZE
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD_SIZE)]
    for size in SELECTIONS:
        for loader in LOADERS:
            first, second = (of_rank[f"{size} windows, {loader}"] for of_rank in found)
            assert first["weights"] == second["weights"]
            for epoch in range(EPOCHS):
                batches = [first["epochs"][epoch], second["epochs"][epoch]]
                assert [len(batch) for batch in batches[0]] == [len(batch) for batch in batches[1]]
                seen = [index for of_rank in batches for batch in of_rank for index in batch]
                assert len(set(seen)) == len(seen)
                shares = WORLD_SIZE * (2 if loader == "stream with 2 workers" else 1)
                assert len(seen) == size - size % shares


def train_all(rank: int, output: str, folder: Path) -> None:
    """Runs in a process of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD_SIZE, timeout=PATIENCE
    )
    found = {
        f"{size} windows, {loader}": train(batches_of(loader, output, episodes))
        for size, episodes in SELECTIONS.items()
        for loader in LOADERS
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def batches_of(loader: str, output: str, episodes: list[int] | None) -> Iterable[dict[str, Any]]:
    """Something to iterate over once per epoch; ranks are torch.distributed's."""
    if loader == "threads":
        return WindowLoader(WindowDataset(output, episodes=episodes), batch_size=4)
    stream = StreamingWindowDataset("some/name", output, episodes=episodes, tail="even")
    workers = 2 if loader == "stream with 2 workers" else 0
    return DataLoader(stream, batch_size=4, num_workers=workers, multiprocessing_context="fork" if workers else None)


def train(batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Some epochs of all-reduce; gives the indices of every batch and the weights in the end."""
    torch.manual_seed(0)
    policy = DistributedDataParallel(torch.nn.Linear(3, 6))
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)

    def learn() -> Iterator[list[int]]:
        for batch in batches:
            actions = policy(batch["observation.state"]).view_as(batch["action"])
            optimizer.zero_grad()
            (actions - batch["action"]).square().mean().backward()
            optimizer.step()
            yield batch["index"].tolist()

    epochs = [list(learn()) for _ in range(EPOCHS)]
    return {"epochs": epochs, "weights": [values.tolist() for values in policy.module.parameters()]}
