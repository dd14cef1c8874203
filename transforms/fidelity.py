"""What encoding cost: squared error of sampled frames against the resized originals, and the frames' own statistics.

Kept as integers, so that sums over shards are exact and do not depend on their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.images import ImageCodec

METER_STRIDE_FRAMES = 16
"""Every so many frames of an episode one is decoded again and compared: which ones does not depend on the shards."""

_STATISTICS_SIDE = 150
"""Statistics look at every n-th pixel of larger frames, as lerobot's do."""


@dataclass(slots=True)
class CameraMeter:
    """Sums over the frames of one camera.

    Attributes:
        num_frames: Frames stored.
        num_sampled: Frames compared.
        squared_error: Over all values of the sampled frames.
        num_values: Values compared.
        histogram: (C, 256) counts of the sampled frames' values, before encoding.
    """

    num_frames: int = 0
    num_sampled: int = 0
    squared_error: int = 0
    num_values: int = 0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 256), np.int64))

    def add(self, other: CameraMeter) -> None:
        """Adds the sums of another meter."""
        self.num_frames += other.num_frames
        self.num_sampled += other.num_sampled
        self.squared_error += other.squared_error
        self.num_values += other.num_values
        if other.histogram.size:
            self.histogram = self.histogram + other.histogram if self.histogram.size else other.histogram

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for a commit record."""
        return {
            "frames": self.num_frames,
            "sampled": self.num_sampled,
            "squared_error": self.squared_error,
            "values": self.num_values,
            "histogram": self.histogram.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CameraMeter:
        """Back from a commit record."""
        histogram = np.array(value["histogram"], np.int64).reshape(-1, 256)
        return cls(value["frames"], value["sampled"], value["squared_error"], value["values"], histogram)

    @property
    def psnr_db(self) -> float | None:
        """Peak signal-to-noise ratio in dB; infinite where nothing was lost, None where no frame was compared."""
        if not self.num_values:
            return None
        if not self.squared_error:
            return math.inf
        return 10 * math.log10(255.0**2 * self.num_values / self.squared_error)


@dataclass(slots=True)
class FrameMeter:
    """Looks at frames as they are stored. For one thread.

    Attributes:
        codec: What frames are encoded with.
        scratch: By shape, where frames are decoded to: clearing fresh memory takes as long as decoding.
    """

    codec: ImageCodec
    scratch: dict[tuple[int, ...], NDArray[np.uint8]] = field(default_factory=dict)

    def see(self, sums: CameraMeter, frame_number: int, image: NDArray[np.uint8], encoded: bytes) -> None:
        """Counts a frame and, if it is one of the sampled ones, compares and takes its histogram.

        Args:
            sums: Of its camera; the frame is added to them.
            frame_number: Within its episode.
            image: (H, W, C), as it was given to the codec.
            encoded: What the codec made of it.
        """
        sums.num_frames += 1
        if frame_number % METER_STRIDE_FRAMES:
            return
        if image.shape not in self.scratch:
            self.scratch[image.shape] = np.empty(image.shape, np.uint8)
        decoded = self.codec.decode(encoded, out=self.scratch[image.shape])
        error = squared_error(image, decoded)
        sums.add(CameraMeter(0, 1, error, image.size, _histogram(image)))


_EXACT_VALUES = 256
"""float32 adds so many squares of differences of bytes exactly, in any order: 256 * 255**2 < 2**24."""


def squared_error(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    """Sum of the squared differences of two C-contiguous arrays of the same shape, exact.

    >>> squared_error(np.array([0, 255, 7], np.uint8), np.array([255, 0, 9], np.uint8))
    130054
    """
    difference = np.maximum(first, second)
    difference -= np.minimum(first, second)
    values = difference.reshape(-1)
    whole = values.size // _EXACT_VALUES * _EXACT_VALUES
    rows = values[:whole].reshape(-1, _EXACT_VALUES).astype(np.float32)
    rest = values[whole:].astype(np.int64)
    return int(np.vecdot(rows, rows).sum(dtype=np.float64)) + int(np.vecdot(rest, rest))


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    step = -(-max(image.shape[:2]) // _STATISTICS_SIDE)
    channels = np.moveaxis(image[::step, ::step], -1, 0)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])
