"""The headers of samples' tensors: parsed and checked once for all samples that have the same.

Nearly all samples of an output have the same safetensors header, byte for byte; only those at the edges of an episode
differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from predecode.reader.ranges import REMEDY
from predecode.reader.selection import Selection
from predecode.transforms.errors import FormatError
from predecode.transforms.features import MAX_DIMENSIONS
from predecode.transforms.format import TENSORS_LENGTH

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype("?"),
}
_MAX_HEADER_BYTES = 1 << 20
_MAX_KNOWN_BYTES = 1 << 26
"""Headers are kept up to so many bytes together: that is thousands of those that the job writes."""

_MAX_DIMENSIONS = MAX_DIMENSIONS + 1
_ALIGNMENT = 8


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
        header_bytes: Where the body begins.
        body_bytes: Its length.
        padding: Behind a body, so that the next one is aligned for every dtype.
        starts: Where the tensors that will be taken begin in the body, in an order that all layouts share.
        num_rows: The lengths of their first axes.
    """

    header_bytes: int
    body_bytes: int
    padding: bytes
    starts: tuple[int, ...]
    num_rows: tuple[int, ...]


class TensorLayouts:
    """The layouts of an output's samples, by header. Safe to use from several threads."""

    def __init__(self, selection: Selection, tensors: Sequence[str]) -> None:
        """Knows none yet.

        Args:
            selection: What items show.
            tensors: Names of the tensors that will be taken for it.
        """
        self._selection = selection
        self._tensors = tensors
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
        if len(content) < TENSORS_LENGTH.size:
            raise FormatError(f"The tensors are cut short. {REMEDY}")
        (length,) = TENSORS_LENGTH.unpack_from(content)
        if not length <= min(_MAX_HEADER_BYTES, len(content) - TENSORS_LENGTH.size):
            raise FormatError(f"The tensors' header is longer than they are. {REMEDY}")
        header = bytes(content[: TENSORS_LENGTH.size + length])
        layout = self._known.get((header, num_anchors))
        if layout is None:
            layout = self._checked(_parse(header), len(header), num_anchors)
            if self._known_bytes < _MAX_KNOWN_BYTES:
                self._known_bytes += len(header)
                self._known[header, num_anchors] = layout
        if len(content) != layout.header_bytes + layout.body_bytes:
            raise FormatError(f"The tensors are cut short. {REMEDY}")
        return layout

    def _checked(self, places: Mapping[str, TensorPlace], header_bytes: int, num_anchors: int) -> TensorLayout:
        """A layout, once dtypes and shapes of all that will be taken are checked."""
        item_format = self._selection.item_format
        for window in self._selection.windows.values():
            feature = window.feature
            stored = item_format.delta_indices.get(feature.name)
            if stored is not None:
                _require(places, f"{feature.name}_is_pad", "?", (num_anchors, len(stored)))
            if feature.is_camera:
                continue
            num_rows = num_anchors if stored is None else None
            _require(places, feature.name, feature.dtype, (num_rows, *feature.shape))
            if stored is not None:
                _require(places, f"{feature.name}/index", "<i4", (num_anchors, len(stored)))
                if 0 not in stored:
                    _require(places, f"{feature.name}/anchor", "<i4", (num_anchors,))
        body_bytes = max((place.stop for place in places.values()), default=0)
        taken = [places[name] for name in self._tensors]
        return TensorLayout(
            header_bytes,
            body_bytes,
            padding=bytes(-body_bytes % _ALIGNMENT),
            starts=tuple(place.start for place in taken),
            num_rows=tuple(place.shape[0] for place in taken),
        )


def _parse(header: bytes) -> dict[str, TensorPlace]:
    try:
        content = json.loads(header[TENSORS_LENGTH.size :])
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
    return places


def _bounds(data_offsets: Any) -> tuple[int, int]:
    start, stop = data_offsets
    return start, stop


def _is_sound(place: TensorPlace) -> bool:
    numbers = (*place.shape, place.start, place.stop)
    return (
        len(place.shape) <= _MAX_DIMENSIONS
        and all(type(number) is int and 0 <= number < 1 << 40 for number in numbers)
        and math.prod(place.shape) * place.dtype.itemsize == place.stop - place.start
        and place.start % place.dtype.itemsize == 0  # The largest items come first: safetensors' own order.
    )


def _require(places: Mapping[str, TensorPlace], name: str, dtype: str, shape: tuple[int | None, ...]) -> None:
    place = places.get(name)
    fits = (
        place is not None
        and place.dtype == np.dtype(dtype)
        and len(place.shape) == len(shape)
        and all(wanted in (None, got) for got, wanted in zip(place.shape, shape, strict=True))
    )
    if not fits:
        got = "none" if place is None else f"{place.dtype} {place.shape}"
        raise FormatError(f"Expected the tensor {name} as {dtype} {shape}, got {got}. {REMEDY}")
