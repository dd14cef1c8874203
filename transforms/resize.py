"""How a frame gets the size that is stored.

torch does it, with its antialiased bilinear filter for uint8: the triangle widens with the reduction, so that a
policy's picture does not alias; and it is computed in integers, so that the same bytes come out whatever vector
instructions a CPU has (tried: AVX512, AVX2 and none). Pillow's filter, which it follows, is within one level of it and
four times slower; OpenCV's bilinear ones alias. docs/pixels.md has the measurements.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.errors import UsageError

RESIZE_MODES = ("pad", "stretch", "crop")
"""Names that `resize` knows."""


@dataclass(frozen=True, slots=True)
class ResizePlan:
    """What of a frame goes where; in pixels, as (top, left, bottom, right), half-open.

    Attributes:
        source: The part of the frame that is kept.
        target: Where it comes to lie; the rest is black.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]


@functools.lru_cache(maxsize=64)
def plan_resize(source_size: tuple[int, int], size: tuple[int, int], mode: str) -> ResizePlan:
    """Decides what of a frame goes where; where pixels cannot be divided evenly, the rest is at the bottom and right.

    Args:
        source_size: (H, W) of the frame.
        size: (H, W) to be stored.
        mode: "pad" keeps the aspect ratio, centred on black; "stretch" does not; "crop" keeps it and the centre.

    Raises:
        UsageError: an unknown mode, or a size that is not positive.

    >>> plan_resize((480, 640), (224, 224), "pad")
    ResizePlan(source=(0, 0, 480, 640), target=(28, 0, 196, 224))
    >>> plan_resize((480, 640), (224, 224), "crop")
    ResizePlan(source=(0, 80, 480, 560), target=(0, 0, 224, 224))
    >>> plan_resize((480, 640), (224, 224), "stretch")
    ResizePlan(source=(0, 0, 480, 640), target=(0, 0, 224, 224))
    """
    if mode not in RESIZE_MODES:
        raise UsageError(f"Unknown resize mode {mode!r}. Expected one of {', '.join(RESIZE_MODES)}.")
    if min(*source_size, *size) < 1:
        raise UsageError(f"Cannot resize {source_size} to {size}: expected heights and widths of at least 1.")
    whole_source, whole_target = (0, 0, *source_size), (0, 0, *size)
    if mode == "pad":
        return ResizePlan(whole_source, _centred(source_size, size))
    if mode == "crop":
        return ResizePlan(_centred(size, source_size), whole_target)
    return ResizePlan(whole_source, whole_target)


def _centred(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest box of the aspect ratio of `inner` in the middle of `outer`, to the nearest pixel, at least one.

    >>> _centred((480, 640), (100, 100))
    (12, 0, 87, 100)
    """
    (height, width), (outer_height, outer_width) = inner, outer
    if height * outer_width <= width * outer_height:  # The width fills `outer`.
        box_height, box_width = max(1, _rounded(height * outer_width, width)), outer_width
    else:
        box_height, box_width = outer_height, max(1, _rounded(width * outer_height, height))
    top, left = (outer_height - box_height) // 2, (outer_width - box_width) // 2
    return top, left, top + box_height, left + box_width


def _rounded(numerator: int, denominator: int) -> int:
    """Nearest integer of a quotient, halves up, without floats."""
    return (2 * numerator + denominator) // (2 * denominator)


def resize(image: NDArray[np.uint8], size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """Resizes a frame.

    Args:
        image: uint8, (H, W, C) with C in 1, 3, 4. Four channels are resized independently: alpha is not multiplied in.
        size: (H, W) of the result.
        mode: One of `RESIZE_MODES`; see `plan_resize`.

    Returns:
        uint8, (*size, C), C-contiguous; `image` itself where it already has that size.

    Raises:
        UsageError: an unknown mode, or a size that is not positive.
    """
    plan = plan_resize(image.shape[:2], size, mode)
    if image.shape[:2] == size:
        return image
    scaled = _scaled(image, plan)
    if scaled.shape[:2] == size:
        return scaled
    result = np.zeros((*size, image.shape[2]), np.uint8)
    top, left, bottom, right = plan.target
    result[top:bottom, left:right] = scaled
    return result


def _scaled(image: NDArray[np.uint8], plan: ResizePlan) -> NDArray[np.uint8]:
    """The part of the frame that is kept, in the size that it will have."""
    top, left, bottom, right = plan.source
    kept = np.ascontiguousarray(image[top:bottom, left:right])
    target_top, target_left, target_bottom, target_right = plan.target
    size = (target_bottom - target_top, target_right - target_left)
    if kept.shape[:2] == size:
        return kept
    import torch

    # Numpy turns the axes: of torch even that would let go of the interpreter's lock, and many threads then wait for it
    # several times a frame. In this order torch sees that channels lie innermost, and leaves them there. It warns of
    # arrays that it must not write to, though it only reads this one.
    channels_first = (kept if kept.flags.writeable else kept.copy()).reshape(1, *kept.shape).transpose(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(channels_first), size=size, mode="bilinear", antialias=True
    )
    return np.ascontiguousarray(scaled.numpy()[0].transpose(1, 2, 0))
