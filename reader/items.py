"""From the members of a sample to its items: what lerobot's map-style dataset gives for the same anchors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from predecode.reader.item_format import ItemFormat, StoredFeature
from predecode.reader.ranges import REMEDY
from predecode.reader.sample_rows import SampleRows
from predecode.transforms.errors import FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import DATA_MEMBER, JSON_MEMBER
from predecode.transforms.images import ImageCodec, image_codec

Item: TypeAlias = dict[str, torch.Tensor | str]
"""One training window, with the keys, dtypes and shapes of lerobot's `LeRobotDataset[i]`."""


def sample_items(members: Mapping[str, bytes], item_format: ItemFormat, *, where: str) -> Iterator[Item]:
    """Gives the items of one sample, in anchor order.

    Frames are decoded when the first item needs them, each once, and kept no longer than the last item does.

    Args:
        members: Content by extension.
        item_format: Of the output that the sample belongs to.
        where: What to call the sample in messages.

    Yields:
        Per anchor a dict in the order of `item_format.item_keys`. Frames are float32 in [0, 1]: (C, H, W), with deltas
        (T, C, H, W), but (C, H, W) where a video has a single delta. Numbers have their item's shape, with deltas
        (T, ...). Masks are bool (T,).

    Raises:
        FormatError: a member is missing or is not what the format says.
    """
    missing = [member for member in item_format.members if member not in members]
    if missing:
        raise FormatError(
            f"{where}: expected the members {', '.join(item_format.members)}; missing: {missing}. {REMEDY}"
        )
    rows = SampleRows.parse(item_format, members[JSON_MEMBER], members[DATA_MEMBER], where=where)
    codec = image_codec(item_format.image_codec)
    frames = {
        camera.name: _SampleFrames(camera, members[item_format.camera_member(camera.name)], rows, codec)
        for camera in item_format.cameras
    }
    for anchor in range(rows.num_anchors):
        values: Item = {feature.name: rows.value(feature, anchor) for feature in item_format.numbers}
        values |= {name: rows.text[name][anchor] for name in item_format.text_features}
        values |= {f"{name}_is_pad": rows.is_pad(name, anchor) for name in item_format.delta_indices}
        for camera in item_format.cameras:
            window = _to_float(frames[camera.name].window(anchor))
            values[camera.name] = window[0] if _is_squeezed(camera, item_format) else window
        yield {key: values[key] for key in item_format.item_keys}


def _is_squeezed(camera: StoredFeature, item_format: ItemFormat) -> bool:
    """Whether the axis of deltas is dropped: without deltas, and by lerobot also for the single delta of a video."""
    deltas = item_format.delta_indices.get(camera.name)
    return deltas is None or (camera.kind is Kind.VIDEO and len(deltas) == 1)


def _to_float(frames: NDArray[np.uint8]) -> torch.Tensor:
    """(T, H, W, C) uint8 to (T, C, H, W) float32: `value / 255` in float32, as lerobot does it."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)


class _SampleFrames:
    """The frames of one camera in one sample. Windows must be asked for in anchor order."""

    def __init__(self, camera: StoredFeature, content: bytes, rows: SampleRows, codec: ImageCodec) -> None:
        self._camera = camera
        self._content = memoryview(content)
        self._where = rows.where
        self._codec = codec
        if rows.item_format.has_runs:
            self._index, self._offsets = rows.frame_index(camera.name), rows.frame_offsets(camera.name)
        else:
            self._index, self._offsets = np.zeros((rows.num_anchors, 1), np.int32), np.array([0, len(content)])
        if self._offsets[-1] != len(content):
            raise FormatError(
                f"{rows.where}: expected {self._offsets[-1]} bytes of frames of {camera.name}, got {len(content)}. "
                + REMEDY
            )
        self._last_anchor = np.zeros(len(self._offsets) - 1, np.int64)
        for anchor, index in enumerate(self._index):
            self._last_anchor[index] = anchor
        self._decoded: dict[int, NDArray[np.uint8]] = {}

    def window(self, anchor: int) -> NDArray[np.uint8]:
        """The frames of an anchor's window: uint8, (T, H, W, C)."""
        places = self._index[anchor].tolist()
        for place in places:
            if place not in self._decoded:
                self._decoded[place] = self._decode(place)
        frames = np.stack([self._decoded[place] for place in places])
        for place in set(places):
            if self._last_anchor[place] <= anchor:
                del self._decoded[place]
        return frames

    def _decode(self, place: int) -> NDArray[np.uint8]:
        content = self._content[self._offsets[place] : self._offsets[place + 1]]
        try:
            return self._codec.decode(content, out=np.empty(self._camera.shape, np.uint8))
        except FormatError as error:
            raise FormatError(f"{self._where}, {self._camera.name}, frame {place} of the sample: {error}") from error
