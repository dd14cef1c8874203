"""Stored images: as `datasets.Image` and `ToTensor` give them, or refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from predecode.transforms.errors import DataError
from predecode.transforms.stored_images import decode_stored_image
from tests.dirty import huge_png


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_modes(mode: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, channels), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    assert image.mode == mode
    assert np.array_equal(decode_stored_image(_encoded(image)), pixels)


@pytest.mark.parametrize("mode", ["I;16", "F", "P", "CMYK", "1", "LA"])
def test_other_modes_are_refused(mode: str) -> None:
    kind = "PNG" if mode in ("P", "1", "LA", "I;16") else "TIFF"
    with pytest.raises(DataError, match=f"got mode {mode}"):
        decode_stored_image(_encoded(Image.new(mode, (6, 4)), kind))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGB", (60, 40))
    assert decode_stored_image(_encoded(image, "JPEG", exif=exif)).shape == (60, 40, 3)
    assert decode_stored_image(_encoded(image, "JPEG")).shape == (40, 60, 3)


@pytest.mark.parametrize("size", [8200, 12_000, 60_000])
def test_bombs_are_refused_by_their_header(size: int) -> None:
    with pytest.raises(DataError, match=rf"{size} ?x {size}|exceeds limit"):
        decode_stored_image(huge_png(size))


def test_damaged_bytes() -> None:
    sound = _encoded(Image.new("RGB", (64, 64), (1, 2, 3)), "JPEG")
    for data in (b"", b"nothing", sound[: len(sound) // 2], _encoded(Image.new("RGB", (8, 8)), "PPM")):
        with pytest.raises(DataError, match=r"cannot be decoded|of another kind") as error:
            decode_stored_image(data)
        assert "0x" not in str(error.value)  # an address: messages end up in files that must not differ
