"""Small charts as SVG within a page; their colours come from its style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predecode.reader.markup import Markup, element

WIDE, NARROW = 340, 230
"""Widths of charts, in the pixels that they are about shown in."""

_HEIGHT, _BASE, _TOP = 110, 88, 6
_MAX_BAR_WIDTH = 40
_MAX_BINS = 24
_MAX_LABELS = 6
"""Bars that are labelled each; of more, only the ends are."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        counts: (N,).
        edges: (N + 1,) ascending.
        greatest: Value.
        is_whole: Whether all values are whole numbers; then the edges are, too.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    greatest: float
    is_whole: bool = False

    @classmethod
    def of(cls, values: ArrayLike, *, max_bins: int = _MAX_BINS) -> Histogram:
        """Of finite values; bins of whole numbers have whole edges.

        >>> Histogram.of([1, 1, 2]).counts.tolist()
        [2, 1]
        """
        found = np.asarray(values, np.float64).ravel()
        found = found[np.isfinite(found)]
        if not found.size:
            return cls(np.zeros(1, np.int64), np.array([0.0, 1.0]), 0.0)
        low, high = float(found.min()), float(found.max())
        is_whole = bool(np.array_equal(found, np.round(found)) and high - low < 2**52)
        if is_whole:
            step = math.ceil((high - low + 1) / max_bins)
            edges = low + step * np.arange(math.ceil((high - low + 1) / step) + 1)
        else:
            edges = np.linspace(low, high if high > low else low + 1, max_bins + 1)
        counts = np.histogram(found, edges)[0]
        return cls(counts.astype(np.int64), edges.astype(np.float64), high, is_whole)

    def ends(self, bin_number: int) -> tuple[float, float]:
        """The least and the greatest value that a bin can hold.

        >>> Histogram.of([1, 1, 2]).ends(1)
        (2.0, 2.0)
        """
        return float(self.edges[bin_number]), float(self.edges[bin_number + 1] - self.is_whole)


def bars(histogram: Histogram, *, unit: str, title: str, width: int = WIDE) -> Markup:
    """A histogram, with its range below."""
    counts = histogram.counts
    tallest, step = max(1, int(counts.max())), min(_MAX_BAR_WIDTH, width / len(counts))
    shapes = []
    for number, count in enumerate(counts.tolist()):
        height = max(1.0, (_BASE - _TOP) * count / tallest) if count else 0.0
        tip = element("title", f"{_range(*histogram.ends(number))} {unit}: {count:,}")
        place = {"x": f"{number * step + 0.5:.2f}", "y": f"{_BASE - height:.2f}", "width": f"{step - 1:.2f}"}
        shapes.append(element("rect", tip, **place, height=f"{height:.2f}", class_="bar"))
    axis = element("line", x1=0, x2=width, y1=_BASE + 0.5, y2=_BASE + 0.5, class_="axis")
    if histogram.is_whole and len(counts) <= _MAX_LABELS:
        places = [(f"{(number + 0.5) * step:.1f}", "middle", edge) for number, edge in enumerate(histogram.edges[:-1])]
    else:
        places = [("0", "start", histogram.edges[0]), (f"{width}", "end", histogram.greatest)]
    labels = [element("text", _number(value), x=x, y=_HEIGHT - 5, text_anchor=anchor) for x, anchor, value in places]
    return _svg(title, [*shapes, axis, *labels], width, _HEIGHT)


def _range(least: float, greatest: float) -> str:
    return _number(least) if least == greatest else f"{_number(least)} to {_number(greatest)}"


def meter(share: float, *, title: str) -> Markup:
    """A share as a bar."""
    whole = element("rect", x=0, y=0, width=120, height=10, rx=3, class_="track")
    part = element("rect", x=0, y=0, width=f"{120 * min(1.0, max(0.0, share)):.2f}", height=10, rx=3, class_="bar")
    return _svg(title, [whole, part], 120, 10)


def _svg(title: str, shapes: Sequence[Markup], width: int, height: int) -> Markup:
    return element("svg", *shapes, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)


def _number(value: float) -> str:
    """A number for an axis.

    >>> _number(12.0), _number(0.123456), _number(123456.0)
    ('12', '0.123', '123,456')
    """
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.3g}"
