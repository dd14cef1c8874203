"""Images that a dataset keeps as encoded bytes: decoded as `datasets.Image` and torchvision's `ToTensor` do."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from predecode.transforms.errors import DataError
from predecode.transforms.images import MAX_PIXELS

_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""What cameras write. Not all that PIL knows: some of its formats start other programs."""

_MODES = ("L", "RGB", "RGBA")


def decode_stored_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes an image file, turned upright where its EXIF data say so.

    Returns:
        uint8, (H, W, C) with 1 (grey), 3 or 4 channels.

    Raises:
        DataError: not an image, too large, or of a mode that is not 8-bit grey, RGB or RGBA.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image)
            image.load()
            upright = ImageOps.exif_transpose(image) if ExifTags.Base.Orientation in image.getexif() else image
            pixels = np.asarray(upright)
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its own message holds an address, which is another in every run
        raise DataError(f"expected an image ({', '.join(_FORMATS)}), got {len(data)} bytes of another kind") from error
    except Exception as error:  # what PIL's decoders raise for damaged bytes is not documented
        raise DataError(f"expected an encoded image, got bytes that cannot be decoded: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_header(image: Image.Image) -> None:
    """Before anything is decoded: a small file may claim to be a huge image."""
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"expected an image of at most {MAX_PIXELS} pixels, got {image.width} x {image.height}")
    if image.mode not in _MODES:
        raise DataError(f"expected an image of mode {', '.join(_MODES)}, got mode {image.mode}")
