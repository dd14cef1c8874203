"""What tests of training share: lerobot's interpreter, with this checkout's package, and an output to train from."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.running import run

ROOT = Path(__file__).parents[2]
DIFFUSION = {"observation.image": [-1, 0], "observation.state": [-1, 0], "action": list(range(-1, 15))}
"""The windows of Diffusion Policy, in frames; those of ACT with up to 15 actions are among them."""

RunLerobot = Callable[..., str]


@pytest.fixture(scope="session")
def run_lerobot(tmp_path_factory: pytest.TempPathFactory, lerobot_python: Path) -> RunLerobot:
    """Gives a function that runs a command of lerobot's environment and returns what it printed.

    The package is linked, not installed: other checkouts may use the same environment at the same time. lerobot is kept
    from the network and from the user's caches.
    """
    folder = tmp_path_factory.mktemp("lerobot")
    (folder / "links" / "predecode").mkdir(parents=True)
    for name in ("pipeline", "reader", "transforms"):
        (folder / "links" / "predecode" / name).symlink_to(ROOT / name)
    (folder / "links" / "tests").symlink_to(ROOT / "tests")
    environment = os.environ | {
        "PYTHONPATH": str(folder / "links"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "huggingface"),
        "WANDB_MODE": "disabled",
        "OMP_NUM_THREADS": "1",  # Tests run side by side, and threads that wait for one another cost much.
    }

    def run_command(*arguments: Any, command: str = "python", cwd: Path, timeout_s: float = 300) -> str:
        done = subprocess.run(
            [str(lerobot_python.parent / command), *map(str, arguments)],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run_command


@pytest.fixture(scope="session")
def windows(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PushT, whole, at source size, lossless, with the windows of Diffusion Policy."""
    output = tmp_path_factory.mktemp("training") / "windows"
    run(data_dir / "pusht_v30", output, image_codec="zstd", delta_indices=as_option(DIFFUSION))
    return output


def as_option(deltas: dict[str, list[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Deltas as `MaterializeOptions` has them."""
    return tuple((name, tuple(offsets)) for name, offsets in deltas.items())


def last_json(printed: str) -> Any:
    """The last line that a program printed."""
    return json.loads(printed.strip().splitlines()[-1])
