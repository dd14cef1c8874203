"""The numbers of many items at once: bodies copied once, each feature taken for all items by arithmetic.

Bodies lie one behind the other in one piece of memory. Where a value lies there is a sum: where its body begins, where
its tensor begins in the body, and which row of it is wanted. So samples of different layouts need no loop of their own,
and features that show the anchor's own row are taken together, all those of one dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predecode.reader.ranges import REMEDY
from predecode.reader.selection import FeatureWindow, Selection
from predecode.reader.tensors import TensorLayout
from predecode.transforms.errors import FormatError

Where = Callable[[int], str]
"""What to call the sample of the n-th item in messages."""


class StackedTensors:
    """The tensors of several samples, which may have different layouts."""

    def __init__(self, members: Sequence[tuple[TensorLayout, memoryview]]) -> None:
        """Copies the bodies.

        Args:
            members: Safetensors members with their layouts.
        """
        self._layouts = [layout for layout, _ in members]
        parts = [part for layout, content in members for part in (content[layout.header_bytes :], layout.padding)]
        self._memory = np.frombuffer(b"".join(parts), np.uint8)
        sizes = [layout.body_bytes + len(layout.padding) for layout in self._layouts]
        bases = np.array(list(accumulate(sizes[:-1], initial=0)))
        self._starts = np.array([layout.starts for layout in self._layouts]) + bases[:, None]

    def starts(self, columns: Any, dtype: np.dtype[Any]) -> NDArray[np.int64]:
        """Where tensors begin, in items of their dtype: (G,) or (G, tensors).

        Args:
            columns: Number of a tensor in `TensorLayout.starts`, or several.
            dtype: Of them all.
        """
        return self._starts[:, columns] // dtype.itemsize

    def num_rows(self, column: int) -> NDArray[np.int64]:
        """Length of one tensor in each sample: (G,)."""
        return np.array([layout.num_rows[column] for layout in self._layouts])

    def take(self, positions: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Values by their positions in the memory, in items of their dtype."""
        if dtype == np.bool_:
            return self._memory.take(positions) != 0  # Others than 0 and 1 would mislead numpy.
        return self._memory.view(dtype).take(positions)


@dataclass(frozen=True, slots=True)
class _OwnRows:
    """Features of one dtype that show the anchor's own row. E is the number of values in a row of all of them.

    Attributes:
        dtype: Of the values.
        tensors: (E,) the column of a value's tensor.
        widths: (E,) values of a row of that tensor.
        offsets: (E,) place of a value in its row.
        parts: Per feature its values, half-open, and the shape of one.
    """

    dtype: np.dtype[Any]
    tensors: NDArray[np.int64]
    widths: NDArray[np.int64]
    offsets: NDArray[np.int64]
    parts: Mapping[str, tuple[int, int, tuple[int, ...]]]

    @classmethod
    def of(cls, dtype: np.dtype[Any], windows: Sequence[FeatureWindow], columns: Mapping[str, int]) -> _OwnRows:
        widths = [math.prod(window.feature.shape) for window in windows]
        stops = list(accumulate(widths))
        return cls(
            dtype,
            tensors=np.repeat([columns[window.feature.name] for window in windows], widths),
            widths=np.repeat(widths, widths),
            offsets=np.concatenate([np.arange(width) for width in widths]),
            parts={
                window.feature.name: (stop - width, stop, window.feature.shape)
                for window, width, stop in zip(windows, widths, stops, strict=True)
            },
        )

    def fill(self, numbers: Mapping[str, NDArray[Any]], tensors: StackedTensors, anchors: NDArray[np.int64]) -> None:
        positions = tensors.starts(self.tensors, self.dtype)
        positions += anchors[:, None] * self.widths
        positions += self.offsets
        values = tensors.take(positions, self.dtype)
        for name, (start, stop, shape) in self.parts.items():
            numbers[name][...] = values[:, None, start:stop].reshape(len(values), 1, *shape)


@dataclass(frozen=True, slots=True)
class _StoredColumns:
    """Some columns of a tensor that has a row for each anchor: (anchors, width).

    Attributes:
        dtype: Of the values.
        tensor: Its column.
        width: Values of a row.
        wanted: (T,) those that are taken.
    """

    dtype: np.dtype[Any]
    tensor: int
    width: int
    wanted: NDArray[np.int64]

    def take(self, tensors: StackedTensors, anchors: NDArray[np.int64]) -> NDArray[Any]:
        """The wanted values in the rows of the anchors: (G, T)."""
        first = tensors.starts(self.tensor, self.dtype) + anchors * self.width
        return tensors.take(first[:, None] + self.wanted, self.dtype)


@dataclass(frozen=True, slots=True)
class _IndexedRows:
    """A feature whose rows are found through an index.

    Attributes:
        window: What items show of it.
        tensor: Column of its rows.
        index: Where the index is.
    """

    window: FeatureWindow
    tensor: int
    index: _StoredColumns

    def fill(self, out: NDArray[Any], tensors: StackedTensors, anchors: NDArray[np.int64], where: Where) -> None:
        """Fills (G, T, *shape).

        Raises:
            FormatError: an index leads out of the stored rows.
        """
        index = self.index.take(tensors, anchors)
        num_rows = tensors.num_rows(self.tensor)
        outside = (index < 0) | (index >= num_rows[:, None])
        if outside.any():
            first = int(np.argmax(outside.any(axis=1)))
            name = self.window.feature.name
            raise FormatError(f"{where(first)}, {name}: an index leads out of the {num_rows[first]} rows. {REMEDY}")
        width = math.prod(self.window.feature.shape)
        positions = tensors.starts(self.tensor, out.dtype)[:, None] + np.multiply(index, width, dtype=np.int64)
        values = tensors.take(positions[:, :, None] + np.arange(width), out.dtype)
        out[...] = values.reshape(out.shape)


class Gathering:
    """Takes what items show out of the tensors of their samples."""

    def __init__(self, selection: Selection) -> None:
        """Plans.

        Args:
            selection: What items show.
        """
        self._columns: dict[str, int] = {}
        self._stored = selection.item_format.delta_indices
        own: dict[np.dtype[Any], list[FeatureWindow]] = {}
        self._indexed: dict[str, _IndexedRows] = {}
        for window in selection.numbers:
            name = window.feature.name
            if window.has_index:
                index = self._stored_columns(f"{name}/index" if window.columns else f"{name}/anchor", "<i4", window)
                self._indexed[name] = _IndexedRows(window, self._column(name), index)
            else:
                self._column(name)
                own.setdefault(np.dtype(window.feature.dtype), []).append(window)
        self._own = [_OwnRows.of(dtype, windows, self._columns) for dtype, windows in own.items()]
        self._masks = {
            name: self._stored_columns(f"{name}_is_pad", "?", window) if window.columns else None
            for name, window in selection.windows.items()
            if window.deltas is not None
        }

    def _column(self, tensor: str) -> int:
        return self._columns.setdefault(tensor, len(self._columns))

    def _stored_columns(self, tensor: str, dtype: str, window: FeatureWindow) -> _StoredColumns:
        wanted, width = window.columns, 1
        if wanted is not None:
            width = len(self._stored[window.feature.name])
        return _StoredColumns(np.dtype(dtype), self._column(tensor), width, np.array(wanted or (0,)))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that are taken, in the order of `TensorLayout.starts`."""
        return tuple(self._columns)

    def fill(
        self,
        numbers: Mapping[str, NDArray[Any]],
        masks: Mapping[str, NDArray[np.bool_]],
        tensors: StackedTensors,
        anchors: NDArray[np.int64],
        *,
        where: Where,
    ) -> None:
        """Fills numbers and masks of some items.

        Args:
            numbers: Per number feature (G, T, *shape).
            masks: Per feature with deltas (G, T).
            tensors: Of the items' samples.
            anchors: (G,) within their samples.
            where: For messages.

        Raises:
            FormatError: an index leads out of the stored rows.
        """
        for own in self._own:
            own.fill(numbers, tensors, anchors)
        for name, rows in self._indexed.items():
            rows.fill(numbers[name], tensors, anchors, where)
        for name, mask in self._masks.items():
            masks[name][...] = False if mask is None else mask.take(tensors, anchors)
