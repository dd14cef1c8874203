"""Every example of docs/training.md runs as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.running import run
from tests.training.conftest import DIFFUSION, RunLerobot, as_option
from tests.training.documentation import all_examples, examples

CHECKS = """
import math

assert all(math.isfinite(loss) for loss in losses) and losses
assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (3, 0), "two epochs, and one that was resumed"
"""

ONE_GLOO_PORT_EACH = ("--standalone", "--nproc-per-node")


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where out/windows is, with both splits, and out/more."""
    folder = tmp_path_factory.mktemp("documentation")
    materialize_some(data_dir, folder, anchor_stride=4, validation_fraction=0.4)
    run(data_dir / "pusht_v30", folder / "out" / "more", delta_indices=as_option(DIFFUSION), episodes="0")
    assert (folder / "out" / "windows" / "val").is_dir()
    return folder


def materialize_some(data_dir: Path, folder: Path, **options: Any) -> None:
    run(data_dir / "pusht_v30", folder / "out" / "windows", delta_indices=as_option(DIFFUSION), **options)


def run_python(*arguments: str, cwd: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_every_example_is_run_by_a_test_below() -> None:
    assert {example.runs_with for example in all_examples()} == {"", "torchrun", "accelerate", "lerobot"}
    assert len(examples("torchrun")) == len(examples("accelerate")) == 1
    by_name = [code for code in examples("lerobot") if code.startswith(("# train_stream.py\n", "# train_windows.py\n"))]
    assert len(by_name) == len(examples("lerobot")) - 1 == 2, (
        "tests/training/test_lerobot_train.py runs those with a name"
    )


@pytest.mark.slow
def test_the_examples_in_pytorch_are_one_program(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(folder / "out")
    (tmp_path / "program.py").write_text("\n".join([*examples(""), CHECKS]))
    run_python("program.py", cwd=tmp_path)


@pytest.mark.slow
def test_the_example_with_several_ranks_goes_on_with_fewer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(folder / "out")
    (tmp_path / "train.py").write_text(examples("torchrun")[0])
    for number_of_ranks, epoch in ((2, 1), (1, 2)):
        run_python("-m", "torch.distributed.run", *ONE_GLOO_PORT_EACH, str(number_of_ranks), "train.py", cwd=tmp_path)
        state = torch.load(tmp_path / "loader.pt")
        assert (state["epoch"], state["position"]) == (epoch, 0)


@pytest.mark.slow
@pytest.mark.needs_lerobot
def test_the_example_with_accelerate(folder: Path, tmp_path: Path, run_lerobot: RunLerobot) -> None:
    (tmp_path / "out").symlink_to(folder / "out")
    (tmp_path / "train.py").write_text(examples("accelerate")[0])
    run_lerobot(*ONE_GLOO_PORT_EACH, "2", "train.py", command="torchrun", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.needs_lerobot
def test_the_loop_with_lerobots_policy(data_dir: Path, tmp_path: Path, run_lerobot: RunLerobot) -> None:
    """A policy of true size: a few steps take long enough."""
    materialize_some(data_dir, tmp_path, anchor_stride=40)
    (loop,) = [code for code in examples("lerobot") if not code.startswith("# train_")]
    (tmp_path / "loop.py").write_text(loop + "\nprint(loss.item())\n")
    assert float(run_lerobot("loop.py", cwd=tmp_path).split()[-1]) > 0
