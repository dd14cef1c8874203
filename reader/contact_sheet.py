"""Drawing windows: frames along their deltas, numbers as curves, padding marked so that nobody can miss it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MIN_WIDTH, MAX_WIDTH = 960, 1600
GUTTER_WIDTH = 190
MARGIN = 16
GAP = 6
MIN_THUMB_WIDTH, MAX_THUMB_WIDTH = 64, 160
MAX_THUMB_HEIGHT = 160
CURVES_HEIGHT = 96
LINE_HEIGHT = 16
MAX_CURVES = 16

PAD_COLOR = (205, 25, 25)
TINT_COLOR = (255, 90, 90)
HATCH_COLOR = (160, 0, 0)
ANCHOR_COLOR = (20, 95, 205)
TEXT_COLOR = (30, 30, 30)
FAINT_COLOR = (120, 120, 120)
BAND_COLOR = (226, 232, 240)
CURVE_COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189), (140, 86, 75), (23, 190, 207))

_FRAME_TINT, _PLOT_TINT = 0.55, 0.2
_HATCH_STEP = 9
_CURVE_SLOT_WIDTH = 64
_OVERSAMPLING = 3
_AXIS_WIDTH = 60
_BADGE_WIDTH = 34
_NARROWEST_LETTER = 2
_MAX_POINTS = 40

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """One delta of a camera's window.

    Attributes:
        delta: In frames.
        frame_number: Of the frame shown, within the episode; None where not known.
        is_pad: Whether the delta left the episode.
        image: uint8, (H, W, C).
    """

    delta: int
    frame_number: int | None
    is_pad: bool
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CameraRow:
    """The window of a camera.

    Attributes:
        name: Feature name.
        note: What else to say of it.
        slots: In the order of the deltas.
    """

    name: str
    note: str
    slots: Sequence[Slot]

    @property
    def height(self) -> int:
        """Pixels on the sheet."""
        return self.thumb_size[1] + 2 * LINE_HEIGHT + GAP

    @property
    def thumb_size(self) -> tuple[int, int]:
        """Width and height of a frame on the sheet: as large as fits."""
        height, width = self.slots[0].image.shape[:2]
        room = (MAX_WIDTH - 2 * MARGIN - GUTTER_WIDTH) // len(self.slots) - GAP
        room = max(MIN_THUMB_WIDTH, min(MAX_THUMB_WIDTH, room))
        scale = min(room / width, MAX_THUMB_HEIGHT / height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def step(self) -> int:
        """Pixels from one slot to the next."""
        return max(self.thumb_size[0], MIN_THUMB_WIDTH) + GAP

    @property
    def width(self) -> int:
        """Pixels on the sheet, with its margins."""
        return 2 * MARGIN + GUTTER_WIDTH + self.step * len(self.slots)


@dataclass(frozen=True, slots=True)
class CurveRow:
    """The window of a number feature.

    Attributes:
        name: Feature name.
        deltas: T offsets in frames, in order.
        values: (T, D).
        is_pad: (T,) mask.
    """

    name: str
    deltas: Sequence[int]
    values: NDArray[np.float64]
    is_pad: NDArray[np.bool_]

    @property
    def height(self) -> int:
        """Pixels on the sheet."""
        return CURVES_HEIGHT + LINE_HEIGHT + GAP

    @property
    def width(self) -> int:
        """Pixels on the sheet, with its margins: as many as are useful."""
        return min(MAX_WIDTH, 2 * MARGIN + GUTTER_WIDTH + _AXIS_WIDTH + _CURVE_SLOT_WIDTH * len(self.deltas))


@dataclass(frozen=True, slots=True)
class Block:
    """One window.

    Attributes:
        title: Which it is.
        rows: What it holds.
    """

    title: str
    rows: Sequence[CameraRow | CurveRow]

    @property
    def height(self) -> int:
        """Pixels on the sheet."""
        return LINE_HEIGHT + 3 * GAP + sum(row.height for row in self.rows) + GAP


def draw_sheet(title: str, subtitle: str, blocks: Sequence[Block]) -> Image.Image:
    """Draws windows one below the other, with a title and a legend."""
    width = max([MIN_WIDTH, *(row.width for block in blocks for row in block.rows)])
    sheet = _Sheet(width, 2 * MARGIN + 5 * LINE_HEIGHT + sum(block.height for block in blocks))
    sheet.text((MARGIN, MARGIN), title, size=18)
    sheet.text((MARGIN, MARGIN + 26), subtitle, color=FAINT_COLOR)
    sheet.legend(MARGIN + 48)
    top = MARGIN + 5 * LINE_HEIGHT
    for block in blocks:
        sheet.band(top, block.title)
        row_top = top + LINE_HEIGHT + 3 * GAP
        for row in block.rows:
            if isinstance(row, CameraRow):
                sheet.camera_row(row_top, row)
            else:
                sheet.curve_row(row_top, row)
            row_top += row.height
        top += block.height
    return sheet.image


class _Sheet:
    """A picture in the making."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self,
        place: tuple[float, float],
        text: str,
        *,
        size: int = 12,
        color: tuple[int, int, int] = TEXT_COLOR,
        anchor: str = "la",
        limit: int | None = None,
    ) -> None:
        """One line, shortened to a width; by default to the sheet's."""
        font: Any = ImageFont.load_default(size)
        limit = limit or self.image.width - 2 * MARGIN
        text = text[: limit // _NARROWEST_LETTER]
        while len(text) > 1 and font.getlength(text) > limit:
            text = text[:-2] + "…"
        self._draw.text(place, text, fill=color, font=font, anchor=anchor)

    def legend(self, top: int) -> None:
        """What the marks mean."""
        swatch = np.full((18, 30, 3), 225, np.uint8)
        self.image.paste(_marked_pad(Image.fromarray(swatch), _FRAME_TINT), (MARGIN, top))
        self._draw.rectangle((MARGIN, top, MARGIN + 29, top + 17), outline=PAD_COLOR, width=2)
        self.text((MARGIN + 38, top + 2), "pad: the delta left the episode, its edge frame or row is repeated")
        left = MARGIN + 470
        self._draw.rectangle((left, top, left + 29, top + 17), outline=ANCHOR_COLOR, width=3)
        self.text((left + 38, top + 2), "delta 0: the anchor's own frame")

    def band(self, top: int, title: str) -> None:
        """The title of a window."""
        right = self.image.width - MARGIN
        self._draw.rectangle((MARGIN, top, right, top + LINE_HEIGHT + GAP), fill=BAND_COLOR)
        self.text((MARGIN + GAP, top + 4), title, size=13, limit=right - MARGIN - 2 * GAP)

    def camera_row(self, top: int, row: CameraRow) -> None:
        """Frames along the deltas."""
        self._label(top, row.name, row.note)
        width, height = row.thumb_size
        for number, slot in enumerate(row.slots):
            left = MARGIN + GUTTER_WIDTH + number * row.step
            self.image.paste(_thumbnail(slot, (width, height)), (left, top))
            color = PAD_COLOR if slot.is_pad else ANCHOR_COLOR if slot.delta == 0 else FAINT_COLOR
            box = (left, top, left + width - 1, top + height - 1)
            self._draw.rectangle(box, outline=color, width=1 if color == FAINT_COLOR else 3)
            if slot.is_pad:
                self._badge(left + width // 2, top + height // 2)
            shown = "edge" if slot.frame_number is None else f"frame {slot.frame_number}"
            middle = left + width // 2
            text_color = TEXT_COLOR if color == FAINT_COLOR else color
            self.text((middle, top + height + 2), _signed(slot.delta), color=text_color, anchor="ma", size=13)
            shown_color = PAD_COLOR if slot.is_pad else FAINT_COLOR
            self.text((middle, top + height + 17), shown, color=shown_color, anchor="ma", size=11)

    def curve_row(self, top: int, row: CurveRow) -> None:
        """Values along the deltas."""
        num_values = row.values.shape[1]
        shown = min(num_values, MAX_CURVES)
        note = f"{num_values} values" if num_values > 1 else ""
        self._label(top, row.name, note if shown == num_values else f"first {shown} of {note}")
        curves = row.values[:, :shown]
        finite = curves[np.isfinite(curves)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        box = (MARGIN + GUTTER_WIDTH + _AXIS_WIDTH, top + 2, row.width - MARGIN, top + CURVES_HEIGHT - 2)
        padded = list(_padded_spans(box, row.is_pad))
        for left, right in padded:
            self._shade(left, right, box)
        self._draw.rectangle(box, outline=FAINT_COLOR)
        for place, value in {box[1]: high, box[3] - 11: low}.items():
            self.text((box[0] - 5, place), f"{value:.4g}", color=FAINT_COLOR, anchor="ra", size=11)
        self._ticks(box, row)
        self._curves(box, curves, (low, high))
        for left, right in padded:
            if right - left >= _BADGE_WIDTH:
                self._badge((left + right) // 2, (box[1] + box[3]) // 2)

    def _label(self, top: int, name: str, note: str) -> None:
        for number, part in enumerate(_wrapped(name, 26)):
            self.text((MARGIN, top + 2 + LINE_HEIGHT * number), part, limit=GUTTER_WIDTH - GAP)
        below = top + 4 + LINE_HEIGHT * len(_wrapped(name, 26))
        self.text((MARGIN, below), note, color=FAINT_COLOR, size=11, limit=GUTTER_WIDTH - GAP)

    def _badge(self, x: int, y: int) -> None:
        half = _BADGE_WIDTH // 2
        self._draw.rectangle((x - half, y - 9, x + half, y + 9), fill=PAD_COLOR)
        self.text((x, y), "PAD", color=(255, 255, 255), anchor="mm", size=13)

    def _shade(self, left: int, right: int, box: Box) -> None:
        """Marks a padded part of a plot."""
        size = (max(1, right - left), box[3] - box[1])
        self.image.paste(_marked_pad(Image.new("RGB", size, "white"), _PLOT_TINT), (left, box[1]))

    def _ticks(self, box: Box, row: CurveRow) -> None:
        every = math.ceil(len(row.deltas) / 24)
        for number, delta in enumerate(row.deltas):
            x = _slot_middle(box, number, len(row.deltas))
            if delta == 0:
                self._draw.line((x, box[1], x, box[3]), fill=ANCHOR_COLOR, width=2)
            if number % every == 0 or number == len(row.deltas) - 1:
                color = PAD_COLOR if row.is_pad[number] else ANCHOR_COLOR if delta == 0 else TEXT_COLOR
                self.text((x, box[3] + 3), _signed(delta), color=color, anchor="ma", size=11)

    def _curves(self, box: Box, curves: NDArray[np.float64], bounds: tuple[float, float]) -> None:
        """Draws (T, D) values over what is there, larger first, so that lines come out smooth."""
        size = (box[2] - box[0] + 1, box[3] - box[1] + 1)
        large = self.image.crop((box[0], box[1], box[2] + 1, box[3] + 1)).resize(
            (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING), Image.Resampling.NEAREST
        )
        for number, curve in enumerate(curves.T):
            _draw_curve(large, curve, bounds, CURVE_COLORS[number % len(CURVE_COLORS)])
        self.image.paste(large.resize(size, Image.Resampling.BOX), box[:2])


def _draw_curve(
    image: Image.Image, values: NDArray[np.float64], bounds: tuple[float, float], color: tuple[int, int, int]
) -> None:
    """Draws T values, each in the middle of its slot; there is a gap where one is not finite."""
    draw, radius = ImageDraw.Draw(image), 3 * _OVERSAMPLING
    low, high = bounds
    scale = (image.height - 4 * radius) / (high - low) if high > low else 0.0
    before: tuple[float, float] | None = None
    for number, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            before = None
            continue
        x = image.width * (2 * number + 1) / (2 * len(values))
        y = image.height / 2 - (value - (low + high) / 2) * scale
        if before is not None:
            draw.line((*before, x, y), fill=color, width=2 * _OVERSAMPLING)
        if len(values) <= _MAX_POINTS:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        before = (x, y)


def _thumbnail(slot: Slot, size: tuple[int, int]) -> Image.Image:
    channels = slot.image.shape[2]
    image = Image.fromarray(slot.image[..., 0] if channels == 1 else slot.image).convert("RGB")
    method = Image.Resampling.NEAREST if size[0] > image.width else Image.Resampling.LANCZOS
    thumbnail = image.resize(size, method)
    return _marked_pad(thumbnail, _FRAME_TINT) if slot.is_pad else thumbnail


def _marked_pad(image: Image.Image, tint: float) -> Image.Image:
    """Tinted and hatched."""
    tinted = Image.blend(image, Image.new("RGB", image.size, TINT_COLOR), tint)
    draw = ImageDraw.Draw(tinted)
    for offset in range(-image.height, image.width, _HATCH_STEP):
        draw.line((offset, image.height, offset + image.height, 0), fill=HATCH_COLOR, width=1)
    return tinted


def _padded_spans(box: Box, is_pad: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Left and right of each run of padded slots in a plot."""
    for first, stop in np.flatnonzero(np.diff(is_pad, prepend=False, append=False)).reshape(-1, 2).tolist():
        yield _slot_left(box, first, len(is_pad)), _slot_left(box, stop, len(is_pad))


def _slot_left(box: Box, number: int, count: int) -> int:
    return box[0] + (box[2] - box[0]) * number // count


def _slot_middle(box: Box, number: int, count: int) -> int:
    return box[0] + (box[2] - box[0]) * (2 * number + 1) // (2 * count)


def _signed(delta: int) -> str:
    return f"{delta:+d}" if delta else "0"


def _wrapped(text: str, width: int) -> list[str]:
    """At most two lines.

    >>> _wrapped("observation.images.cam", 16)
    ['observation.imag', 'es.cam']
    """
    return [text[start : start + width] for start in range(0, min(len(text), 2 * width), width)]
