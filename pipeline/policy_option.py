"""`--policy`: the windows of a lerobot policy, resolved against the dataset before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from predecode.transforms.errors import UsageError
from predecode.transforms.features import Feature
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.policies import Fit, PolicyWindows, known_policy, windows_of_config, windows_of_policy
from predecode.transforms.recipe import open_recipe
from predecode.transforms.windows import compact

_CONFIG_FILE = "config.json"
_CHANNELS = (1, 3, 4)


def read_policy(text: str) -> PolicyWindows:
    """What a policy wants, by its name, the path of its config.json, or the folder of its checkpoint.

    Raises:
        UsageError: there is no such policy, or the file cannot be understood.
    """
    path = Path(text)
    is_path = known_policy(text) is None and (text.endswith(".json") or path.is_dir())
    if not is_path:
        return windows_of_policy(text)
    path = path / _CONFIG_FILE if path.is_dir() else path
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--policy: cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--policy: {path}: expected a policy's config.json, got no JSON: {error}.") from None
    return windows_of_config(config, where=str(path))


def with_policy(
    options: MaterializeOptions, policy: str, *, drop_last_frames: int | None = None
) -> tuple[MaterializeOptions, str]:
    """Options with the windows of a policy, and what was resolved, for a person. Opens the source.

    Args:
        options: As asked for otherwise, without windows.
        policy: A name, or a path.
        drop_last_frames: How many last frames of an episode are no anchors; None for what the policy says.

    Raises:
        SourceError: the source cannot be used.
        UsageError: the policy is not known, or does not fit the dataset; or windows are given otherwise, too.
    """
    if options.delta_timestamps or options.delta_indices:
        raise UsageError("--policy excludes --delta-timestamps and --delta-indices: give one of them.")
    wanted = read_policy(policy)
    features = open_recipe(options).source.features
    deltas = wanted.delta_indices(features)
    dropped = wanted.drop_last_frames if drop_last_frames is None else drop_last_frames
    resolved = replace(options, delta_indices=tuple(deltas.items()), drop_last_frames=dropped)
    open_recipe(resolved)  # Says what is wrong with the windows before they are announced.
    lines = [
        f"Policy {wanted.policy}; windows in frames:",
        *_window_lines(deltas),
        f"  {_drop_text(dropped)}",
        f"  {_image_text(wanted, [feature for feature in features if feature.is_camera], options.image_size)}",
    ]
    return resolved, "\n".join(lines)


def _window_lines(deltas: Mapping[str, Sequence[int]]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, offsets in deltas.items():
        names.setdefault(compact(offsets), []).append(name)
    return [f"  {', '.join(group)}: {offsets}" for offsets, group in names.items()] or [
        "  none: the anchor's own frame"
    ]


def _drop_text(dropped: int) -> str:
    if not dropped:
        return "every frame is an anchor"
    return f"the last {'frame' if dropped == 1 else f'{dropped} frames'} of each episode: no anchors"


def _image_text(wanted: PolicyWindows, cameras: Sequence[Feature], stored: tuple[int, int] | None) -> str:
    """What the policy does with images, and the size to store them at where that is another than asked for."""
    if wanted.image_size is None:
        return "images: its configuration names no size"
    height, width = _size_of_each(wanted.image_size, wanted.fit, len(cameras))
    if wanted.fit == "crop":
        return f"images: the policy cuts {height}x{width} out of them, so that they must be stored larger"
    size = _size_to_store((height, width), wanted.fit, cameras)
    how = {"pad": " and pads", "beside": " each, beside one another"}.get(wanted.fit, "")
    text = f"images: the policy resizes them to {height}x{width}{how}"
    is_smaller = all(rows * columns <= size[0] * size[1] for rows, columns in map(_height_and_width, cameras))
    if stored == size or (stored is None and is_smaller):
        return text
    return f"{text}; --image-size {size[0]}x{size[1]} stores them so that nothing is left to resize"


def _size_of_each(size: tuple[int, int], fit: Fit, num_cameras: int) -> tuple[int, int]:
    """What the policy brings one camera's images to; cameras beside one another share the width."""
    height, width = size
    return (height, width // max(1, num_cameras)) if fit == "beside" else size


def _size_to_store(size: tuple[int, int], fit: Fit, cameras: Sequence[Feature]) -> tuple[int, int]:
    """The size that makes the policy's own resizing change nothing: without the bars, which policies put elsewhere.

    lerobot's `resize_with_pad` scales by the larger of both ratios, and rounds down.
    """
    height, width = size
    fitting = set()
    for camera in cameras:
        rows, columns = _height_and_width(camera)
        ratio = max(rows / height, columns / width)
        fitting.add((int(rows / ratio), int(columns / ratio)))
    return fitting.pop() if fit == "pad" and len(fitting) == 1 else size


def _height_and_width(camera: Feature) -> tuple[int, int]:
    """As declared, channels first or last."""
    first, second, third = camera.shape if len(camera.shape) == 3 else (*camera.shape[:2], 1)
    return (second, third) if first in _CHANNELS else (first, second)
