"""Rows and frames of a replay buffer, for one thread."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from predecode.transforms.episodes import Episode
from predecode.transforms.errors import DataError
from predecode.transforms.features import Feature
from predecode.transforms.sources.made_columns import made_columns
from predecode.transforms.sources.zarr_arrays import ZarrArray
from predecode.transforms.sources.zarr_images import Reads
from predecode.transforms.sources.zarr_store import ZarrStore, new_context

if TYPE_CHECKING:
    from predecode.transforms.sources.base import Rows

_PIECE_BYTES = 1 << 26
"""Of frames that are read at once, where chunks are not larger."""

_MAX_AHEAD = 16
"""Stretches of remote rows that are asked for before they are needed, as long as they are not more than a piece."""

Stretch: TypeAlias = tuple[str, int, int]
"""Feature, first row, row behind the last."""

Begun: TypeAlias = "ts.Future[NDArray[Any]] | Reads"
"""What was asked for: an array, or encoded images."""

_MAX_INT64 = np.iinfo(np.int64).max


class ZarrReader:
    """Reads rows and frames, whole chunks at a time; keeps each array open, and a bounded cache of chunks."""

    def __init__(
        self,
        store: ZarrStore,
        features: Sequence[Feature],
        arrays: Mapping[str, ZarrArray],
        *,
        fps: float,
        task: str,
    ) -> None:
        """Opens nothing yet.

        Args:
            store: Where the arrays lie.
            features: In the order of an item's keys.
            arrays: Of each feature that is one, by the feature's name.
            fps: Frames per second.
            task: The task string of every frame.
        """
        self._store = store
        self._features = {feature.name: feature for feature in features}
        self._arrays = arrays
        self._fps = fps
        self._task = task
        self._context: ts.Context | None = None
        self._files: ts.KvStore | None = None
        self._opened: dict[str, ts.TensorStore] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()

    def rows(self, episode: Episode, first_frame: int, stop_frame: int) -> Rows:
        """Values of all number features of a half-open range of frames, and the task.

        Raises:
            DataError: a chunk is missing or damaged, or a number is too large; the message says where.
            OSError: storage fails.
        """
        first_row = _first_row(episode)
        made = made_columns(episode, first_frame, stop_frame, first_row=first_row, fps=self._fps, task=self._task)
        numbers = [self._features[name] for name in self._arrays if not self._features[name].is_camera]
        bounds = first_row + first_frame, first_row + stop_frame
        read = self._read_each(episode, [(feature.name, *bounds) for feature in numbers])
        found = {
            feature.name: self._numbers(episode, feature, first_frame, values)
            for feature, values in zip(numbers, read, strict=True)
        }
        return {**found, **made}

    def frames(self, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """One image (H, W, C) per given frame number, which must be sorted and distinct.

        Raises:
            DataError: a chunk is missing or damaged, or an image of floats holds what is no pixel.
            OSError: storage fails.
        """
        first_row = _first_row(episode)
        array = self._arrays[camera]
        pieces = [list(piece) for _, piece in groupby(frames, lambda frame: _piece(array, first_row + frame))]
        wanted = [(camera, first_row + piece[0], first_row + piece[-1] + 1) for piece in pieces]
        for piece, read in zip(pieces, self._read_each(episode, wanted), strict=True):
            for frame in piece:
                yield self._pixels(read[frame - piece[0]], episode, camera, frame)

    def key_frames(self, episode: Episode, camera: str) -> list[int]:
        """All frames: none needs an earlier one."""
        assert camera in self._arrays
        return list(range(episode.num_frames))

    def _numbers(self, episode: Episode, feature: Feature, first_frame: int, values: NDArray[Any]) -> NDArray[Any]:
        """Values (frames, *item_shape) of the dtype that an item has."""
        if values.dtype == np.uint64 and (values > _MAX_INT64).any():
            row = int(np.argmax((values > _MAX_INT64).reshape(len(values), -1).any(axis=1)))
            raise DataError(
                f"{self._where(episode, feature.name, first_frame + row)}: a number that an int64 tensor cannot hold. "
                "Leave the array out with --exclude-features."
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as it does in a tensor
            return values.astype(feature.item_dtype).reshape(len(values), *feature.item_shape)

    def _read_each(self, episode: Episode, stretches: Sequence[Stretch]) -> Iterator[NDArray[Any]]:
        """Rows of arrays, in C order. What lies far away is asked for some stretches ahead."""
        largest = max((self._row_bytes(name) * (stop - start) for name, start, stop in stretches), default=0)
        ahead = 0 if self._store.folder.is_local else min(_MAX_AHEAD, _PIECE_BYTES // max(1, largest))
        begun: deque[tuple[Stretch, Begun | None]] = deque()
        for stretch in stretches:
            begun.append((stretch, self._begin_ahead(stretch) if ahead else None))
            if len(begun) > ahead:
                yield self._read(episode, *begun.popleft())
        while begun:
            yield self._read(episode, *begun.popleft())

    def _row_bytes(self, name: str) -> int:
        array = self._arrays[name]
        return math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize

    def _read(self, episode: Episode, stretch: Stretch, begun: Begun | None) -> NDArray[Any]:
        name, start_row, stop_row = stretch
        array = self._arrays[name]

        def finish(seconds: float | None, number: int) -> NDArray[Any]:
            if number > 1:
                self._forget()
            asked = self._begin(stretch) if number > 1 or begun is None else begun
            if isinstance(asked, list):
                assert array.images is not None
                return array.images.decode(asked, seconds)
            return np.asarray(asked.result(timeout=seconds))

        try:
            return self._store.attempt(array.path, finish, num_bytes=self._row_bytes(name) * (stop_row - start_row))
        except DataError as error:
            where = self._where(episode, name, start_row - _first_row(episode))
            raise DataError(
                f"{where} or behind it: {error}. A chunk that is missing is not taken for its fill value: where that "
                "is meant, write it (zarr: write_empty_chunks)."
                if "missing" in str(error)
                else f"{where} or behind it: {error}."
            ) from error

    def _begin_ahead(self, stretch: Stretch) -> Begun | None:
        with contextlib.suppress(DataError):  # Said by who reads it.
            return self._begin(stretch)
        return None

    def _begin(self, stretch: Stretch) -> Begun:
        """Asks for rows of an array."""
        name, start_row, stop_row = stretch
        array = self._arrays[name]
        self._context = self._context or new_context()
        if array.images:
            self._files = self._files or self._store.open_files(self._context)
            return array.images.begin(self._files, array.path, start_row, stop_row)
        if name not in self._opened:
            self._opened[name] = self._store.open_array(array.path, array.driver, self._context)
        return self._opened[name][start_row:stop_row].read(order="C")

    def _forget(self) -> None:
        """Lets go of all that is open: who asked for a chunk that hangs would only join who waits for it."""
        self._opened.clear()
        self._context = self._files = None

    def _pixels(self, image: NDArray[Any], episode: Episode, camera: str, frame: int) -> NDArray[np.uint8]:
        if image.dtype == np.uint8:
            return image
        with np.errstate(invalid="ignore"):
            pixels = image.astype(np.uint8)
        if not np.array_equal(pixels, image):
            raise DataError(
                f"{self._where(episode, camera, frame)}: expected pixels, whole numbers from 0 to 255, got "
                f"{image.dtype} from {image.min()} to {image.max()}. Write the images as uint8, or leave the array "
                "out with --exclude-features."
            )
        return pixels

    def _where(self, episode: Episode, name: str, frame: int) -> str:
        row = _first_row(episode) + frame
        return f"episode {episode.index}, frame {frame} ({self._arrays[name].path}, row {row})"


def _first_row(episode: Episode) -> int:
    return episode.runs[0].first_row


def _piece(array: ZarrArray, row: int) -> tuple[int, int]:
    """The rows that are read at once have one number: those of a chunk, or of a part of it where it is large."""
    row_bytes = math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize
    chunk, within = divmod(row, array.chunk_shape[0])
    return chunk, within // max(1, _PIECE_BYTES // row_bytes)
