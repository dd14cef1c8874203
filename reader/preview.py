"""A contact sheet of windows, for a person to see at once whether windows and padding are right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from predecode.reader.choosing import Choice
from predecode.reader.contact_sheet import Block, CameraRow, CurveRow, Slot, draw_sheet
from predecode.reader.item_format import ItemFormat, StoredFeature
from predecode.reader.lookup import FoundWindow, find_window
from predecode.reader.opening import open_output
from predecode.reader.ranges import RangeReader, open_ranges
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import FormatError, OutputError, UsageError
from predecode.transforms.storage import Folder
from predecode.transforms.windows import compact
from predecode.transforms.wording import counted

MAX_SLOTS = 16
"""Frames drawn of one window."""

_FORMATS = {"": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_CURVE_ROWS = 4


def draw_preview(
    url: str,
    picture_path: str,
    *,
    split: str = "train",
    choice: Choice | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> int:
    """Draws some windows of a split: a row per window and camera, and a plot per windowed number feature.

    If nothing is asked for, the first and the last window of an episode are among them, because there the padding is;
    the others are from other episodes, chosen by a hash: the same output gives the same picture.

    Args:
        url: The output: a folder or an fsspec URL.
        picture_path: The local file to write: a PNG, or what its ending says.
        split: "train" or "val".
        choice: Which windows; fewer are drawn where there are fewer.
        storage_options: For fsspec.

    Returns:
        How many windows were drawn.

    Raises:
        FormatError: the output is incomplete or damaged, or has no such split.
        UsageError: there is no such window, or the picture's ending is none that can be written.
        OutputError: the picture cannot be written.
        OSError: storage fails.
    """
    picture_format = _format_of(picture_path)
    folder, manifest, index = open_output(
        Folder.of(url, storage_options),
        lambda folder, manifest: (folder, manifest, SplitIndex(folder, manifest, split)),
    )
    item_format, reader = ItemFormat.of(manifest), open_ranges(folder)
    if not index.num_items:
        raise FormatError(f"{folder}: split {split!r} has no windows to draw. Give another --split.")
    blocks = [_block(index, reader, item) for item in (choice or Choice()).items(index)]
    reader.close()
    num_anchors, num_episodes = (manifest["splits"][split][key] for key in ("anchors", "episodes"))
    windows = ", ".join(f"{name} {compact(deltas)}" for name, deltas in item_format.delta_indices.items())
    left_out = f"curves of the first {MAX_CURVE_ROWS} numbers; " if len(_windowed(item_format)) > MAX_CURVE_ROWS else ""
    picture = draw_sheet(
        f"{folder}: {len(blocks)} of {num_anchors} windows of split {split}, {counted(num_episodes, 'episode')}",
        f"{item_format.fps:g} fps, {item_format.image_codec}; {left_out}deltas in frames: {windows or 'none'}",
        blocks,
    )
    try:
        picture.save(os.fspath(picture_path), format=picture_format, quality=95)
    except OSError as error:
        raise OutputError(f"Cannot write {picture_path}: {error.strerror or error}. Name another file.") from error
    return len(blocks)


def _format_of(picture_path: str) -> str:
    ending = os.path.splitext(picture_path)[1].lower()
    if ending not in _FORMATS:
        raise UsageError(
            f"Expected a picture's name that ends in {', '.join(filter(None, _FORMATS))}, got {picture_path!r}."
        )
    return _FORMATS[ending]


def _block(index: SplitIndex, reader: RangeReader, item: int) -> Block:
    window = find_window(index, reader, item)
    rows, item_format = window.rows, window.rows.item_format
    episode_index = int(window.index.episode_index[window.row])
    items = index.items_of(episode_index)
    which = " and ".join(
        name for name, end in zip(("first", "last"), (items[0], items[-1]), strict=True) if end == item
    )
    title = f"episode {episode_index}, anchor at frame {rows.frame_number(window.anchor)}"
    if which:
        title += f", the {which} window of its episode"
    texts = [f"{name}: {rows.text[name][window.anchor]!r}" for name in item_format.text_features]
    return Block(
        "   ".join([title, *reversed(texts)]),
        [
            *(_camera_row(window, camera) for camera in item_format.cameras),
            *(_curve_row(window, number) for number in _windowed(item_format)[:MAX_CURVE_ROWS]),
        ],
    )


def _windowed(item_format: ItemFormat) -> list[StoredFeature]:
    return [number for number in item_format.numbers if number.name in item_format.delta_indices]


def _camera_row(window: FoundWindow, camera: StoredFeature) -> CameraRow:
    deltas = window.rows.item_format.delta_indices.get(camera.name)
    shown = deltas or (0,)
    slots = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), MAX_SLOTS)).round().astype(int)).tolist()
    is_pad, numbers = window.is_pad(camera.name), window.frame_numbers(camera.name)
    height, width, _ = camera.shape
    notes = [f"{height}x{width}"]
    if deltas is None:
        notes.append("no deltas")
    elif len(slots) < len(deltas):
        notes.append(f"{len(slots)} of {len(deltas)} deltas")
    images = window.frames(camera.name, slots)
    return CameraRow(
        camera.name,
        ", ".join(notes),
        [
            Slot(shown[slot], numbers[slot], bool(is_pad[slot]), image)
            for slot, image in zip(slots, images, strict=True)
        ],
    )


def _curve_row(window: FoundWindow, number: StoredFeature) -> CurveRow:
    deltas = window.rows.item_format.delta_indices[number.name]
    values = window.rows.value(number, window.anchor).numpy().astype(np.float64).reshape(len(deltas), -1)
    return CurveRow(number.name, deltas, values, window.is_pad(number.name))
