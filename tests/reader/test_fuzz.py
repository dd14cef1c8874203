"""Random damage to every file, and made-up files with good checksums: an error of the family or the right items."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from predecode.pipeline import MaterializeOptions, materialize
from tests.reader.fuzzing import MODES, READINGS

Outputs = Callable[..., list[Path]]

WINDOWS: dict[str, dict[str, Any]] = {
    "images": {"delta_indices": (("action", (0, 1, 2)),)},
    "runs": {
        "delta_indices": (
            ("action", (0, 1, 2)),
            ("observation.images.cam", (-1, 0)),
            ("observation.state", (-1, 1)),
        ),
        "anchors_per_sample": 4,
    },
}
QUICK = ("images-jpeg", "runs-zstd")
ALL = (*(f"images-{codec}" for codec in ("jpeg", "png", "webp", "zstd", "raw")), "runs-png", "runs-zstd")


@pytest.fixture(scope="module")
def outputs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Gives a function that makes small outputs: two shards, 33 windows, three cameras."""

    @cache
    def make(name: str) -> Path:
        windows, codec = name.split("-")
        output = tmp_path_factory.mktemp(name) / "output"
        options = MaterializeOptions(
            source=str(data_dir / "zoo_v30"),
            output=str(output),
            episodes="0:4",
            exclude_features=("u8mat", "i16s", "i32", "f64s", "observation.mat", "next.reward"),
            image_size=(16, 16),
            resize_mode="stretch",
            image_codec=codec,
            min_psnr_db=0.0,
            min_shards=2,
            **WINDOWS[windows],
        )
        materialize(options, ["--direct_num_workers=2"])
        assert len(list(output.glob("train/*.tar"))) == 2
        return output

    return lambda *names: [make(name) for name in names]


def fuzz(mode: str, trials: range, readings: str, outputs: list[Path]) -> dict[str, int]:
    """How often each outcome came; fails where one is not as it must be, with the trial and the traceback."""
    program = [sys.executable, "-m", "tests.reader.fuzzing", mode, str(trials.start), str(trials.stop), readings]
    done = subprocess.run([*program, *map(str, outputs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-6000:]}"
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_some_hundred_trials(outputs: Outputs) -> None:
    counts = fuzz("each", range(210), "one", outputs(*QUICK))
    assert sum(counts.values()) == 210
    for name in READINGS:
        assert {f"{name}: read", f"{name}: refused"} <= counts.keys()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_some_thousand_trials(outputs: Outputs, mode: str) -> None:
    counts = fuzz(mode, range(1000), "all", outputs(*ALL))
    assert sum(counts.values()) == 1000 * len(READINGS)
