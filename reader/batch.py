"""Filling batches: each item's bytes fetched, checked and decoded straight into its place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predecode.reader.buffers import BufferPool
from predecode.reader.ranges import REMEDY, Range, RangeReader
from predecode.reader.selection import FeatureWindow, Selection
from predecode.reader.shard_index import ShardIndex
from predecode.reader.split import SplitIndex
from predecode.reader.tensors import TensorLayout, TensorLayouts, gather_mask, gather_number
from predecode.transforms.errors import FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import DATA_MEMBER, JSON_MEMBER
from predecode.transforms.images import ImageCodec


@dataclass(slots=True)
class Batch:
    """Room for B items, filled in any order.

    Attributes:
        numbers: Per number feature (B, T, *shape).
        masks: Per windowed feature (B, T) bool.
        frames: Per camera (B, T, H, W, C): uint8, or float32 in [0, 1].
        texts: Per text feature B strings.
    """

    numbers: dict[str, NDArray[Any]]
    masks: dict[str, NDArray[np.bool_]]
    frames: dict[str, NDArray[Any]]
    texts: dict[str, list[str]] = field(default_factory=dict)

    def tensors(self, selection: Selection) -> dict[str, Any]:
        """The batch as `default_collate` would make it of its items: tensors, and lists of strings."""
        values: dict[str, Any] = dict(self.texts)
        values |= {f"{name}_is_pad": torch.from_numpy(mask) for name, mask in self.masks.items()}
        for window in selection.numbers:
            value = torch.from_numpy(self.numbers[window.feature.name])
            values[window.feature.name] = value if window.keeps_time else value[:, 0]
        for window in selection.cameras:
            # Channels move in front by strides alone: nothing is copied.
            value = torch.from_numpy(self.frames[window.feature.name]).permute(0, 1, 4, 2, 3)
            values[window.feature.name] = value if window.keeps_time else value[:, 0]
        return {key: values[key] for key in selection.item_keys}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one item lies: the index of its shard, the sample's row there, the anchor within the sample."""

    index: ShardIndex
    row: int
    anchor: int
    slots: Mapping[str, Sequence[int]]
    """Per camera stored as a `frames` member, which of its frames each wanted delta shows."""

    @property
    def where(self) -> str:
        """What to call the sample in messages."""
        return f"{self.index.tar_path}, sample {self.index.keys[self.row]}"


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
        self._layouts = TensorLayouts(selection)
        self._pool = BufferPool(max_kept=max_buffers)
        self._local = threading.local()
        item_format = selection.item_format
        self._members = [
            (window.feature.name, item_format.camera_member(window.feature.name)) for window in selection.cameras
        ]
        self._member_of = dict(self._members)
        self._runs = [
            (window.feature.name, self._member_of[window.feature.name], window.deltas or (0,))
            for window in (selection.cameras if item_format.has_runs else ())
        ]

    def allocate(self, size: int) -> Batch:
        """Makes room for so many items."""
        selection = self._selection
        return Batch(
            numbers={
                window.feature.name: np.empty(
                    (size, window.num_slots, *window.feature.shape), np.dtype(window.feature.dtype)
                )
                for window in selection.numbers
            },
            masks={
                window.feature.name: np.empty((size, window.num_slots), np.bool_)
                for window in selection.windows.values()
                if window.deltas is not None
            },
            frames={
                window.feature.name: self._room((size, window.num_slots, *window.feature.shape), window)
                for window in selection.cameras
            },
            texts={name: [""] * size for name in selection.item_format.text_features},
        )

    def _room(self, shape: tuple[int, ...], window: FeatureWindow) -> NDArray[Any]:
        """Floats lie in memory channels first, as lerobot's do: the last bits of a convolution depend on that."""
        size = int(np.prod(shape))
        if self._stays_uint8(window):
            return self._pool.take(size).reshape(shape)
        *outer, height, width, channels = shape
        planes = self._pool.take(size * 4).view(np.float32).reshape(*outer, channels, height, width)
        return np.moveaxis(planes, -3, -1)

    def _stays_uint8(self, window: FeatureWindow) -> bool:
        """lerobot leaves only videos uint8; stored images become floats whatever is asked for."""
        return self._return_uint8 and window.feature.kind is Kind.VIDEO

    def fill(self, batch: Batch, first_place: int, items: NDArray[np.int64]) -> None:
        """Fills consecutive places of a batch.

        Args:
            batch: From `allocate`.
            first_place: Of the first item.
            items: (G,) item numbers.

        Raises:
            FormatError: what is fetched is not what was written; the message names shard, sample and offset.
            OSError: storage fails.
        """
        places = self._locate(items)
        contents = iter(self._ranges.read_ranges([part for place in places for part in self._parts(place)]))
        groups: dict[TensorLayout, list[tuple[int, memoryview]]] = {}
        for number, place in enumerate(places):
            at = first_place + number
            self._fill_text(batch, at, place, self._checked(place, JSON_MEMBER, next(contents)))
            tensors = memoryview(self._checked(place, DATA_MEMBER, next(contents)))
            groups.setdefault(self._layout(place, tensors), []).append((number, tensors))
            for window in self._selection.cameras:
                self._fill_frames(batch, at, window, place, contents)
        for layout, members in groups.items():
            self._fill_numbers(batch, first_place, places, layout, members)

    def _locate(self, items: NDArray[np.int64]) -> list[_Place]:
        located = self._split.locate(items)
        anchor_frames = located.anchor_number * self._selection.item_format.anchor_stride
        places = []
        for shard, row, anchor, frame in zip(
            located.shard.tolist(),
            located.row.tolist(),
            located.anchor.tolist(),
            anchor_frames.tolist(),
            strict=True,
        ):
            index = self._split.shard_index(shard)
            slots = {name: _slots(index, row, member, deltas, frame) for name, member, deltas in self._runs}
            places.append(_Place(index, row, anchor, slots))
        return places

    def _parts(self, place: _Place) -> Iterator[Range]:
        """The ranges that an item needs, in the order in which `fill` takes them."""
        yield place.index.member_range(place.row, JSON_MEMBER)
        yield place.index.member_range(place.row, DATA_MEMBER)
        for camera, member in self._members:
            slots = place.slots.get(camera)
            if slots is None:
                yield place.index.member_range(place.row, member)
            else:
                yield from place.index.frame_ranges(place.row, member, sorted(set(slots)))

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
            text = json.loads(bytes(content))
            found = {name: text[name][place.anchor] for name in batch.texts}
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise FormatError(f"{place.where}: the strings are damaged: {error!r:.200}. {REMEDY}") from error
        for name, value in found.items():
            if type(value) is not str:
                raise FormatError(f"{place.where}: expected {name} as a string, got {value!r:.80}. {REMEDY}")
            batch.texts[name][at] = value

    def _fill_frames(
        self, batch: Batch, at: int, window: FeatureWindow, place: _Place, contents: Iterator[bytes | memoryview]
    ) -> None:
        """Decodes each frame once, into the first slot that shows it, and copies it to the others."""
        name = window.feature.name
        room, member = batch.frames[name][at], self._member_of[name]
        slots = place.slots.get(name) or [0] * window.num_slots
        for stored in sorted(set(slots)):
            content = next(contents)
            if self._verify and name in place.slots:
                place.index.check_frame(content, place.row, member, stored)
            elif self._verify:
                place.index.check_member(content, place.row, member)
            first, *others = [slot for slot, shown in enumerate(slots) if shown == stored]
            self._decode(content, room[first], place, member)
            for slot in others:
                room[slot] = room[first]

    def _decode(self, content: bytes | memoryview, room: NDArray[Any], place: _Place, member: str) -> None:
        try:
            if room.dtype == np.uint8:
                self._codec.decode(content, out=room)
                return
            np.copyto(room, self._codec.decode(content, out=self._scratch(room.shape)))
        except FormatError as error:
            raise FormatError(f"{place.where}, {member}: {error}") from error
        # As lerobot does it: a multiplication by 1/255 would differ in the last bit.
        np.divide(room, np.float32(255), out=room)

    def _scratch(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Room for one decoded frame, each thread's own."""
        room: NDArray[np.uint8] | None = getattr(self._local, "room", None)
        if room is None or room.shape != shape:
            room = self._local.room = np.empty(shape, np.uint8)
        return room

    def _fill_numbers(
        self,
        batch: Batch,
        first_place: int,
        places: Sequence[_Place],
        layout: TensorLayout,
        members: Sequence[tuple[int, memoryview]],
    ) -> None:
        """Fills numbers and masks of items whose tensors have the same layout."""
        chosen = [places[number] for number, _ in members]
        at = first_place + np.array([number for number, _ in members])
        anchors = np.array([place.anchor for place in chosen])
        bodies = np.stack([np.frombuffer(tensors, np.uint8, offset=layout.header_bytes) for _, tensors in members])
        for window in self._selection.numbers:
            batch.numbers[window.feature.name][at] = gather_number(
                window, layout, bodies, anchors, where=lambda number: chosen[number].where
            )
        for window in self._selection.windows.values():
            if window.deltas is not None:
                batch.masks[window.feature.name][at] = gather_mask(window, layout, bodies, anchors)
        if self._pad_zeros:
            for name, mask in batch.masks.items():
                values = batch.frames[name] if name in batch.frames else batch.numbers[name]
                for place in at.tolist():
                    values[place][mask[place]] = 0


def _slots(index: ShardIndex, row: int, member: str, deltas: Sequence[int], anchor_frame: int) -> list[int]:
    """Which frames of a `frames` member a window shows: those stored, which end where the episode does."""
    frames = index.frames[member]
    numbers = frames.number[frames.first[row] : frames.first[row + 1]]
    wanted = np.clip(anchor_frame + np.asarray(deltas, np.int64), numbers[0], numbers[-1])
    slots = np.searchsorted(numbers, wanted)
    if not np.array_equal(numbers[slots], wanted):
        raise FormatError(
            f"{index.tar_path}, sample {index.keys[row]}, {member}: the frames of a window are not there. {REMEDY}"
        )
    return slots.tolist()
