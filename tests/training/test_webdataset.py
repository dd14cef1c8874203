"""Windows through webdataset's own pipelines, as docs/training.md shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from predecode.reader import WindowDataset
from tests.pipeline.running import run
from tests.reader.pipelines import pipeline, read_all, tars
from tests.training.conftest import as_option


@pytest.fixture(scope="module")
def output(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of feature, in samples of several windows."""
    output = tmp_path_factory.mktemp("webdataset") / "windows"
    deltas = as_option({"observation.images.cam": [-1, 0], "action": [0, 1, 2]})
    run(data_dir / "zoo_v30", output, delta_indices=deltas, image_codec="png", anchors_per_sample=3)
    return output


def test_items_are_those_of_the_map_style_dataset(output: Path) -> None:
    dataset = WindowDataset(output)
    items = read_all(pipeline(tars(output)))
    assert sorted(int(item["index"]) for item in items) == list(range(58))
    for item in items:
        expected = dataset[int(item["index"])]
        assert list(item) == list(expected)
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert item[key].dtype == value.dtype
                assert torch.equal(item[key], value)
                assert item[key].stride() == value.stride()
            else:
                assert item[key] == value


def with_worker(item: dict[str, Any]) -> tuple[int, int]:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    return info.id, int(item["index"])


@pytest.mark.parametrize("num_shards", [1, 3])
def test_workers_share_the_shards(output: Path, num_shards: int) -> None:
    """webdataset deals shards to workers by itself; those beyond the number of shards get none."""
    shards = tars(output)[:num_shards]
    expected = sorted(int(item["index"]) for item in read_all(pipeline(shards)))
    assert (len(expected) == 58) == (num_shards == 3)
    dataset = pipeline(shards).map(with_worker)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", collate_fn=tuple
    )
    found = read_all(loader)
    assert sorted(index for _, index in found) == expected
    assert len({worker for worker, _ in found}) == min(2, num_shards)


def test_ranks_share_the_shards(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, seen = tars(output), list[int]()
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setitem(os.environ, "RANK", str(rank))
        items = read_all(pipeline(shards, nodesplitter=webdataset.split_by_node))
        of_rank = [int(item["index"]) for item in items]
        assert 0 < len(of_rank) < 58
        seen += of_rank
    assert sorted(seen) == list(range(58))
