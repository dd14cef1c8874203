"""Batches: what `default_collate` makes of lerobot's items, in the same places of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from predecode.reader import WindowDataset, WindowLoader
from tests.reader.conftest import Materialized
from tests.reader.test_readback import as_item, item_keys
from tests.sources.reading import read_golden

GOLDENS = [
    ("zoo_v30", "single"),
    ("zoo_v30", "contiguous"),
    ("zoo_v30", "unordered"),
    ("zoo_v30", "far"),
    *(
        pytest.param(dataset, golden, marks=pytest.mark.slow)
        for dataset in ("pusht_v30", "pusht_v21", "pusht_images_v30")
        for golden in ("single", "diffusion")
    ),
]


def assert_equal(batch: dict[str, Any], expected: dict[str, Any]) -> None:
    """Keys in order, dtypes, values; and strides, since the last bits of a convolution depend on them."""
    assert list(batch) == list(expected)
    for key, value in expected.items():
        if not isinstance(value, torch.Tensor):
            assert batch[key] == value
            continue
        assert batch[key].dtype == value.dtype, key
        assert torch.equal(batch[key].nan_to_num(12345), value.nan_to_num(12345)), key
        assert batch[key].stride() == value.stride(), key


@pytest.mark.parametrize(("dataset", "golden"), GOLDENS)
def test_items_collate_as_lerobots(data_dir: Path, materialized: Materialized, dataset: str, golden: str) -> None:
    values, asked = read_golden(data_dir / "goldens" / f"{dataset}.{golden}.safetensors.gz")
    keys = item_keys(data_dir / dataset, asked["delta_indices"] or {})
    lerobots = [{key: as_lerobots(values[f"{index}/{key}"]) for key in keys} for index in asked["indices"]]
    windows = WindowDataset(materialized(dataset, golden, None))
    expected = default_collate(lerobots)
    assert_equal(default_collate(windows.__getitems__(asked["indices"])), expected)
    assert_equal(default_collate([windows[index] for index in asked["indices"]]), expected)


def as_lerobots(value: Any) -> torch.Tensor | str:
    found = as_item(value)
    return found if isinstance(found, str) else torch.tensor(found)


@pytest.mark.parametrize(("dataset", "golden"), GOLDENS)
def test_the_loaders_batches_are_collated_items(materialized: Materialized, dataset: str, golden: str) -> None:
    windows = WindowDataset(materialized(dataset, golden, None))
    for batch in WindowLoader(windows, 13, num_threads=3):
        items = [windows[index] for index in batch["index"].tolist()]
        assert_equal(batch, default_collate(items))
