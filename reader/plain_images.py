"""What stored frames are compared with: another resizer, and another JPEG encoder, than the job's.

The job resizes by torch and encodes by imagecodecs; here Pillow does both. Its resizer differs by at most one level, in
few values, and its encoder at the same quality loses the same, frame by frame, but for rounding.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from predecode.transforms.errors import DataError

MAX_RESIZE_LEVELS = 1
MAX_RESIZE_SHARE = 0.05
"""How far, and in how large a share of the values, the two resizers may differ."""

MAX_LOSS_FACTOR = 1.15
MAX_LOSS_EXTRA = 0.1
"""A JPEG's mean squared error may be so many times that of Pillow's JPEG of the same frame, and so much more."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredSize:
    """How frames were to be resized: `image_size` and `resize_mode` of the manifest; None for the source's size."""

    size: tuple[int, int] | None
    mode: str | None

    def resized(self, image: Pixels) -> Pixels:
        """A frame as it should be stored, before encoding."""
        height, width = image.shape[:2]
        if self.size is None or (height, width) == self.size:
            return image
        out_height, out_width = self.size
        if self.mode == "stretch":
            return _scaled(image, self.size)
        by_height, by_width = Fraction(out_height, height), Fraction(out_width, width)
        if self.mode == "crop":
            scale = max(by_height, by_width)
            part = _nearest(out_height / scale, height), _nearest(out_width / scale, width)
            top, left = (height - part[0]) // 2, (width - part[1]) // 2
            return _scaled(image[top : top + part[0], left : left + part[1]], self.size)
        scale = min(by_height, by_width)
        part = _nearest(height * scale, out_height), _nearest(width * scale, out_width)
        top, left = (out_height - part[0]) // 2, (out_width - part[1]) // 2
        result = np.zeros((*self.size, image.shape[2]), np.uint8)
        result[top : top + part[0], left : left + part[1]] = _scaled(image, part)
        return result

    def changes(self, image: Pixels) -> bool:
        """Whether a frame is resized at all."""
        return self.size is not None and image.shape[:2] != self.size


def _nearest(value: Fraction, limit: int) -> int:
    """The nearest whole number, halves up, from 1 to a limit."""
    return min(max(1, int(value + Fraction(1, 2))), limit)


def _scaled(image: Pixels, size: tuple[int, int]) -> Pixels:
    """By Pillow's bilinear filter, which widens when it reduces; each channel by itself, alpha too."""
    channels = [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[2])]
    box = (size[1], size[0])
    return np.stack([np.asarray(one.resize(box, Image.Resampling.BILINEAR)) for one in channels], axis=-1)


def jpeg_loss(image: Pixels, quality: int) -> float:
    """Mean squared error that a JPEG of this quality, chroma not subsampled, leaves in a frame."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
        buffer, "JPEG", quality=quality, subsampling=0
    )
    decoded = np.asarray(Image.open(buffer)).reshape(image.shape)
    return squared_error(image, decoded) / image.size


def squared_error(first: Pixels, second: Pixels) -> int:
    """Sum of squared differences."""
    difference = first.astype(np.int32) - second
    return int(np.vdot(difference, difference))


def image_problem(stored: Pixels, expected: Pixels, *, jpeg_quality: int | None, was_resized: bool) -> str:
    """Why a stored frame is not what it should be; "" where it is.

    Args:
        stored: As decoded from the output.
        expected: As it should have been given to the codec.
        jpeg_quality: None for a lossless codec.
        was_resized: Whether the expected frame comes from another resizer than the job's.
    """
    if stored.shape != expected.shape:
        return f"expected an image of shape {expected.shape}, got {stored.shape}"
    if jpeg_quality is not None:
        error = squared_error(stored, expected) / stored.size
        allowed = MAX_LOSS_FACTOR * jpeg_loss(expected, jpeg_quality) + MAX_LOSS_EXTRA
        if error <= allowed:
            return ""
        return f"{psnr_text(error)} from the source's frame; a JPEG of quality {jpeg_quality} has {psnr_text(allowed)}"
    levels = np.abs(stored.astype(np.int16) - expected)
    largest, share = int(levels.max()), float(np.count_nonzero(levels)) / levels.size
    if largest == 0 or (was_resized and largest <= MAX_RESIZE_LEVELS and share <= MAX_RESIZE_SHARE):
        return ""
    return f"{share:.1%} of its values differ from the source's frame, by up to {largest} of 255"


def psnr_text(mean_squared_error: float) -> str:
    """An error as a ratio, for a person.

    >>> psnr_text(0.65025), psnr_text(0.0)
    ('50.0 dB', 'nothing lost')
    """
    return f"{10 * np.log10(255.0**2 / mean_squared_error):.1f} dB" if mean_squared_error else "nothing lost"


def plain_image(content: bytes) -> Pixels:
    """An image that a dataset keeps as a file, turned upright as its EXIF data say: (H, W, C).

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image))
    except Exception as error:  # What Pillow's decoders raise for damaged bytes is not documented.
        raise DataError(f"expected an encoded image, got what cannot be decoded: {error}") from error
    if pixels.dtype != np.uint8:
        raise DataError(f"expected an image of bytes, got {pixels.dtype}")
    return pixels.reshape(*pixels.shape[:2], -1)
