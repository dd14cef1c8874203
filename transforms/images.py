"""How a frame becomes bytes, and bytes a frame again: the codecs that the job writes with and the reader reads with.

All come from imagecodecs: its encoders and decoders release the GIL, decode into a given array, and are one dependency.
docs/pixels.md has the measurements behind every choice and constant here.

What is decoded may be hostile. Every codec reads the size from its header first and refuses what predecode would not
have written, so that no library sees an image that needs more memory than `MAX_PIXELS` allows.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from predecode.transforms.errors import FormatError, UsageError

MAX_PIXELS = 1 << 26
"""Width times height: larger headers are refused before anything is allocated."""

_MAX_EXPANSION, _SLACK_BYTES = 4, 1 << 16
"""No encoder makes more than so many bytes of each byte of an image: what comes behind would only cost time."""

# Changing one of these changes the bytes of every shard: it needs a new format version.
_JPEG: dict[str, Any] = {"subsampling": "444", "optimize": True}
"""Fitted Huffman tables: 8 to 15 % smaller at the same PSNR, for twice the time: written once, read every epoch."""

_PNG: dict[str, Any] = {"level": 1, "strategy": imagecodecs.PNG.STRATEGY.RLE, "filter": imagecodecs.PNG.FILTER.SUB}
"""Twice as fast as zlib's default strategy, smaller on camera content, and free of its hash chains, which the variants
of zlib for different CPUs do differently."""

_WEBP: dict[str, Any] = {"lossless": True, "method": 2, "level": 25}
"""Within 4 % of the smallest, at less than half its time."""

_ZSTD: dict[str, Any] = {"level": 3}
"""A sixth smaller than 1 on simulated frames, for a quarter more time; 9 takes four times as long for little."""


class ImageCodec(Protocol):
    """One way to store a frame.

    Attributes:
        name: As in `--image-codec`.
        extension: Of the member that holds one frame, without a dot.
        lossless: Whether decoding gives back exactly what was encoded.
    """

    name: str
    extension: str
    lossless: bool

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """Encodes a frame: uint8, (H, W, C), C-contiguous, with C in 1, 3, 4 (JPEG: 1, 3)."""
        ...

    def decode(self, content: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Decodes a frame, into `out` where given.

        Args:
            content: What `encode` gave.
            out: uint8, (H, W, C), C-contiguous.

        Returns:
            uint8, (H, W, C): `out` where given, else a new array.

        Raises:
            FormatError: not what `encode` gives, or not of the shape of `out`.
        """
        ...


class _JpegCodec:
    """Baseline JPEG without chroma subsampling, by libjpeg-turbo's exact integer transform."""

    name = "jpeg"
    extension = "jpg"
    lossless = False

    def __init__(self, quality: int) -> None:
        self._quality = quality

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        _check_channels(image, self.name, (1, 3))
        return bytes(imagecodecs.jpeg8_encode(_squeezed(image), level=self._quality, **_JPEG))

    def decode(self, content: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        shape = _jpeg_shape(content)
        return _decode(self.name, imagecodecs.jpeg8_decode, content, shape, out)


class _PngCodec:
    """PNG: lossless, and every tool can read it."""

    name = "png"
    extension = "png"
    lossless = True

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        _check_channels(image, self.name, (1, 3, 4))
        return bytes(imagecodecs.png_encode(_squeezed(image), **_PNG))

    def decode(self, content: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return _decode(self.name, imagecodecs.png_decode, content, _png_shape(content), out)


class _WebpCodec:
    """Lossless WebP: the smallest.

    WebP knows no grey images, and libwebp forgets an alpha channel that is opaque throughout. So that the shape
    survives, a grey frame is stored as three equal channels with an empty chunk of our own behind it, which readers
    skip as the container's specification has it, and four channels are marked in the bit that says "alpha is used".
    """

    name = "webp"
    extension = "webp"
    lossless = True

    _GREY_CHUNK = b"GREY" + struct.pack("<I", 0)
    # "RIFF", size, "WEBP", "VP8L", size, 0x2f, then 14 bits of width - 1, 14 of height - 1, 1 of alpha, 3 of version.
    _HEADER = struct.Struct("<4sI4s4sIBI")

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        _check_channels(image, self.name, (1, 3, 4))
        channels = image.shape[2]
        colored = np.repeat(image, 3, axis=2) if channels == 1 else image
        content = bytearray(imagecodecs.webp_encode(colored, **_WEBP))
        if channels == 1:
            content += self._GREY_CHUNK
            struct.pack_into("<I", content, 4, len(content) - 8)
        elif channels == 4:
            content[24] |= 1 << 4
        return bytes(content)

    def decode(self, content: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        shape = self._shape(content)
        if shape[2] != 1:
            return _decode(self.name, imagecodecs.webp_decode, content, shape, out)
        colored = _decode(self.name, imagecodecs.webp_decode, content, (*shape[:2], 3), None)
        result = _output(self.name, shape, out)
        np.copyto(result, colored[..., :1])
        return result

    def _shape(self, content: bytes | memoryview) -> tuple[int, int, int]:
        if len(content) < self._HEADER.size:
            _refuse(self.name, "it is too short")
        riff, size, webp, chunk, chunk_size, signature, bits = self._HEADER.unpack_from(content)
        if (riff, webp, chunk, signature) != (b"RIFF", b"WEBP", b"VP8L", 0x2F) or size != len(content) - 8:
            _refuse(self.name, "it is not a complete file of one lossless image")
        tail = bytes(content[20 + chunk_size + chunk_size % 2 :])
        if tail not in (b"", self._GREY_CHUNK):
            _refuse(self.name, "it has chunks that predecode does not write")
        channels = 1 if tail else 4 if bits >> 28 & 1 else 3
        return _checked(self.name, (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, channels)


class _RawCodec:
    """A plain .npy file."""

    name = "raw"
    extension = "npy"
    lossless = True

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        _check_channels(image, self.name, (1, 3, 4))
        return npy_header(image.shape) + image.tobytes()

    def decode(self, content: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        pixels = _npy_pixels(self.name, content)
        result = _output(self.name, pixels.shape, out)
        np.copyto(result, pixels)
        return result


class _ZstdCodec:
    """A .npy file, compressed by Zstandard in one frame that declares its size: any zstd tool gives the .npy back."""

    name = "zstd"
    extension = "npy.zst"
    lossless = True

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        _check_channels(image, self.name, (1, 3, 4))
        return bytes(imagecodecs.zstd_encode(npy_header(image.shape) + image.tobytes(), **_ZSTD))

    def decode(self, content: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        size = _zstd_content_size(content)
        file = np.empty(size, np.uint8)
        try:
            decoded = imagecodecs.zstd_decode(cast(bytes, content), out=cast(memoryview, file))
        except (RuntimeError, ValueError) as error:
            raise _error(self.name, str(error)) from error
        pixels = _npy_pixels(self.name, memoryview(decoded))
        if out is None:
            return pixels
        result = _output(self.name, pixels.shape, out)
        np.copyto(result, pixels)
        return result


_CODECS: dict[str, Callable[[int], ImageCodec]] = {
    "jpeg": _JpegCodec,
    "png": lambda _: _PngCodec(),
    "webp": lambda _: _WebpCodec(),
    "zstd": lambda _: _ZstdCodec(),
    "raw": lambda _: _RawCodec(),
}

IMAGE_CODECS: tuple[str, ...] = tuple(_CODECS)
"""Names that `image_codec` knows."""


def image_codec(name: str, *, jpeg_quality: int = 95) -> ImageCodec:
    """Gives a codec by its name in `IMAGE_CODECS`.

    Raises:
        UsageError: an unknown name, or a quality outside 1 to 100.
    """
    if name not in _CODECS:
        raise UsageError(f"Unknown image codec {name!r}. Expected one of {', '.join(IMAGE_CODECS)}.")
    if not 1 <= jpeg_quality <= 100:
        raise UsageError(f"Expected a JPEG quality of 1 to 100, got {jpeg_quality}.")
    return _CODECS[name](jpeg_quality)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the encoded bytes."""
    # One by one: asked for all versions, imagecodecs loads all of its fifty libraries.
    names = ("jpeg8", "png", "webp", "zlib", "zlibng", "zstd")
    said = [getattr(imagecodecs, f"{name}_version")() for name in names]
    found = dict(line.split(" ") for line in said if not line.endswith(" n/a"))
    return {"imagecodecs": imagecodecs.__version__, **found}


def _checked(name: str, height: int, width: int, channels: int) -> tuple[int, int, int]:
    """The shape that a header declares, where it is one that may be allocated."""
    if not height or not width or channels not in (1, 3, 4):
        _refuse(name, f"its header declares the shape {height} x {width} x {channels}")
    if height * width > MAX_PIXELS:
        _refuse(name, f"its header declares {height} x {width} pixels, more than {MAX_PIXELS}")
    return height, width, channels


def _refuse(name: str, what: str) -> NoReturn:
    raise _error(name, what)


def _error(name: str, what: str) -> FormatError:
    return FormatError(
        f"Cannot decode an image as {name}: {what}. Expected what predecode writes: the shard is damaged or foreign. "
        "Remove the shard and run the same `predecode materialize` again, which writes it anew."
    )


def _check_channels(image: NDArray[np.uint8], name: str, allowed: tuple[int, ...]) -> None:
    if image.ndim != 3 or image.shape[2] not in allowed:
        expected = " or ".join(str(channels) for channels in allowed)
        raise UsageError(
            f"{name} stores images of shape (H, W, C) with {expected} channels, got {image.shape}. "
            "Choose another --image-codec."
        )


def _squeezed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey images as imagecodecs wants them: (H, W)."""
    return image[..., 0] if image.shape[2] == 1 else image


def _output(name: str, shape: tuple[int, ...], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Where to decode to."""
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape:
        _refuse(name, f"its shape is {shape}, where {out.shape} was expected")
    return out


def _decode(
    name: str,
    decode: Callable[..., object],
    content: bytes | memoryview,
    shape: tuple[int, int, int],
    out: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    """Decodes by a function of imagecodecs once the header has been checked."""
    if len(content) > _SLACK_BYTES + _MAX_EXPANSION * shape[0] * shape[1] * shape[2]:
        _refuse(name, f"it has {len(content)} bytes, more than an image of shape {shape} can need")
    result = _output(name, shape, out)
    try:
        decode(content, out=_squeezed(result))
    except (RuntimeError, ValueError) as error:  # What imagecodecs' own errors derive from.
        raise _error(name, str(error)) from error
    return result


def _jpeg_shape(content: bytes | memoryview) -> tuple[int, int, int]:
    """Walks the segments of a JPEG up to its scan; libjpeg itself would fill a truncated file with grey.

    One scan must hold all components: of many scans, a dozen bytes each, libjpeg makes a whole image every time.
    """
    if bytes(content[:2]) != b"\xff\xd8" or bytes(content[-2:]) != b"\xff\xd9":
        _refuse("jpeg", "it is not a complete file")
    position, shape = 2, (0, 0, 0)
    while position + 5 <= len(content):
        marker, length, first = struct.unpack_from(">HHB", content, position)
        if marker == 0xFFC0 and length >= 8 and position + 10 <= len(content) and first == 8:
            shape = struct.unpack_from(">HHB", content, position + 5)
        elif marker == 0xFFDA and first == shape[2]:
            return _checked("jpeg", *shape)
        elif not 0xFFC4 <= marker <= 0xFFFE or marker == 0xFFDA or length < 2:
            break
        position += 2 + length
    _refuse("jpeg", "it has no header and scan of a baseline image with 8 bits")


def _png_shape(content: bytes | memoryview) -> tuple[int, int, int]:
    """Reads the header, which PNG has at a fixed place."""
    complete = bytes(content[:16]) == b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" and bytes(content[-8:-4]) == b"IEND"
    if len(content) < 45 or not complete:
        _refuse("png", "it is not a complete file")
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    channels = {0: 1, 2: 3, 6: 4}.get(color, 0)
    if bits != 8 or interlaced:
        _refuse("png", f"it has {bits} bits, or is interlaced")
    return _checked("png", height, width, channels)


_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9}), (\d)\), \} *\n"
)
_NPY_HEADER_BYTES = 128


def npy_header(shape: tuple[int, ...]) -> bytes:
    r"""What numpy.save writes before the pixels of a uint8 array: npy version 1.0.

    >>> header = npy_header((480, 640, 3))
    >>> len(header), header[:10], header[10:].decode().rstrip(" \n")[-25:]
    (128, b'\x93NUMPY\x01\x00v\x00', "'shape': (480, 640, 3), }")
    """
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00v\x00" + text.ljust(_NPY_HEADER_BYTES - 11).encode() + b"\n"


def _npy_pixels(name: str, content: bytes | memoryview) -> NDArray[np.uint8]:
    """The pixels of a .npy file, as a view: uint8, (H, W, C)."""
    header = _NPY_HEADER.fullmatch(bytes(content[:_NPY_HEADER_BYTES]))
    if header is None:
        _refuse(name, "it is no .npy file of a uint8 image")
    height, width, channels = (int(size) for size in header.groups())
    shape = _checked(name, height, width, channels)
    if len(content) != _NPY_HEADER_BYTES + height * width * channels:
        _refuse(name, f"it has {len(content)} bytes, which is not what a shape of {shape} needs")
    return np.frombuffer(content, np.uint8, offset=_NPY_HEADER_BYTES).reshape(shape)


def _zstd_content_size(content: bytes | memoryview) -> int:
    """The size that a Zstandard frame declares (RFC 8878, section 3.1.1.1), where an image can be that large."""
    if len(content) < 14 or bytes(content[:4]) != b"\x28\xb5\x2f\xfd":
        _refuse("zstd", "it is no Zstandard frame")
    descriptor = content[4]
    is_single, dictionary_bytes = descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    size_bytes = (is_single, 2, 4, 8)[descriptor >> 6]
    if dictionary_bytes or not size_bytes:
        _refuse("zstd", "it declares no size, or a dictionary")
    start = 6 - is_single
    size = int.from_bytes(content[start : start + size_bytes], "little") + 256 * (size_bytes == 2)
    if size > _NPY_HEADER_BYTES + 4 * MAX_PIXELS:
        _refuse("zstd", f"it declares {size} bytes, more than an image of {MAX_PIXELS} pixels has")
    return size
