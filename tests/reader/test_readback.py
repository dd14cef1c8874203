"""Every item that lerobot gave, read back by a reader made from the specification, and by the project's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from predecode.reader import WindowDataset, expand_windows
from tests.readback import Arrays, read_items, read_samples
from tests.reader.conftest import Materialized
from tests.sources.reading import read_golden, same

QUICK = [
    ("pusht_v30", "diffusion", None),
    ("pusht_v21", "single", 7),
    ("pusht_images_v30", "single", None),
    ("zoo_v30", "single", 1),
    ("zoo_v30", "single", 7),
    ("zoo_v30", "contiguous", None),
    ("zoo_v30", "unordered", 1),
    ("zoo_v30", "far", 7),
]
"""Dataset, golden, anchors per sample: every dataset, window and way to store them is among these."""

GOLDENS = {
    **dict.fromkeys(("pusht_v30", "pusht_v21", "pusht_images_v30"), ("single", "diffusion")),
    "zoo_v30": ("single", "contiguous", "unordered", "far"),
}
REST = [
    (dataset, golden, anchors)
    for dataset, goldens in GOLDENS.items()
    for golden in goldens
    for anchors in (1, 7, None)
    if (dataset, golden, anchors) not in QUICK
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]


@pytest.mark.parametrize(("dataset", "golden", "anchors_per_sample"), CASES)
def test_items_are_those_of_lerobot(
    data_dir: Path, materialized: Materialized, dataset: str, golden: str, anchors_per_sample: int | None
) -> None:
    output = materialized(dataset, golden, anchors_per_sample)
    values, asked = read_golden(data_dir / "goldens" / f"{dataset}.{golden}.safetensors.gz")
    expected = {name: as_item(value) for name, value in values.items()}
    keys = item_keys(data_dir / dataset, asked["delta_indices"] or {})
    assert {name.split("/", 1)[1] for name in expected} == set(keys)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["has_runs"] == (golden != "single" or anchors_per_sample == 7)
    for read in (read_items, expanded_items, dataset_items):
        items = sorted(read(output), key=lambda item: (int(item["episode_index"]), int(item["frame_index"])))
        assert [list(item) for item in items] == [keys] * (58 if dataset == "zoo_v30" else 941)
        wrong = [
            f"{number}/{key}"
            for number in asked["indices"]
            for key in keys
            if not same(items[number][key], expected[f"{number}/{key}"])
        ]
        assert wrong == []
    assert {key.split("/", 1)[1] for key in expected} == set(keys)


def expanded_items(output: Path) -> Iterator[Arrays]:
    """What the project's own reader gives, as numpy arrays."""
    for tar in sorted((output / "train").glob("*.tar")):
        for members in read_samples(tar):
            for item in expand_windows({**members, "__key__": members["__key__"].decode(), "__url__": str(tar)}):
                tensors = [value for value in item.values() if isinstance(value, torch.Tensor)]
                assert all(tensor.is_contiguous() for tensor in tensors)
                yield {key: value if isinstance(value, str) else value.numpy() for key, value in item.items()}


def dataset_items(output: Path) -> Iterator[Arrays]:
    """What `WindowDataset` gives, as numpy arrays."""
    for item in WindowDataset(str(output)):
        yield {key: value if isinstance(value, str) else value.numpy() for key, value in item.items()}


def as_item(value: NDArray[Any] | str) -> NDArray[Any] | str:
    """Goldens keep images, and nothing else, as uint8: in items these are floats."""
    if isinstance(value, str) or value.dtype != np.uint8:
        return value
    return value.astype(np.float32) / np.float32(255)


def item_keys(dataset: Path, deltas: dict[str, list[int]]) -> list[str]:
    """The order of lerobot 0.4.4: videos, columns, masks, task."""
    features = json.loads((dataset / "meta" / "info.json").read_text())["features"]
    videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
    columns = [name for name in features if name not in videos]
    return [*videos, *columns, *(f"{name}_is_pad" for name in deltas), "task"]
