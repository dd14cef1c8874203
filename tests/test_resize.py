"""Resizing: geometry, and pixels against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from predecode.transforms.errors import UsageError
from predecode.transforms.resize import RESIZE_MODES, plan_resize, resize

SIZES = st.tuples(st.integers(1, 700), st.integers(1, 700))


def noise(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(source=SIZES, size=SIZES, mode=st.sampled_from(RESIZE_MODES))
def test_boxes_lie_inside_and_touch_two_sides(source: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    plan = plan_resize(source, size, mode)
    for (top, left, bottom, right), (height, width) in ((plan.source, source), (plan.target, size)):
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        assert (top, bottom) == (0, height) or (left, right) == (0, width)
        assert 0 <= (height - bottom) - top <= 1  # Centred; an odd pixel is at the bottom,
        assert 0 <= (width - right) - left <= 1  # or at the right.


@given(source=SIZES, size=SIZES, mode=st.sampled_from(("pad", "crop")))
def test_the_aspect_ratio_is_kept_to_half_a_pixel(source: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    plan = plan_resize(source, size, mode)
    inner, outer = (plan.target, source) if mode == "pad" else (plan.source, size)
    height, width = inner[2] - inner[0], inner[3] - inner[1]
    ratio = outer[0] / outer[1]
    assert min(abs(height - width * ratio), abs(width - height / ratio)) <= 0.5 + 1e-9 or 1 in (height, width)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(24, 24), (48, 64), (96, 96), (100, 30), (1, 1)])
def test_shape_and_memory(mode: str, channels: int, size: tuple[int, int]) -> None:
    image = noise(48, 64, channels)
    result = resize(image, size, mode)
    assert result.shape == (*size, channels)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert (result is image) == (size == (48, 64))


@pytest.mark.parametrize("size", [(168, 224), (224, 224), (37, 500), (600, 700)])
def test_pillow_agrees_within_one_level(size: tuple[int, int]) -> None:
    image = noise(480, 640, 3)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resize(image, size, "stretch").astype(int) - expected).max() <= 1


def test_channels_are_independent() -> None:
    image = noise(48, 64, 4)
    alone = [resize(np.ascontiguousarray(image[..., c : c + 1]), (20, 30), "stretch") for c in range(4)]
    np.testing.assert_array_equal(resize(image, (20, 30), "stretch"), np.concatenate(alone, axis=2))


def test_a_fine_pattern_does_not_alias() -> None:
    """Every other row white: shrunk by a non-integer factor it must be grey, not moire."""
    image = np.zeros((480, 480, 3), np.uint8)
    image[::2] = 255
    inner = resize(image, (224, 224), "stretch")[4:-4].astype(int)
    assert np.abs(inner - 127).max() <= 20


def test_pad_is_black_around_the_stretched_frame() -> None:
    image = noise(48, 64, 3)
    image[image == 0] = 1
    result = resize(image, (32, 32), "pad")
    np.testing.assert_array_equal(result[4:28], resize(image, (24, 32), "stretch"))
    assert not result[:4].any()
    assert not result[28:].any()


def test_crop_is_the_stretched_centre() -> None:
    image = noise(48, 64, 3)
    np.testing.assert_array_equal(resize(image, (24, 24), "crop"), resize(image[:, 8:56], (24, 24), "stretch"))
    np.testing.assert_array_equal(resize(image, (48, 48), "crop"), image[:, 8:56])


def test_read_only_frames_are_resized() -> None:
    image = noise(48, 64, 3)
    expected = resize(image, (24, 24), "pad")
    image.flags.writeable = False
    np.testing.assert_array_equal(resize(image, (24, 24), "pad"), expected)


def test_unknown_modes_and_empty_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="pad, stretch, crop"):
        resize(noise(4, 4, 3), (2, 2), "squash")
    for size in ((0, 2), (2, -1)):
        with pytest.raises(UsageError, match="at least 1"):
            resize(noise(4, 4, 3), size, "pad")
