"""lerobot's policies, trained by lerobot's code through the reader, as from lerobot's own dataset."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.pipeline.running import run
from tests.training.conftest import RunLerobot, as_option, last_json

pytestmark = [pytest.mark.needs_lerobot, pytest.mark.slow]

ACTIONS = as_option({"action": list(range(10))})


def test_policies_learn_from_windows_to_the_last_bit_what_they_learn_from_lerobots_dataset(
    data_dir: Path, windows: Path, tmp_path: Path, run_lerobot: RunLerobot
) -> None:
    """Diffusion Policy on PushT; ACT on cameras of several sizes, one of them stored images, one channels first."""
    zoo = tmp_path / "zoo"
    run(data_dir / "zoo_v30", zoo, image_codec="png", delta_indices=ACTIONS)
    cases = [
        {"source": data_dir / "pusht_v30", "output": windows, "policy": "diffusion", "steps": 30, "batch_size": 4},
        {"source": data_dir / "zoo_v30", "output": zoo, "policy": "act", "steps": 30, "batch_size": 4},
    ]
    pairs = compared(run_lerobot, tmp_path, cases)
    for pair in pairs:
        assert pair["keys"] == pair["lerobots_keys"]
        assert {"action", "action_is_pad", "observation.state", "index", "task"} < set(pair["prepared_keys"])
        assert pair["unequal"] == pair["unequal_prepared"] == []
        assert pair["losses"] == pair["lerobots_losses"]
        assert len(pair["losses"]) == 30
        assert mean(pair["losses"][-5:]) < mean(pair["losses"][:5])
    assert pairs[0]["image_shapes"] == {"observation.image": [3, 96, 96]}
    assert list(pairs[1]["image_shapes"].values()) == [[3, 48, 64], [3, 32, 40], [3, 16, 24]]


def test_policies_are_made_for_frames_as_they_are_stored(
    data_dir: Path, tmp_path: Path, run_lerobot: RunLerobot
) -> None:
    """480 x 640 in the source, 224 x 224 in the output: shapes and statistics are the output's."""
    output = tmp_path / "windows"
    run(data_dir / "aloha_v30", output, image_size=(224, 224), delta_indices=ACTIONS)
    case = {"source": data_dir / "aloha_v30", "output": output, "policy": "act", "steps": 12, "batch_size": 2}
    (pair,) = compared(run_lerobot, tmp_path, [case])
    cameras = ["observation.images.angle", "observation.images.top"]
    assert pair["image_shapes"] == {camera: [3, 224, 224] for camera in cameras}
    assert pair["unequal"] == pair["unequal_prepared"] == cameras
    assert mean(pair["losses"][-3:]) < mean(pair["losses"][:3])
    # Normalized by statistics of the stored frames.
    assert pair["image_means"] == pytest.approx([0, 0], abs=0.1)
    assert pair["image_deviations"] == pytest.approx([1, 1], abs=0.1)


def compared(run_lerobot: RunLerobot, folder: Path, cases: list[dict[str, Any]]) -> Any:
    return last_json(run_lerobot("-m", "tests.training.compare_training", json.dumps(cases, default=str), cwd=folder))
