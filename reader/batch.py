"""Filling batches: each item's bytes fetched, checked and decoded straight into its place."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from predecode.reader.buffers import ALIGNMENT, BufferPool, pinned_room, room_for_images
from predecode.reader.camera import CameraMember, Shown
from predecode.reader.gathering import Gathering, StackedTensors
from predecode.reader.ranges import REMEDY, Range, RangeReader
from predecode.reader.selection import FeatureWindow, Selection
from predecode.reader.shard_index import ShardIndex
from predecode.reader.split import Located, SplitIndex
from predecode.reader.tensors import TensorLayout, TensorLayouts
from predecode.transforms.errors import FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import DATA_MEMBER, JSON_MEMBER
from predecode.transforms.images import ImageCodec

_JSON = json.JSONDecoder()


@dataclass(slots=True)
class Batch:
    """Room for B items, filled in any order.

    Attributes:
        numbers: Per number feature (B, T, *shape).
        masks: Per windowed feature (B, T) bool.
        frames: Per camera (B, T, H, W, C): uint8, or float32 in [0, 1]. Tensors, since page-locked memory is torch's.
        texts: Per text feature B strings.
    """

    numbers: dict[str, NDArray[Any]]
    masks: dict[str, NDArray[np.bool_]]
    frames: dict[str, torch.Tensor]
    texts: dict[str, list[str]] = field(default_factory=dict)

    def tensors(self, selection: Selection) -> dict[str, Any]:
        """The batch as `default_collate` would make it of its items: tensors, and lists of strings."""
        values: dict[str, Any] = dict(self.texts)
        values |= {f"{name}_is_pad": torch.from_numpy(mask) for name, mask in self.masks.items()}
        for window in selection.numbers:
            numbers = self.numbers[window.feature.name]
            values[window.feature.name] = torch.from_numpy(numbers if window.keeps_time else numbers[:, 0])
        for window in selection.cameras:
            # Channels move in front by strides alone: nothing is copied.
            frames = self.frames[window.feature.name].permute(0, 1, 4, 2, 3)
            values[window.feature.name] = frames if window.keeps_time else frames[:, 0]
        return {key: values[key] for key in selection.item_keys}


@dataclass(slots=True)
class _Place:
    """Where one item lies, and what it shows.

    Attributes:
        index: Of its shard.
        row: The sample's row there.
        anchor: Number of the anchor within the sample.
        shown: Per camera the images of its window.
    """

    index: ShardIndex
    row: int
    anchor: int
    shown: Sequence[Shown]

    @property
    def where(self) -> str:
        """What to call the sample in messages."""
        return f"{self.index.tar_path}, sample {self.index.keys[self.row]}"


@dataclass(slots=True)
class _Image:
    """Bytes of an image, and where it goes.

    Attributes:
        content: Encoded.
        room: Of its camera's window in the batch: (T, H, W, C).
        slots: Those of the window that show it.
        place: Of its item, for messages.
        camera: The same.
    """

    content: bytes | memoryview
    room: NDArray[Any]
    slots: tuple[int, ...]
    place: _Place
    camera: CameraMember


Fetched: TypeAlias = tuple[Sequence[_Place], Sequence[bytes | memoryview]]
"""Where items lie, and their bytes."""


class BatchReader:
    """Fetches and decodes items; several threads may fill parts of one batch at once."""

    def __init__(
        self,
        selection: Selection,
        split: SplitIndex,
        ranges: RangeReader,
        codec: ImageCodec,
        *,
        return_uint8: bool,
        pad_zeros: bool,
        verify: bool = True,
        max_buffers: int = 8,
    ) -> None:
        """Opens nothing.

        Args:
            selection: What items show.
            split: Where they are.
            ranges: How bytes are fetched.
            codec: Of the frames.
            return_uint8: Whether frames of videos stay uint8.
            pad_zeros: Whether padded slots are zeros instead of repeating the episode's edge.
            verify: Whether every member is checked against its checksum.
            max_buffers: Buffers of frames that are kept for later.
        """
        self._selection = selection
        self._split = split
        self._ranges = ranges
        self._codec = codec
        self._return_uint8 = return_uint8
        self._pad_zeros = pad_zeros
        self._verify = verify
        self._gathering = Gathering(selection)
        self._layouts = TensorLayouts(selection, self._gathering.tensors)
        self._pool = BufferPool(max_kept=max_buffers)
        self._local = threading.local()
        item_format = selection.item_format
        self._cameras = [
            CameraMember(window, item_format.camera_member(window.feature.name), item_format.has_runs)
            for window in selection.cameras
        ]
        self._numbers = [
            (window.feature.name, (window.num_slots, *window.feature.shape), np.dtype(window.feature.dtype))
            for window in selection.numbers
        ]
        self._masks = [(name, window.num_slots) for name, window in selection.windows.items() if window.has_mask]
        self._frames = [self._frames_of(window) for window in selection.cameras]
        self._whole_images = [camera.whole() for camera in self._cameras]

    def allocate(self, size: int, *, pinned: bool = False) -> Batch:
        """Makes room for so many items.

        Args:
            size: How many.
            pinned: Whether images lie in page-locked memory, which needs CUDA.
        """
        return Batch(
            numbers={name: np.empty((size, *shape), dtype) for name, shape, dtype in self._numbers},
            masks={name: np.empty((size, num_slots), np.bool_) for name, num_slots in self._masks},
            frames=self._rooms(size, pinned=pinned),
            texts={name: [""] * size for name in self._selection.item_format.text_features},
        )

    def _rooms(self, size: int, *, pinned: bool) -> dict[str, torch.Tensor]:
        """Room for all cameras in one piece of memory."""
        bytes_each = [size * num_bytes + -size * num_bytes % ALIGNMENT for _, _, _, num_bytes in self._frames]
        memory = pinned_room(sum(bytes_each)) if pinned else torch.from_numpy(self._pool.take(sum(bytes_each)))
        starts = accumulate(bytes_each, initial=0)
        rooms = {}
        for start, (name, shape, dtype, num_bytes) in zip(starts, self._frames, strict=False):
            part = memory[start : start + size * num_bytes].view(dtype)
            if dtype.is_floating_point:  # As lerobot's lie in memory: the last bits of a convolution depend on that.
                num_slots, height, width, channels = shape
                rooms[name] = part.view(size, num_slots, channels, height, width).permute(0, 1, 3, 4, 2)
            else:
                rooms[name] = part.view(size, *shape)
        return rooms

    def _frames_of(self, window: FeatureWindow) -> tuple[str, tuple[int, ...], torch.dtype, int]:
        """Of a camera's window: name, shape, dtype, bytes. lerobot leaves only videos uint8, never stored images."""
        shape = (window.num_slots, *window.feature.shape)
        dtype = torch.uint8 if self._return_uint8 and window.feature.kind is Kind.VIDEO else torch.float32
        return window.feature.name, shape, dtype, math.prod(shape) * dtype.itemsize

    def fetch(self, items: Located) -> Fetched:
        """Fetches the bytes of some items, for `fill`: what waits for a network, apart from what takes a core.

        Raises:
            FormatError: a shard is missing, or is not what was written.
            OSError: storage fails.
        """
        places = self._places(items)
        return places, self._ranges.read_ranges([part for place in places for part in self._parts(place)])

    def fill(self, batch: Batch, first_place: int, items: Located, fetched: Fetched | None = None) -> None:
        """Fills consecutive places of a batch.

        Args:
            batch: From `allocate`.
            first_place: Of the first item.
            items: Where they lie.
            fetched: What `fetch` gave for them; fetched now if not given.

        Raises:
            FormatError: what is fetched is not what was written; the message names shard, sample and offset.
            OSError: storage fails.
        """
        if not len(items):
            return
        try:
            self._fill(batch, first_place, fetched or self.fetch(items))
        except FormatError:
            if not self._ranges.distrust(self._split.tar_files(items.shard)):
                raise
            self._fill(batch, first_place, self.fetch(items))

    def _fill(self, batch: Batch, first_place: int, fetched: Fetched) -> None:
        places, contents = fetched[0], iter(fetched[1])
        tensors: list[tuple[TensorLayout, memoryview]] = []
        images: list[_Image] = []
        rooms = [batch.frames[camera.name].numpy() for camera in self._cameras]
        for at, place in enumerate(places, first_place):
            self._fill_text(batch, at, place, self._checked(place, JSON_MEMBER, next(contents)))
            numbers = memoryview(self._checked(place, DATA_MEMBER, next(contents)))
            tensors.append((self._layout(place, numbers), numbers))
            for camera, room, shown in zip(self._cameras, rooms, place.shown, strict=True):
                for number, slots in shown.items():
                    content = next(contents)
                    if self._verify:
                        camera.check(content, place.index, place.row, number)
                    images.append(_Image(content, room[at], slots, place, camera))
        here = slice(first_place, first_place + len(places))
        self._gathering.fill(
            {name: values[here] for name, values in batch.numbers.items()},
            {name: mask[here] for name, mask in batch.masks.items()},
            StackedTensors(tensors),
            np.array([place.anchor for place in places]),
            where=lambda number: places[number].where,
        )
        # Last, and with little in between: while one thread is in Python, the others cannot begin their next image.
        for image in images:
            self._decode(image)
        if self._pad_zeros:
            for name, mask in batch.masks.items():
                values = batch.frames[name].numpy() if name in batch.frames else batch.numbers[name]
                values[here][mask[here]] = 0

    def _places(self, items: Located) -> list[_Place]:
        shards, rows, anchors = items.shard.tolist(), items.row.tolist(), items.anchor.tolist()
        indices = map(self._split.shard_index, shards)
        if not self._selection.item_format.has_runs:
            return [_Place(*found, self._whole_images) for found in zip(indices, rows, anchors, strict=True)]
        frames = (items.anchor_number * self._selection.item_format.anchor_stride).tolist()
        return [
            _Place(index, row, anchor, [camera.shown(index, row, frame) for camera in self._cameras])
            for index, row, anchor, frame in zip(indices, rows, anchors, frames, strict=True)
        ]

    def _parts(self, place: _Place) -> list[Range]:
        """The ranges that an item needs, in the order in which `fill` takes them."""
        index, row = place.index, place.row
        parts = [index.member_range(row, JSON_MEMBER), index.member_range(row, DATA_MEMBER)]
        for camera, shown in zip(self._cameras, place.shown, strict=True):
            parts += camera.ranges(index, row, shown)
        return parts

    def _checked(self, place: _Place, member: str, content: bytes | memoryview) -> bytes | memoryview:
        if self._verify:
            place.index.check_member(content, place.row, member)
        return content

    def _layout(self, place: _Place, tensors: memoryview) -> TensorLayout:
        try:
            return self._layouts.of(tensors, num_anchors=int(place.index.anchors[place.row]))
        except FormatError as error:
            raise FormatError(f"{place.where}: {error}") from error

    def _fill_text(self, batch: Batch, at: int, place: _Place, content: bytes | memoryview) -> None:
        try:
            text = _JSON.decode(str(content, "utf-8"))
            found = {name: text[name][place.anchor] for name in batch.texts}
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise FormatError(f"{place.where}: the strings are damaged: {error!r:.200}. {REMEDY}") from error
        for name, value in found.items():
            if type(value) is not str:
                raise FormatError(f"{place.where}: expected {name} as a string, got {value!r:.80}. {REMEDY}")
            batch.texts[name][at] = value

    def _decode(self, image: _Image) -> None:
        """Decodes an image into the first slot that shows it, and copies it to the others."""
        first, *others = image.slots
        room = image.room[first]
        try:
            if room.dtype == np.uint8:
                self._codec.decode(image.content, out=room)
            else:
                np.copyto(room, self._codec.decode(image.content, out=self._scratch(room.shape)))
                # As lerobot does it: a multiplication by 1/255 would differ in the last bit.
                np.divide(room, np.float32(255), out=room)
        except FormatError as error:
            raise FormatError(f"{image.place.where}, {image.camera.member}: {error}") from error
        for slot in others:
            image.room[slot] = room

    def _scratch(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Room for one decoded frame, each thread's own."""
        room: NDArray[np.uint8] | None = getattr(self._local, "room", None)
        if room is None or room.shape != shape:
            room = self._local.room = room_for_images(math.prod(shape)).reshape(shape)
        return room
