"""Rows and frames of the episodes of a plainly read LeRobot dataset, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.reader.plain_dataset import PlainDataset, in_frame_order
from predecode.reader.plain_images import Pixels, plain_image
from predecode.reader.plain_rows import RowStream, number_column, text_column
from predecode.reader.plain_source import PlainEpisode
from predecode.transforms.errors import DataError
from predecode.transforms.recent import Recent

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

_ROWS, _IMAGE_ROWS = 1 << 10, 1 << 3
_OPEN_FILES = 8
_CHUNK_BYTES = 16 << 20
_CAMERAS = ("video", "image")


class DatasetReader:
    """Reads episodes. For one thread, and cheapest when they are asked for in the order in which they lie."""

    def __init__(self, dataset: PlainDataset, *, tolerance_s: float) -> None:
        """Opens nothing yet.

        Args:
            dataset: To read from.
            tolerance_s: How far a frame may be from its row's time, in seconds.
        """
        self._dataset, self._tolerance_s = dataset, tolerance_s
        self._rows: Recent[str, RowStream] = Recent(self._open_rows, limit=_OPEN_FILES)
        self._images: Recent[tuple[str, str], RowStream] = Recent(self._open_images, limit=_OPEN_FILES)
        self._videos: Recent[str, _Video] = Recent(self._open_video, limit=_OPEN_FILES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._rows, self._images, self._videos):
            opened.close()

    def episode(self, index: int) -> PlainEpisode:
        """All values of an episode but its images.

        Raises:
            DataError: there is no such episode, a frame of it is missing, or a value is null.
            OSError: storage fails.
        """
        where = f"episode {index}"
        table = pa.concat_tables(self._parts(self._rows, index))
        frame_index = number_column(table["frame_index"], self._dataset.specs["frame_index"], where)
        table = table.take(in_frame_order(frame_index, where))
        numbers, texts = {}, {}
        for name, spec in self._dataset.specs.items():
            if spec["dtype"] == "string":
                texts[name] = text_column(table[name], f"{where}, {name}")
            elif spec["dtype"] not in _CAMERAS:
                numbers[name] = number_column(table[name], spec, f"{where}, {name}")
        for name, strings in self._dataset.texts.items():
            texts[name] = [_string(strings, number, name, where) for number in numbers[f"{name}_index"].tolist()]
        return PlainEpisode(index, numbers, texts)

    def frames(self, episode: PlainEpisode, camera: str, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Images of frames, which must be ascending and distinct: (H, W, C) each.

        Raises:
            DataError: one cannot be decoded, or none is shown at its time.
            OSError: storage fails.
        """
        if self._dataset.specs[camera]["dtype"] == "image":
            yield from (self._image(episode.index, camera, number) for number in numbers)
            return
        if (episode.index, camera) not in self._dataset.videos:
            raise DataError(f"episode {episode.index}: the metadata do not say where its frames of {camera} are.")
        path, start = self._dataset.videos[episode.index, camera]
        times = episode.numbers["timestamp"][list(numbers)]
        try:
            yield from self._videos[path].frames(
                start + times.astype(np.float64), self._tolerance_s + np.spacing(np.abs(times)) / 2
            )
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"episode {episode.index}, {camera}: {path}: {error}") from error

    def _image(self, index: int, camera: str, number: int) -> Pixels:
        # The n-th row of an episode is frame n in all but odd datasets: only these look further.
        for path, row in self._rows_of_frame(index, number):
            value = self._images[path, camera].read(row, row + 1)[camera][0].as_py()
            content = value.get("bytes") if isinstance(value, dict) else value
            name = value.get("path") if isinstance(value, dict) else None
            if content is None and name:
                content = self._dataset.folder.read(name)
            if not isinstance(content, bytes):
                break
            return plain_image(content)
        raise DataError(f"episode {index}, frame {number}: expected an image of {camera}, got none.")

    def _rows_of_frame(self, index: int, number: int) -> Iterator[tuple[str, int]]:
        guess = number
        for place in self._dataset.places[index]:
            if guess < place.stop_row - place.start_row:
                row = place.start_row + guess
                if self._rows[place.path].read(row, row + 1)["frame_index"][0].as_py() == number:
                    yield place.path, row
                    return
                break
            guess -= place.stop_row - place.start_row
        for place in self._dataset.places[index]:
            rows = self._rows[place.path].read(place.start_row, place.stop_row)["frame_index"].to_numpy()
            yield from ((place.path, place.start_row + int(row)) for row in np.flatnonzero(rows == number))

    def _parts(self, streams: Recent[str, RowStream], index: int) -> Iterator[pa.Table]:
        if index not in self._dataset.places:
            raise DataError(f"The source has no rows of episode {index}.")
        for place in self._dataset.places[index]:
            yield streams[place.path].read(place.start_row, place.stop_row)

    def _open_rows(self, path: str) -> RowStream:
        columns = [name for name, spec in self._dataset.specs.items() if spec["dtype"] not in _CAMERAS]
        return RowStream(self._dataset.folder, path, columns, batch_rows=_ROWS)

    def _open_images(self, key: tuple[str, str]) -> RowStream:
        path, camera = key
        return RowStream(self._dataset.folder, path, [camera], batch_rows=_IMAGE_ROWS)

    def _open_video(self, path: str) -> _Video:
        folder = self._dataset.folder
        if folder.size(path) is None:
            raise DataError(f"{path}: there is no such file. Is the dataset complete?")
        return _Video(folder.path(path) if folder.is_local else folder.open(path))


def _string(strings: Sequence[str | None], number: int, name: str, where: str) -> str:
    text = strings[number] if 0 <= number < len(strings) else None
    if text is None:
        raise DataError(f"{where}: {name}_index is {number}, for which there is no string.")
    return text


class _Video:
    """The first video stream of a file, scanned once, so that every frame's time is known."""

    def __init__(self, source: Any) -> None:
        from torchcodec.decoders import VideoDecoder

        self._decoder: VideoDecoder | None = None
        for stream in range(8):
            with contextlib.suppress(ValueError):
                self._decoder = VideoDecoder(
                    source, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
                )
                break
        if self._decoder is None:
            raise DataError("expected a video stream, found none")

    def close(self) -> None:
        """Lets go of the file."""
        self._decoder = None

    def frames(self, seconds: NDArray[np.float64], tolerances_s: NDArray[Any]) -> Iterator[Pixels]:
        """The frame nearest to each time; times ascend.

        Decodes all frames from the first time to the last, some at a time, and picks by their presentation times.
        """
        decoder = self._decoder
        assert decoder is not None, "it is open"
        metadata = decoder.metadata
        step = max(1, min(64, _CHUNK_BYTES // (3 * (metadata.width or 1) * (metadata.height or 1))))
        margin = 0.5 / (metadata.average_fps or 1.0)
        reach = step * 2 * margin
        begin, end = metadata.begin_stream_seconds or 0.0, metadata.end_stream_seconds or 0.0
        place = 0
        while place < len(seconds):
            stop = min(len(seconds), place + step, int(np.searchsorted(seconds, seconds[place] + reach)))
            stop = max(stop, place + 1)
            first, last = max(begin, seconds[place] - margin), min(end, seconds[stop - 1] + margin)
            if first >= last:
                raise DataError(f"no frame is shown at {seconds[place]:.6f} s; the video ends at {end:.6f} s")
            batch = decoder.get_frames_played_in_range(first, last)
            shown = batch.pts_seconds.numpy()
            for time, tolerance in zip(seconds[place:stop], tolerances_s[place:stop], strict=True):
                nearest = int(np.argmin(np.abs(shown - time)))
                if abs(shown[nearest] - time) > tolerance:
                    raise DataError(f"no frame is shown at {time:.6f} s; the nearest is at {shown[nearest]:.6f} s")
                yield batch.data[nearest].numpy()
            place = stop
