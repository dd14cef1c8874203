"""The columns that every LeRobot item has, made for sources that lack them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from predecode.transforms.episodes import Episode
from predecode.transforms.sources.lerobot_info import INDEX_COLUMNS

if TYPE_CHECKING:
    from predecode.transforms.sources.base import Rows

MADE_SPECS: dict[str, dict[str, Any]] = {
    name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    for name in INDEX_COLUMNS
}
"""Their specifications, as info.json has them, in the order of an item's keys."""


def made_columns(episode: Episode, first_frame: int, stop_frame: int, *, first_row: int, fps: float, task: str) -> Rows:
    """These columns and the task, for a half-open range of an episode's frames.

    Args:
        episode: Whose frames.
        first_frame: Within the episode.
        stop_frame: Behind the last.
        first_row: What "index" is at frame 0: the frames of the dataset before this episode.
        fps: Frames per second: "timestamp" is the frame's number divided by it.
        task: The one task of the source, number 0.

    Raises:
        IndexError: the range is not within the episode.
    """
    if not 0 <= first_frame <= stop_frame <= episode.num_frames:
        raise IndexError(f"episode {episode.index} has {episode.num_frames} frames, not [{first_frame}, {stop_frame})")
    frames = np.arange(first_frame, stop_frame, dtype=np.int64)
    return {
        "timestamp": (frames / fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full_like(frames, episode.index),
        "index": first_row + frames,
        "task_index": np.zeros_like(frames),
        "task": [task] * len(frames),
    }
