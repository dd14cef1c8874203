"""lerobot's own training command, with windows in place of its datasets, as docs/training.md tells to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.numpy

from tests.training.conftest import RunLerobot
from tests.training.documentation import arguments, program
from tests.training.small_policies import SMALL

pytestmark = [pytest.mark.needs_lerobot, pytest.mark.slow]

STEPS = 8
SHORT = (f"--steps={STEPS}", "--batch_size=4", "--eval_freq=0", "--log_freq=1", "--policy.device=cpu")


def test_checkpoints_are_those_of_lerobots_own_dataset(
    data_dir: Path, windows: Path, tmp_path: Path, run_lerobot: RunLerobot
) -> None:
    """As a stream, map-style, and map-style with some episodes, where lerobot's own dataset fails with Diffusion."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "windows").symlink_to(windows)
    for name in ("train_stream.py", "train_windows.py"):
        (tmp_path / name).write_text(program(name))
    (tmp_path / "lerobots.py").write_text("from lerobot.scripts.lerobot_train import main\n\nmain()\n")
    stream = [*arguments("train_stream.py"), "--num_workers=2"]
    map_style = [*arguments("train_windows.py"), "--num_workers=0"]
    of_source = [argument.replace("out/windows", str(data_dir / "pusht_v30")) for argument in map_style]
    programs = [
        ["train_stream.py", *stream, *small("act"), "--output_dir=stream"],
        ["train_windows.py", *map_style, *small("diffusion"), "--output_dir=windows"],
        ["lerobots.py", *of_source, *small("diffusion"), "--output_dir=lerobots"],
        ["train_windows.py", *map_style, *small("diffusion"), "--output_dir=some", "--dataset.episodes=[1,4]"],
    ]
    run_lerobot("-m", "tests.training.run_programs", json.dumps(programs), cwd=tmp_path)
    ours, lerobots = checkpoint(tmp_path / "windows"), checkpoint(tmp_path / "lerobots")
    assert ours == lerobots
    assert len(ours) == 3, "the model, and the statistics of both processors"
    assert checkpoint(tmp_path / "some") != lerobots
    assert len(checkpoint(tmp_path / "stream")) == 3
    for run in ("stream", "some"):
        model = safetensors.numpy.load(checkpoint(tmp_path / run)["model.safetensors"])
        assert all(math.isfinite(float(values.sum())) for values in model.values())


def small(policy: str) -> list[str]:
    """The command line's options for a small policy and a few steps; the last of several of one name counts."""
    return [*(f"--policy.{name}={json.dumps(value)}" for name, value in SMALL[policy].items()), *SHORT]


def checkpoint(run: Path) -> dict[str, bytes]:
    """The tensors that a run saved, by file."""
    folder = run / "checkpoints" / f"{STEPS:06d}" / "pretrained_model"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
