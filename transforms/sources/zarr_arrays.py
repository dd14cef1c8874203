"""What the arrays of a replay buffer are, as features: checked before anything of them is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predecode.transforms.errors import DataError, SourceError
from predecode.transforms.features import Feature, parse_features
from predecode.transforms.images import MAX_PIXELS
from predecode.transforms.sources.made_columns import MADE_SPECS
from predecode.transforms.sources.zarr_images import MAX_ROWS, ImageLayout
from predecode.transforms.sources.zarr_listing import ChunkSizes, ZarrListing
from predecode.transforms.sources.zarr_store import ZarrStore, new_context

MAX_CHUNK_BYTES = 1 << 29
"""A chunk is decoded as a whole."""

_CHANNELS = (1, 3, 4)
_MIN_FLOAT_IMAGE_SIDE = 16
"""Arrays of floats with smaller sides may well be matrices."""


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """One array of a store.

    Attributes:
        path: Within the store.
        driver: What tensorstore calls its format.
        dtype: numpy name.
        shape: Of all of it, time first.
        chunk_shape: Of what is decoded at a time.
        files: Sizes of the files that hold it.
        images: Of an array whose chunks are images that tensorstore cannot decode; None for all others.
    """

    path: str
    driver: str
    dtype: str
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    files: ChunkSizes
    images: ImageLayout | None = None

    @property
    def is_image(self) -> bool:
        """Whether its values are images (H, W, C): of uint8, or of floats, which then must be whole, 0 to 255."""
        if len(self.shape) != 4 or self.shape[3] not in _CHANNELS:
            return False
        return self.dtype == "uint8" or ("float" in self.dtype and min(self.shape[1:3]) >= _MIN_FLOAT_IMAGE_SIDE)

    def spec(self) -> dict[str, Any]:
        """The feature that it is, as info.json has it: a vector (T,) has one value a frame."""
        if self.is_image:
            return {"dtype": "image", "shape": list(self.shape[1:]), "names": ["height", "width", "channels"]}
        return {"dtype": self.dtype, "shape": list(self.shape[1:]) or [1], "names": None}


def describe_array(store: ZarrStore, listing: ZarrListing, path: str, remedy: str) -> ZarrArray:
    """Opens an array and checks that it can be read, in bounded memory.

    Args:
        store: Where it lies.
        listing: Of all files there.
        path: Within the store.
        remedy: What to do about an array that cannot be used.

    Raises:
        SourceError: a codec or dtype that tensorstore does not know, absurd sizes.
        OSError: storage fails.
    """
    driver, metadata = store.driver(path, listing)
    where = f"{store.folder}: {path}"
    if images := ImageLayout.of(metadata):
        sizes = listing.chunk_sizes(path, 1)
        found = ZarrArray(path, driver, "uint8", images.shape, (1, *images.shape[1:]), sizes, images)
        return _checked_images(found, where, remedy)
    try:
        array = store.open_array(path, driver, new_context())
    except DataError as error:
        codecs = ", ".join(_codecs(metadata)) or "none"
        raise SourceError(
            f"{where}: tensorstore cannot read this array (codecs: {codecs}; dtype: "
            f"{metadata.get('dtype', metadata.get('data_type'))!r:.80}): {error}. Write it again with "
            f"zstd or blosc and a plain dtype, with the software that wrote it. {remedy}"
        ) from error
    layout = array.chunk_layout
    sizes = listing.chunk_sizes(path, (layout.write_chunk.shape or (0,))[0] or 1)
    chunk = tuple(size or 0 for size in layout.read_chunk.shape or ())
    found = ZarrArray(path, driver, array.dtype.name, tuple(array.shape), chunk, sizes)
    return _checked_images(_checked(found, array.dtype.numpy_dtype.itemsize, where, remedy), where, remedy)


def _checked(found: ZarrArray, value_bytes: int, where: str, remedy: str) -> ZarrArray:
    shape, chunk = found.shape, found.chunk_shape
    if not shape or shape[0] > MAX_ROWS:
        raise SourceError(f"{where}: expected an array (time, ...) of at most {MAX_ROWS} rows, got {shape}. {remedy}")
    chunk_bytes = math.prod(chunk) * value_bytes
    if not 0 < chunk_bytes <= MAX_CHUNK_BYTES:
        raise SourceError(
            f"{where}: expected chunks of at most {MAX_CHUNK_BYTES} bytes, got {chunk}, {chunk_bytes} bytes: a chunk "
            f"must be decoded as a whole. Write the array again with smaller chunks. {remedy}"
        )
    return found


def _checked_images(found: ZarrArray, where: str, remedy: str) -> ZarrArray:
    shape = found.shape
    if len(shape) == 4 and found.dtype == "uint8" and not found.is_image:
        raise SourceError(
            f"{where}: expected images (time, height, width, channels) of {_CHANNELS} channels, got {shape}. {remedy}"
        )
    if found.is_image and shape[1] * shape[2] > MAX_PIXELS:
        raise SourceError(f"{where}: expected images of at most {MAX_PIXELS} pixels, got {shape[1:]}. {remedy}")
    return found


def _codecs(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Names of an array's codecs, in both versions of the format."""
    found = [metadata.get("compressor"), *_list(metadata.get("filters")), *_list(metadata.get("codecs"))]
    for codec in found:
        if isinstance(codec, dict):
            yield f"{codec.get('id', codec.get('name'))!s:.40}"


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def features_of(arrays: Mapping[str, ZarrArray], where: str) -> tuple[dict[str, Any], tuple[Feature, ...]]:
    """Specifications and features of named arrays, and of the columns that LeRobot has besides.

    Raises:
        SourceError: a name, dtype or shape that cannot be materialized.
    """
    for name in arrays:
        if name in (*MADE_SPECS, "task"):
            raise SourceError(
                f"{where}: the array {name!r} has a name that LeRobot keeps for itself. Give it another with --rename "
                f"{name}=observation.{name}, or leave it out with --exclude-features {name}."
            )
    specs = {name: array.spec() for name, array in arrays.items()} | MADE_SPECS
    return specs, parse_features(specs, where=where)
