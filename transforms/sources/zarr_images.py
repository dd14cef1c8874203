"""Arrays whose every chunk is an encoded image, as UMI writes them: tensorstore lacks the codecs, imagecodecs has them.

The layout is that of the codecs `imagecodecs_jpegxl` and `imagecodecs_jpeg2k` in numcodecs: a chunk holds one frame,
encoded without the axis of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import imagecodecs
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from predecode.transforms.errors import DataError
from predecode.transforms.images import MAX_PIXELS

_DECODERS: dict[str, Callable[..., NDArray[Any]]] = {
    "imagecodecs_jpegxl": imagecodecs.jpegxl_decode,
    "imagecodecs_jpeg2k": imagecodecs.jpeg2k_decode,
}

Reads: TypeAlias = list[tuple[str, ts.Future[ts.KvStore.ReadResult]]]
"""Names of chunks, and what they will be."""

MAX_ROWS = 1 << 40


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """What the metadata of such an array say.

    Attributes:
        codec: As the array calls it.
        shape: (T, H, W, C).
        separator: Between the numbers of a chunk's name.
    """

    codec: str
    shape: tuple[int, int, int, int]
    separator: str

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> ImageLayout | None:
        """Reads the metadata of a version 2 array; None where it is not one of these."""
        compressor, shape = metadata.get("compressor"), metadata.get("shape")
        codec = compressor.get("id") if isinstance(compressor, dict) else None
        separator = metadata.get("dimension_separator", ".")
        is_one = (
            isinstance(codec, str)
            and codec in _DECODERS
            and isinstance(shape, list)
            and len(shape) == 4
            and all(type(size) is int and 0 < size <= MAX_ROWS for size in shape)
            and shape[1] * shape[2] <= MAX_PIXELS
            and metadata.get("chunks") == [1, *shape[1:]]
            and metadata.get("dtype") == "|u1"
            and not metadata.get("filters")
            and separator in (".", "/")
        )
        return cls(str(codec), (shape[0], shape[1], shape[2], shape[3]), separator) if is_one and shape else None

    def begin(self, files: ts.KvStore, path: str, start_row: int, stop_row: int) -> Reads:
        """Asks for the frames of a half-open range, all at once."""
        names = [f"{path}/{self.separator.join((str(row), '0', '0', '0'))}" for row in range(start_row, stop_row)]
        return [(name, files.read(name)) for name in names]

    def decode(self, reads: Reads, seconds: float | None) -> NDArray[np.uint8]:
        """Decodes what was asked for.

        Args:
            reads: As `begin` gives them.
            seconds: How long each may take; None for any time.

        Returns:
            uint8, (rows, H, W, C).

        Raises:
            DataError: one is missing, or cannot be decoded to this shape.
        """
        images = np.empty((len(reads), *self.shape[1:]), np.uint8)
        for (name, begun), image in zip(reads, images, strict=True):
            found = begun.result(timeout=seconds)
            if found.state == "missing":
                raise DataError(f'chunk "{name}" is missing')
            try:
                # with `out` nothing is allocated by what the image says of itself
                _DECODERS[self.codec](found.value, out=image, numthreads=1)
            except MemoryError:
                raise
            except Exception as error:  # each codec has its own
                raise DataError(f'"{name}": expected an image ({self.codec}): {error}') from error
        return images
