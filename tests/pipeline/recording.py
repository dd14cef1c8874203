"""A program for tests, run where lerobot is installed: records episodes with lerobot's own recorder.

Usage: recording.py ROOT NUM_EPISODES

A dataset that is there is resumed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FRAMES, SIDE = 20, 64
VECTOR = {"dtype": "float32", "shape": (3,), "names": None}
FEATURES = {
    "observation.images.top": {"dtype": "video", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]},
    "observation.state": VECTOR,
    "action": VECTOR,
}


def record(root: Path, num_episodes: int) -> None:
    """Adds episodes of moving blocks."""
    if root.exists():
        dataset = LeRobotDataset("some/name", root=root)
    else:
        dataset = LeRobotDataset.create("some/name", fps=10, features=FEATURES, root=root, use_videos=True)
    for episode in range(dataset.num_episodes, dataset.num_episodes + num_episodes):
        blocks = np.random.default_rng(episode).integers(0, 255, (8, 8, 3), np.uint8)
        picture = blocks.repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1)
        for frame in range(FRAMES):
            values = np.full(3, frame, np.float32)
            images = {"observation.images.top": np.roll(picture, frame, axis=1)}
            dataset.add_frame({**images, "observation.state": values, "action": values, "task": f"task {episode % 2}"})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    record(Path(sys.argv[1]), int(sys.argv[2]))
