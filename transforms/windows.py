"""Training windows: which frames an anchor's window shows, and which of them are padding.

The rule is that of lerobot's map-style dataset (`LeRobotDataset._get_query_indices`): a delta d of anchor g in an
episode of n frames shows frame clamp(g + d, 0, n - 1), and is padding where g + d is outside [0, n).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.errors import UsageError, did_you_mean
from predecode.transforms.features import Feature, Kind

MAX_DELTAS = 10_000
"""Deltas of one feature."""

MAX_DELTA_FRAMES = 1 << 30

_RESOLVED_PER_ROW = ("task_index", "subtask_index")


def count_anchors(num_frames: int, *, stride: int, drop_last: int) -> int:
    """How many frames of an episode are anchors: 0, stride, 2 * stride, ... below num_frames - drop_last.

    >>> count_anchors(10, stride=4, drop_last=1), count_anchors(3, stride=1, drop_last=7)
    (3, 0)
    """
    return max(0, -(-(num_frames - drop_last) // stride))


def window(
    anchors: NDArray[np.int64], deltas: Sequence[int], num_frames: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Frames and padding mask of the windows of some anchors.

    >>> frames, is_pad = window(np.array([0, 6]), [-2, 0, 1, 2], num_frames=7)
    >>> frames.tolist(), is_pad.tolist()
    ([[0, 0, 1, 2], [4, 6, 6, 6]], [[True, False, False, False], [False, False, True, True]])

    Args:
        anchors: (A,) frame numbers within the episode.
        deltas: T offsets in frames: any order, repeated or not, with or without 0.
        num_frames: Length of the episode.

    Returns:
        Frame numbers (A, T), each within the episode, and the mask (A, T), True where the delta left the episode.
    """
    wanted = anchors[:, None] + np.asarray(deltas, np.int64)[None, :]
    return np.clip(wanted, 0, num_frames - 1), (wanted < 0) | (wanted >= num_frames)


def compact(deltas: Sequence[int]) -> str:
    """Deltas for a person.

    >>> compact(range(100)), compact([-1, 0]), compact([0, 4, 8, 12]), compact([3, -2, 0, -2])
    ('0..99', '-1, 0', '0..12 step 4', '3, -2, 0, -2')
    """
    steps = {later - earlier for earlier, later in pairwise(deltas)}
    if len(deltas) < 4 or len(steps) > 1 or 0 in steps:
        return ", ".join(map(str, deltas))
    step = steps.pop()
    return f"{deltas[0]}..{deltas[-1]}" + (f" step {step}" if step != 1 else "")


def resolve_deltas(
    delta_timestamps: Mapping[str, Sequence[float]],
    delta_indices: Mapping[str, Sequence[int]],
    features: Iterable[Feature],
    *,
    fps: float,
    tolerance_s: float,
) -> dict[str, tuple[int, ...]]:
    """Checks the windows asked for against the dataset, and gives them in frames.

    Seconds become frames as lerobot does it: `round(t * fps)`, Python's rounding, after checking that each is a
    multiple of 1/fps within the tolerance (lerobot's `check_delta_timestamps`).

    Raises:
        UsageError: a feature that is not there or cannot have a window, an empty list, a value that is no number, a
            delta that is not a multiple of 1/fps.
    """
    by_name = {feature.name: feature for feature in features}
    resolved: dict[str, tuple[int, ...]] = {}
    for name, deltas in (*delta_timestamps.items(), *delta_indices.items()):
        if name not in by_name:
            raise UsageError(
                f"Windows: there is no feature {name!r}.{did_you_mean(name, by_name)} The dataset has: "
                f"{', '.join(by_name)}."
            )
        if not 1 <= len(deltas) <= MAX_DELTAS:
            raise UsageError(f"Windows: expected 1 to {MAX_DELTAS} deltas for {name!r}, got {len(deltas)}.")
        in_seconds = name in delta_timestamps
        resolved[name] = tuple(
            _in_frames(name, delta, fps, tolerance_s) if in_seconds else _checked_frames(name, delta)
            for delta in deltas
        )
    _check_windowed(resolved, by_name)
    return resolved


def _in_frames(name: str, seconds: float, fps: float, tolerance_s: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UsageError(f"Windows: expected seconds for {name!r}, got {seconds!r}.")
    frames = round(seconds * fps)
    if abs(seconds * fps - frames) / fps > tolerance_s:
        raise UsageError(
            f"Windows: the delta {seconds} s of {name!r} is not a multiple of 1/{fps:g} s (nearest: "
            f"{frames / fps:g} s, tolerance {tolerance_s:g} s). Use multiples of 1/fps, or --delta-indices."
        )
    return _checked_frames(name, frames)


def _checked_frames(name: str, frames: object) -> int:
    if isinstance(frames, bool) or not isinstance(frames, int):
        raise UsageError(f"Windows: expected whole frames for {name!r}, got {frames!r}.")
    if abs(frames) > MAX_DELTA_FRAMES:
        raise UsageError(f"Windows: the delta {frames} of {name!r} is beyond {MAX_DELTA_FRAMES} frames.")
    return frames


def _check_windowed(resolved: Mapping[str, tuple[int, ...]], features: Mapping[str, Feature]) -> None:
    """Refuses what has no sensible window in lerobot either: strings, and the columns that other values hang on."""
    has_video = any(feature.kind is Kind.VIDEO for feature in features.values())
    for name, deltas in resolved.items():
        if features[name].kind is Kind.STRING:
            raise UsageError(f"Windows: {name!r} holds strings, which cannot be stacked. Leave it out of the deltas.")
        pivotal = name in _RESOLVED_PER_ROW or (name == "timestamp" and has_video)
        if pivotal and deltas != (0,):
            raise UsageError(
                f"Windows: {name!r} cannot have the deltas {list(deltas)}: task strings and video times are looked up "
                "by the anchor's own value. Leave it out of the deltas."
            )
        if f"{name}_is_pad" in features:
            raise UsageError(
                f"Windows: the mask of {name!r} would be called {name}_is_pad, which is a feature already. "
                f"Leave one out: --exclude-features {name}_is_pad."
            )
