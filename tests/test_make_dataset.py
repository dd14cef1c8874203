"""The maker of datasets for trials and benchmarks: what it makes is a LeRobot dataset."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from torchcodec.decoders import VideoDecoder

ROOT = Path(__file__).parent.parent
EPISODES, FRAMES, FPS = 3, 12, 20
CAMERA = "observation.images.camera0"

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")


def make(output: Path, *options: str) -> Path:
    sizes = f"--episodes {EPISODES} --frames-per-episode {FRAMES} --fps {FPS} --clips 2 --size 64x96".split()
    command = [sys.executable, str(ROOT / "scripts/make_dataset"), str(output), *sizes, *options]
    subprocess.run(command, check=True, capture_output=True)
    return output


def read_rows(root: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(root / "data").to_pydict()
    return columns


def check_video(path: Path, frames: int) -> None:
    """As many frames as there are rows, on the exact grid, that change."""
    decoded = VideoDecoder(str(path)).get_frames_in_range(0, frames)
    np.testing.assert_allclose(decoded.pts_seconds.numpy(), np.arange(frames) / FPS, rtol=0, atol=1e-9)
    assert (decoded.data[:-1] != decoded.data[1:]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    "options", ["--codec av1 --content sim", "--codec h264 --gop 250 --content natural"], ids=["av1", "h264"]
)
def test_v30(tmp_path: Path, options: str) -> None:
    root = make(tmp_path / "made", *options.split())
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_frames"]) == ("v3.0", EPISODES * FRAMES)
    rows = read_rows(root)
    assert set(rows) == {name for name, feature in info["features"].items() if feature["dtype"] != "video"}
    assert rows["index"] == list(range(EPISODES * FRAMES))
    assert rows["episode_index"] == [episode for episode in range(EPISODES) for _ in range(FRAMES)]
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == EPISODES
    check_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", EPISODES * FRAMES)
    episodes = pq.read_table(root / "meta/episodes").to_pydict()
    assert episodes[f"videos/{CAMERA}/from_timestamp"] == [episode * FRAMES / FPS for episode in range(EPISODES)]
    stats = json.loads((root / "meta/stats.json").read_text())
    np.testing.assert_allclose(stats["action"]["mean"], np.mean(rows["action"], axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], np.std(rows["action"], axis=0), atol=1e-6)


def test_v30_rolls_over(tmp_path: Path) -> None:
    root = make(tmp_path / "made", "--video-file-mb", "0", "--data-file-mb", "0", "--cameras", "1")
    episodes = pq.read_table(root / "meta/episodes").to_pydict()
    for prefix, suffix in (("data", "parquet"), (f"videos/{CAMERA}", "mp4")):
        assert episodes[f"{prefix}/file_index"] == [0, 1, 2]
        assert len(list((root / prefix).rglob(f"*.{suffix}"))) == EPISODES
    assert episodes[f"videos/{CAMERA}/from_timestamp"] == [0.0] * EPISODES


def test_v21(tmp_path: Path) -> None:
    root = make(tmp_path / "made", "--format", "v2.1")
    assert read_rows(root)["index"] == list(range(EPISODES * FRAMES))
    for episode in range(EPISODES):
        check_video(root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4", FRAMES)
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["length"] for line in lines] == [FRAMES] * EPISODES


def test_same_seed_same_rows(tmp_path: Path) -> None:
    cheap = ("--cameras", "1", "--clips", "1", "--codec", "h264", "--content", "natural")
    first, again = (read_rows(make(tmp_path / name, *cheap)) for name in ("first", "again"))
    assert first == again
    assert first != read_rows(make(tmp_path / "other", *cheap, "--seed", "1"))


@pytest.mark.slow
@pytest.mark.needs_lerobot
@pytest.mark.parametrize("options", ["--codec av1", "--codec h264 --gop 250 --video-file-mb 0"])
def test_lerobot_reads_it(tmp_path: Path, lerobot_python: Path, options: str) -> None:
    root = make(tmp_path / "made", *options.split())
    code = (
        "import sys; from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; d = D('x/y', root=sys.argv[1])\n"
        f"print(len(d), *(sorted({{tuple(d[i]['{CAMERA}'].shape) for i in range(len(d))}})), d[len(d) - 1]['task'])"
    )
    done = subprocess.run([str(lerobot_python), "-c", code, str(root)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"{EPISODES * FRAMES} (3, 64, 96) Insert the peg into the socket."
