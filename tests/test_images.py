"""Image codecs: what goes in comes out, and hostile bytes do no harm."""

from __future__ import annotations

import io
import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from predecode.transforms.errors import FormatError, UsageError
from predecode.transforms.images import IMAGE_CODECS, MAX_PIXELS, image_codec, library_versions, npy_header

LOSSLESS = [name for name in IMAGE_CODECS if image_codec(name).lossless]
CHANNELS = {name: (1, 3) if name == "jpeg" else (1, 3, 4) for name in IMAGE_CODECS}


@st.composite
def images(draw: st.DrawFn) -> NDArray[np.uint8]:
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 20)), draw(st.sampled_from((1, 3, 4))))
    # Few values too: an alpha channel that is opaque throughout is a case of its own.
    values = draw(st.sampled_from((st.integers(0, 255), st.sampled_from((0, 255)), st.just(255))))
    return draw(arrays(np.uint8, shape, elements=values))


def gradient(channels: int, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    rows, columns, layers = np.ogrid[:height, :width, :channels]
    return np.ascontiguousarray((rows * 3 + columns * 2 + layers * 40) % 256, np.uint8)


@pytest.mark.parametrize("name", LOSSLESS)
@given(image=images())
def test_lossless_codecs_give_back_what_went_in(name: str, image: NDArray[np.uint8]) -> None:
    codec = image_codec(name)
    content = codec.encode(image)
    decoded = codec.decode(content)
    out = np.empty_like(image)
    into = codec.decode(memoryview(content), out)
    assert decoded.shape == image.shape
    np.testing.assert_array_equal(decoded, image)
    assert np.shares_memory(into, out)
    np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close_whole_and_not_subsampled(channels: int) -> None:
    image = gradient(channels)
    codec = image_codec("jpeg")
    content = codec.encode(image)
    decoded = codec.decode(content)
    out = np.empty_like(image)
    codec.decode(content, out)
    np.testing.assert_array_equal(out, decoded)
    assert np.mean((decoded.astype(float) - image) ** 2) < 4
    with Image.open(io.BytesIO(content)) as picture:
        assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * channels  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), decoded)


def test_jpeg_quality_counts() -> None:
    image = gradient(3)
    assert len(image_codec("jpeg", jpeg_quality=50).encode(image)) < len(image_codec("jpeg").encode(image))


@pytest.mark.parametrize("name", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_tools_read_the_same(name: str, channels: int) -> None:
    image = gradient(channels)
    with Image.open(io.BytesIO(image_codec(name).encode(image))) as picture:
        seen = np.asarray(picture)
    if name == "webp" and channels == 1:
        seen = seen[..., :1]
    np.testing.assert_array_equal(seen.reshape(image.shape), image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_and_zstd_are_npy_files(channels: int) -> None:
    image = gradient(channels)
    file = io.BytesIO()
    np.save(file, image)
    assert image_codec("raw").encode(image) == file.getvalue()
    assert imagecodecs.zstd_decode(image_codec("zstd").encode(image)) == file.getvalue()


@pytest.mark.parametrize("name", IMAGE_CODECS)
def test_the_same_frame_gives_the_same_bytes(name: str) -> None:
    assert image_codec(name).encode(gradient(3)) == image_codec(name).encode(gradient(3).copy())


@pytest.mark.parametrize("name", IMAGE_CODECS)
@given(content=st.binary(max_size=300))
def test_garbage_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(FormatError, match=f"as {name}"):
        image_codec(name).decode(content)


@pytest.mark.parametrize("name", IMAGE_CODECS)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_give_an_image(name: str, data: st.DataObject) -> None:
    """A flipped bit may decode, as checksums are the shard's business; it may not crash or change the shape."""
    image = gradient(3)
    content = bytearray(image_codec(name).encode(image))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = image_codec(name).decode(bytes(content), np.empty_like(image))
    except FormatError:
        return
    assert decoded.shape == image.shape


@pytest.mark.parametrize("name", IMAGE_CODECS)
@given(data=st.data())
def test_truncated_bytes_are_refused(name: str, data: st.DataObject) -> None:
    content = image_codec(name).encode(gradient(3))
    with pytest.raises(FormatError):
        image_codec(name).decode(content[: data.draw(st.integers(0, len(content) - 1))])


@pytest.mark.parametrize("name", IMAGE_CODECS)
def test_another_shape_than_expected_is_refused(name: str) -> None:
    content = image_codec(name).encode(gradient(3))
    for shape in ((40, 55, 3), (56, 40, 3), (40, 56, 1)):
        with pytest.raises(FormatError, match="was expected"):
            image_codec(name).decode(content, np.empty(shape, np.uint8))


def _bombs() -> dict[str, list[bytes]]:
    """Headers that declare very many pixels, by codec."""
    content = {name: image_codec(name).encode(gradient(3)) for name in IMAGE_CODECS}
    size = struct.pack(">HH", 40, 56)
    raw = npy_header((60000, 60000, 3)) + content["raw"][128:]
    zstd = bytearray(content["zstd"])
    huge_frame = bytes(zstd[:4]) + bytes([0b1110_0000]) + struct.pack("<Q", 1 << 40) + bytes(zstd[7:])
    return {
        "jpeg": [content["jpeg"].replace(size, struct.pack(">HH", 60000, 60000), 1)],
        "png": [content["png"].replace(struct.pack(">II", 56, 40), struct.pack(">II", 60000, 60000), 1)],
        "webp": [content["webp"][:21] + struct.pack("<I", 0x0FFFFFFF) + content["webp"][25:]],
        "raw": [raw, raw.replace(b"60000, 60000", b"999999999, 9")],
        "zstd": [bytes(imagecodecs.zstd_encode(raw)), huge_frame],
    }


@pytest.mark.parametrize(("name", "content"), [(name, bomb) for name, bombs in _bombs().items() for bomb in bombs])
def test_image_bombs_are_refused_before_they_are_allocated(name: str, content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"declares|no \.npy"):
            image_codec(name).decode(content)
        assert tracemalloc.get_traced_memory()[1] < MAX_PIXELS // 16
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_that_lies_about_its_size_is_refused() -> None:
    content = bytearray(image_codec("zstd").encode(gradient(3)))
    for lie in (100, 60000):
        content[5:7] = struct.pack("<H", lie)
        with pytest.raises(FormatError):
            image_codec("zstd").decode(bytes(content))


def test_pickles_are_refused() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="uint8 image"):
        image_codec("raw").decode(file.getvalue())


@pytest.mark.parametrize("name", IMAGE_CODECS)
def test_channels_that_a_codec_lacks_are_refused(name: str) -> None:
    for channels in {1, 2, 3, 4, 5} - set(CHANNELS[name]):
        with pytest.raises(UsageError, match="channels"):
            image_codec(name).encode(gradient(channels))


def test_unknown_names_and_qualities_are_refused() -> None:
    with pytest.raises(UsageError, match="jpeg, png, webp, zstd, raw"):
        image_codec("bmp")
    for quality in (0, 101):
        with pytest.raises(UsageError, match="1 to 100"):
            image_codec("jpeg", jpeg_quality=quality)


def test_versions_name_the_libraries() -> None:
    versions = library_versions()
    assert {"imagecodecs", "libjpeg_turbo", "libpng", "libwebp", "zstd"} <= versions.keys()
    assert versions.items() <= imagecodecs.version(dict).items()
