"""A Zarr replay buffer, read plainly: what a certificate compares an output with.

Written from what docs/sources.md says of such buffers alone. Nothing here is shared with the job but the storage:
tensorstore, which opens arrays and decodes chunks, and imagecodecs, which decodes chunks that are images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from predecode.reader.plain_images import Pixels
from predecode.reader.plain_rows import item_dtype, item_shape
from predecode.reader.plain_source import PlainEpisode
from predecode.transforms.errors import DataError, SourceError
from predecode.transforms.storage import Folder

if TYPE_CHECKING:
    import tensorstore as ts

    from predecode.transforms.sources.zarr_store import ZarrStore

_ENDS = "meta/episode_ends"
_PIECE_BYTES = 1 << 26
_CHANNELS = (1, 3, 4)
_MIN_FLOAT_IMAGE_SIDE = 16
_IMAGE_CODECS = {"imagecodecs_jpegxl": "jpegxl_decode", "imagecodecs_jpeg2k": "jpeg2k_decode"}

_MADE = {name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")}
_MADE_SPECS = {"timestamp": {"dtype": "float32", "shape": [1]}, **_MADE}
"""The columns that LeRobot's items have and a buffer lacks, in an item's order."""


@dataclass(frozen=True, slots=True)
class PlainBuffer:
    """A replay buffer.

    Attributes:
        store: Where it lies.
        specs: Per array, sorted by name, and per made column: dtype and shape as an info.json declares them.
        starts: The first row of each episode, and one past the last row of all.
        metadata: Per array what its own metadata say, and tensorstore's name for its format.
    """

    store: ZarrStore
    specs: Mapping[str, Mapping[str, Any]]
    starts: NDArray[np.int64]
    metadata: Mapping[str, tuple[str, Mapping[str, Any]]]

    @property
    def lengths(self) -> list[int]:
        """Rows of each episode."""
        return [int(length) for length in np.diff(self.starts)]


def open_plain_buffer(folder: Folder, excluded: Iterable[str] = ()) -> PlainBuffer:
    """Reads the metadata of the arrays, and where episodes end.

    Args:
        folder: The Zarr group, or the .zip of one.
        excluded: Arrays to leave out.

    Raises:
        SourceError: there is no such group, or it is no replay buffer.
        DataError: the ends cannot be read.
        OSError: storage fails.
    """
    from predecode.transforms.sources.zarr_store import ZarrStore, new_context

    store = ZarrStore(folder)
    listing = store.list_files()
    names = [name for name in listing.names("data") if name not in set(excluded)]
    metadata = {name: store.driver(f"data/{name}", listing) for name in names}
    specs: dict[str, Mapping[str, Any]] = {}
    num_rows = {}
    for name in names:
        dtype, shape = _dtype_and_shape(store, f"data/{name}", *metadata[name])
        specs[name], num_rows[name] = _spec(dtype, shape), shape[0]
    array = store.open_array(_ENDS, store.driver(_ENDS, listing)[0], new_context())
    ends = store.attempt(_ENDS, lambda seconds, _: array.read().result(timeout=seconds))
    starts = np.concatenate([[0], np.asarray(ends)]).astype(np.int64)
    if (np.diff(starts) <= 0).any() or any(count != starts[-1] for count in num_rows.values()):
        raise SourceError(
            f"{folder}: {_ENDS}: expected ends that increase up to the length of every array, got the last end "
            f"{starts[-1]} and the lengths {num_rows}. Is this the buffer that the output was made from, and complete?"
        )
    return PlainBuffer(store, {**specs, **_MADE_SPECS}, starts, metadata)


def _dtype_and_shape(
    store: ZarrStore, path: str, driver: str, metadata: Mapping[str, Any]
) -> tuple[str, tuple[int, ...]]:
    from predecode.transforms.sources.zarr_store import new_context

    if _image_codec(metadata):
        return "uint8", tuple(metadata["shape"])
    try:
        array = store.open_array(path, driver, new_context())
    except DataError as error:
        raise SourceError(f"{store.folder}: {path}: cannot be read: {error}. Mend it first.") from error
    return array.dtype.name, tuple(array.shape)


def _image_codec(metadata: Mapping[str, Any]) -> str | None:
    """The function of imagecodecs that decodes an array's chunks; None where tensorstore does."""
    compressor = metadata.get("compressor")
    return _IMAGE_CODECS.get(str(compressor.get("id"))) if isinstance(compressor, Mapping) else None


def _spec(dtype: str, shape: Sequence[int]) -> Mapping[str, Any]:
    """An array as a feature.

    >>> _spec("uint8", (9, 96, 96, 3))["dtype"], _spec("float32", (9, 4, 4, 3))["dtype"]
    ('image', 'float32')
    >>> _spec("float32", (9,))["shape"]
    [1]
    """
    is_picture = len(shape) == 4 and shape[3] in _CHANNELS
    is_large = is_picture and min(shape[1:3]) >= _MIN_FLOAT_IMAGE_SIDE
    if is_picture and (dtype == "uint8" or ("float" in dtype and is_large)):
        return {"dtype": "image", "shape": list(shape[1:])}
    return {"dtype": dtype, "shape": list(shape[1:]) or [1]}


class BufferReader:
    """Reads the episodes of a replay buffer. For one thread, and cheapest in the order in which they lie."""

    def __init__(self, buffer: PlainBuffer, *, fps: float, task: str) -> None:
        """Opens nothing yet.

        Args:
            buffer: To read from.
            fps: Frames per second, which it does not know.
            task: The task of all its frames.
        """
        self._buffer, self._fps, self._task = buffer, fps, task
        self._context: ts.Context | None = None
        self._arrays: dict[str, ts.TensorStore] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrays.clear()
        self._context = None

    def episode(self, index: int) -> PlainEpisode:
        """All values of an episode but its images.

        Raises:
            DataError: there is no such episode, or a chunk cannot be read.
            OSError: storage fails.
        """
        if not 0 <= index < len(self._buffer.lengths):
            raise DataError(f"The source has no episode {index}: it has {len(self._buffer.lengths)}.")
        start, stop = self._buffer.starts[index : index + 2].tolist()
        numbers: dict[str, NDArray[Any]] = {}
        for name, spec in self._buffer.specs.items():
            if spec["dtype"] != "image" and name not in _MADE_SPECS:
                with np.errstate(over="ignore"):  # What is beyond float32 becomes infinite, as in a tensor.
                    values = self._read(index, name, start, stop).astype(item_dtype(spec["dtype"]))
                numbers[name] = values.reshape(stop - start, *item_shape(spec["shape"]))
        frames = np.arange(stop - start, dtype=np.int64)
        numbers |= {
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full_like(frames, index),
            "index": start + frames,
            "task_index": np.zeros_like(frames),
        }
        return PlainEpisode(index, numbers, {"task": [self._task] * len(frames)})

    def frames(self, episode: PlainEpisode, camera: str, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Images of frames, which must be ascending and distinct: (H, W, C) each.

        Raises:
            DataError: a chunk cannot be read, or a value is no pixel.
            OSError: storage fails.
        """
        first_row = int(self._buffer.starts[episode.index])
        codec = _image_codec(self._buffer.metadata[camera][1])
        step = 1 if codec else max(1, _PIECE_BYTES // (8 * int(np.prod(self._buffer.specs[camera]["shape"]))))
        place = 0
        while place < len(numbers):
            stop = int(np.searchsorted(numbers, numbers[place] + step))
            start_row, stop_row = first_row + numbers[place], first_row + numbers[stop - 1] + 1
            if codec:
                images = self._decode(episode.index, camera, start_row, codec)[None]
            else:
                images = self._read(episode.index, camera, start_row, stop_row)
            for number in numbers[place:stop]:
                yield _pixels(images[number - numbers[place]], f"episode {episode.index}, frame {number}, {camera}")
            place = stop

    def _read(self, episode: int, name: str, start_row: int, stop_row: int) -> NDArray[Any]:
        from predecode.transforms.sources.zarr_store import new_context

        store = self._buffer.store
        try:
            if name not in self._arrays:
                self._context = self._context or new_context()
                driver = self._buffer.metadata[name][0]
                self._arrays[name] = store.open_array(f"data/{name}", driver, self._context)
            part = self._arrays[name][start_row:stop_row]
            read = store.attempt(f"data/{name}", lambda seconds, _: part.read(order="C").result(timeout=seconds))
            return np.asarray(read)
        except DataError as error:
            raise DataError(f"episode {episode}, {name}, rows {start_row} to {stop_row}: {error}") from error

    def _decode(self, episode: int, camera: str, row: int, codec: str) -> Pixels:
        """A frame that is the only one of its chunk."""
        import imagecodecs

        from predecode.transforms.sources.zarr_store import new_context

        store = self._buffer.store
        separator = self._buffer.metadata[camera][1].get("dimension_separator", ".")
        path = f"data/{camera}/{separator.join([str(row), '0', '0', '0'])}"
        try:
            self._context = self._context or new_context()
            files = store.open_files(self._context)
            found = store.attempt(path, lambda seconds, _: files.read(path).result(timeout=seconds))
            image = np.asarray(getattr(imagecodecs, codec)(found.value))
        except Exception as error:  # Each codec has its own.
            if isinstance(error, OSError | MemoryError):
                raise
            raise DataError(f"episode {episode}, {path}: expected an image, got what cannot be decoded.") from error
        return image.reshape(self._buffer.specs[camera]["shape"])


def _pixels(image: NDArray[Any], where: str) -> Pixels:
    if image.dtype == np.uint8:
        return image
    with np.errstate(invalid="ignore"):
        pixels = image.astype(np.uint8)
    if (pixels != image).any():
        raise DataError(f"{where}: expected whole numbers from 0 to 255, got {image.min()} to {image.max()}.")
    return pixels
