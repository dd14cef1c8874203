"""Batches on a GPU: the bytes that a batch on the CPU has, however late the GPU comes to copy them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from predecode.reader import WindowDataset, WindowLoader
from tests.reader.conftest import Materialized

pytestmark = pytest.mark.needs_cuda


@pytest.fixture(scope="module", params=[True, False], ids=["uint8", "float32"])
def dataset(materialized: Materialized, request: pytest.FixtureRequest) -> WindowDataset:
    return WindowDataset(str(materialized("zoo_v30", "contiguous", None)), return_uint8=request.param)


def passes(loader: WindowLoader, count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        yield from loader


def keep_busy(size: int = 8192) -> None:
    """Queues some 20 ms of work: what is copied after it waits, and meanwhile the loader fills the next batches."""
    left = torch.ones(size, size, device="cuda")
    for _ in range(4):
        left = left @ left * 1e-4


@pytest.mark.parametrize("pin_memory", [None, False])
def test_batches_on_a_gpu_are_those_on_the_cpu_also_when_it_copies_late(
    dataset: WindowDataset, *, pin_memory: bool | None
) -> None:
    expected = list(passes(WindowLoader(dataset, 4, seed=1, num_threads=4), 4))
    loader = WindowLoader(dataset, 4, seed=1, num_threads=4, device="cuda", pin_memory=pin_memory)
    found = []
    for batch in passes(loader, 4):
        keep_busy()
        found.append(batch)
    assert len(found) == len(expected) > 50
    for got, wanted in zip(found, expected, strict=True):
        assert list(got) == list(wanted)
        for key, value in wanted.items():
            if torch.is_tensor(value):
                assert got[key].is_cuda
                assert got[key].dtype == value.dtype
                assert got[key].stride() == value.stride(), key
                assert torch.equal(got[key].cpu(), value), key
            else:
                assert got[key] == value, key


def test_batches_that_are_dropped_at_once_are_copied_whole(dataset: WindowDataset) -> None:
    """A sum on the GPU, queued behind other work, while no name holds the batch any more."""
    image = next(key for key, value in dataset[0].items() if torch.is_tensor(value) and value.ndim > 2)
    expected = [batch[image].double().sum().item() for batch in WindowLoader(dataset, 4, seed=2)]
    sums = []
    for batch in WindowLoader(dataset, 4, seed=2, device="cuda"):
        keep_busy()
        sums.append(batch.pop(image).double().sum())
        del batch
    assert [total.item() for total in sums] == pytest.approx(expected, rel=1e-12)


def test_page_locked_batches_may_stay_on_the_cpu(dataset: WindowDataset) -> None:
    plain = list(WindowLoader(dataset, 8, seed=3))
    pinned = list(WindowLoader(dataset, 8, seed=3, pin_memory=True))
    for got, wanted in zip(pinned, plain, strict=True):
        for key, value in wanted.items():
            if torch.is_tensor(value):
                assert got[key].is_pinned(), key
                assert torch.equal(got[key], value), key
