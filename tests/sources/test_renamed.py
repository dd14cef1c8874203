"""LeRobot features under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from predecode.reader import WindowDataset
from predecode.transforms.errors import PredecodeError, SourceError, UsageError
from predecode.transforms.sources.opening import open_source
from predecode.transforms.storage import Folder
from tests.pipeline.running import run

CAMERA = "observation.images.cam"
RENAMES = {CAMERA: "top", "observation.state": "state", "action": "observation.state"}
"""A video, and a number that takes the name of another."""


@pytest.mark.parametrize(
    ("renames", "error", "message"),
    [
        ({"none": "a"}, UsageError, "there is no feature 'none'"),
        ({"action": "observation.state"}, UsageError, "cannot both be called 'observation.state'"),
        ({"action": "../action"}, SourceError, "not safe in a path"),
        ({"action": "index"}, UsageError, "cannot both be called 'index'"),
        ({"timestamp": "time"}, UsageError, "timestamp cannot be renamed: rows are found by it"),
        ({"action": "task"}, UsageError, "'task' is the name under which an item holds its task"),
    ],
)
def test_names_that_cannot_be(
    data_dir: Path, renames: dict[str, str], error: type[PredecodeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_source(Folder.of(str(data_dir / "zoo_v30")), renames=renames)


def test_windows_are_the_same_under_other_names(data_dir: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {"image_size": (8, 8), "episodes": "0:3"}
    deltas = ((CAMERA, (-1, 0)), ("action", (0, 1, 2)))
    run(data_dir / "zoo_v30", tmp_path / "plain", delta_indices=deltas, **small)
    renamed_deltas = tuple((RENAMES[name], frames) for name, frames in deltas)
    renames = tuple(RENAMES.items())
    run(data_dir / "zoo_v30", tmp_path / "renamed", rename=renames, delta_indices=renamed_deltas, **small)
    plain, renamed = (WindowDataset(str(tmp_path / name)) for name in ("plain", "renamed"))
    new_names = RENAMES | {f"{old}_is_pad": f"{new}_is_pad" for old, new in RENAMES.items()}
    assert len(plain) == len(renamed) > 0
    for expected, item in zip(plain, renamed, strict=True):
        assert list(item) == [new_names.get(name, name) for name in expected]
        for name, value in expected.items():
            found = item[new_names.get(name, name)]
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    assert list(renamed.meta.features) == [new_names.get(name, name) for name in plain.meta.features]
    assert set(renamed.stats) == {new_names.get(name, name) for name in plain.stats}
    assert renamed.stats["observation.state"]["mean"].tolist() == plain.stats["action"]["mean"].tolist()
    summary = json.loads((tmp_path / "renamed/plan.json").read_text())["source"]
    assert summary["renamed"] == [list(pair) for pair in RENAMES.items()]


def test_features_are_left_out_by_their_old_names(data_dir: Path) -> None:
    folder = Folder.of(str(data_dir / "zoo_v30"))
    source = open_source(folder, excluded=frozenset({"observation.state"}), renames={"action": "observation.state"})
    assert "action" not in {feature.name for feature in source.features}
    with pytest.raises(UsageError, match=r"there is no feature 'observation\.state'"):
        open_source(folder, excluded=frozenset({"observation.state"}), renames={"observation.state": "state"})
