"""The numbers of many samples at once: headers parsed once, bodies copied once, features taken as columns.

Nearly all samples of an output have the same safetensors header, byte for byte; only those at the edges of an episode
differ. So a header is parsed and checked when it is first seen, and bodies behind equal headers are gathered together.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predecode.reader.ranges import REMEDY
from predecode.reader.selection import FeatureWindow, Selection
from predecode.transforms.errors import FormatError
from predecode.transforms.features import MAX_DIMENSIONS

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype("?"),
}
_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 1 << 20
_MAX_KNOWN_BYTES = 1 << 26
"""Headers are kept up to so many bytes together: that is thousands of those that the job writes."""

_MAX_DIMENSIONS = MAX_DIMENSIONS + 1


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies in a body: bytes [start, stop)."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorLayout:
    """What a header says; equal headers give the same object.

    Attributes:
        places: Per tensor name.
        header_bytes: Where the body begins.
        body_bytes: Its length.
    """

    places: Mapping[str, TensorPlace]
    header_bytes: int
    body_bytes: int

    def take(self, name: str, bodies: NDArray[np.uint8]) -> NDArray[Any]:
        """One tensor of all bodies: (G, *shape)."""
        place = self.places[name]
        column = np.ascontiguousarray(bodies[:, place.start : place.stop])
        if place.dtype == np.bool_:
            return (column != 0).reshape(len(bodies), *place.shape)  # Others than 0 and 1 would mislead numpy.
        return column.view(place.dtype).reshape(len(bodies), *place.shape)


class TensorLayouts:
    """The layouts of an output's samples, by header. Safe to use from several threads."""

    def __init__(self, selection: Selection) -> None:
        """Knows none yet."""
        self._selection = selection
        self._known: dict[tuple[bytes, int], TensorLayout] = {}
        self._known_bytes = 0

    def of(self, content: memoryview, *, num_anchors: int) -> TensorLayout:
        """The layout of a safetensors member.

        Args:
            content: The member.
            num_anchors: Anchors of its sample.

        Raises:
            FormatError: it is not what the format says.
        """
        if len(content) < _LENGTH.size:
            raise FormatError(f"The tensors are cut short. {REMEDY}")
        (length,) = _LENGTH.unpack_from(content)
        if not length <= min(_MAX_HEADER_BYTES, len(content) - _LENGTH.size):
            raise FormatError(f"The tensors' header is longer than they are. {REMEDY}")
        header = bytes(content[: _LENGTH.size + length])
        layout = self._known.get((header, num_anchors))
        if layout is None:
            layout = _parse(header)
            self._check(layout, num_anchors)
            if self._known_bytes < _MAX_KNOWN_BYTES:
                self._known_bytes += len(header)
                self._known[header, num_anchors] = layout
        if len(content) != layout.header_bytes + layout.body_bytes:
            raise FormatError(f"The tensors are cut short. {REMEDY}")
        return layout

    def _check(self, layout: TensorLayout, num_anchors: int) -> None:
        """Checks dtypes and shapes of all that will be taken."""
        item_format = self._selection.item_format
        for window in self._selection.windows.values():
            feature = window.feature
            stored = item_format.delta_indices.get(feature.name)
            if stored is not None:
                _require(layout, f"{feature.name}_is_pad", "?", (num_anchors, len(stored)))
            if feature.is_camera:
                continue
            num_rows = num_anchors if stored is None else None
            _require(layout, feature.name, feature.dtype, (num_rows, *feature.shape))
            if stored is not None:
                _require(layout, f"{feature.name}/index", "<i4", (num_anchors, len(stored)))
                if 0 not in stored:
                    _require(layout, f"{feature.name}/anchor", "<i4", (num_anchors,))


def gather_number(
    window: FeatureWindow,
    layout: TensorLayout,
    bodies: NDArray[np.uint8],
    anchors: NDArray[np.int64],
    *,
    where: Callable[[int], str],
) -> NDArray[Any]:
    """The values of one number feature: (G, T, *shape), with T = 1 where the item has no deltas.

    Args:
        window: What items show of it.
        layout: Of all the bodies.
        bodies: (G, B) uint8.
        anchors: (G,) anchors within their samples.
        where: What to call the sample of each of them in messages.

    Raises:
        FormatError: an index leads out of the stored rows.
    """
    name, group = window.feature.name, np.arange(len(bodies))
    rows = layout.take(name, bodies)
    if f"{name}/index" not in layout.places:
        own = rows[group, anchors][:, None]
        return own if window.num_slots == 1 else np.repeat(own, window.num_slots, axis=1)
    if window.columns is None:
        index = layout.take(f"{name}/anchor", bodies)[group, anchors][:, None]
    else:
        index = layout.take(f"{name}/index", bodies)[group, anchors][:, list(window.columns)]
    if index.size and (index.min() < 0 or index.max() >= rows.shape[1]):
        first = int(np.argmax(((index < 0) | (index >= rows.shape[1])).any(axis=1)))
        raise FormatError(f"{where(first)}, {name}: an index leads out of the {rows.shape[1]} rows. {REMEDY}")
    return rows[group[:, None], index]


def gather_mask(
    window: FeatureWindow, layout: TensorLayout, bodies: NDArray[np.uint8], anchors: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """The mask of one feature with deltas: (G, T) bool."""
    if window.columns is None:
        return np.zeros((len(bodies), window.num_slots), np.bool_)
    masks = layout.take(f"{window.feature.name}_is_pad", bodies)
    return masks[np.arange(len(bodies)), anchors][:, list(window.columns)]


def _parse(header: bytes) -> TensorLayout:
    try:
        content = json.loads(header[_LENGTH.size :])
        content.pop("__metadata__", None)
        places = {
            name: TensorPlace(_DTYPES[spec["dtype"]], tuple(spec["shape"]), *_bounds(spec["data_offsets"]))
            for name, spec in content.items()
        }
        sound = all(_is_sound(place) for place in places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"The tensors' header is damaged: {error!r:.200}. {REMEDY}") from error
    if not sound:
        raise FormatError(f"The tensors' header gives sizes that do not fit. {REMEDY}")
    body_bytes = max((place.stop for place in places.values()), default=0)
    return TensorLayout(places, len(header), body_bytes)


def _bounds(data_offsets: Any) -> tuple[int, int]:
    start, stop = data_offsets
    return start, stop


def _is_sound(place: TensorPlace) -> bool:
    numbers = (*place.shape, place.start, place.stop)
    return (
        len(place.shape) <= _MAX_DIMENSIONS
        and all(type(number) is int and 0 <= number < 1 << 40 for number in numbers)
        and math.prod(place.shape) * place.dtype.itemsize == place.stop - place.start
    )


def _require(layout: TensorLayout, name: str, dtype: str, shape: tuple[int | None, ...]) -> None:
    place = layout.places.get(name)
    fits = (
        place is not None
        and place.dtype == np.dtype(dtype)
        and len(place.shape) == len(shape)
        and all(wanted in (None, got) for got, wanted in zip(place.shape, shape, strict=True))
    )
    if not fits:
        got = "none" if place is None else f"{place.dtype} {place.shape}"
        raise FormatError(f"Expected the tensor {name} as {dtype} {shape}, got {got}. {REMEDY}")
