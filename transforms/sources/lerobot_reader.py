"""Rows and frames of LeRobot datasets of all versions, for one thread."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.transforms.columns import Where, number_values, string_values, type_problem
from predecode.transforms.episodes import Episode, VideoSpan
from predecode.transforms.errors import DataError, SourceError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.recent import Recent
from predecode.transforms.rows import RowFile
from predecode.transforms.storage import Folder, check_relative
from predecode.transforms.stored_images import decode_stored_image

if TYPE_CHECKING:
    from predecode.transforms.sources.base import Rows
    from predecode.transforms.video import VideoFile

_OPEN_VIDEOS = 4
"""Cameras take turns, and an episode may be spread over some files."""

_OPEN_ROW_FILES = 2
"""An episode may begin in one and end in the next; footers take memory (docs/benchmarks.md)."""

_BATCH_BYTES = 1 << 20
_IMAGE_BATCH_ROWS = 8
_TIMESTAMP_BATCH_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one data file that are consecutive frames: `stop_row - start_row` of them, from `first_frame` on."""

    path: str
    start_row: int
    stop_row: int
    first_frame: int


class LeRobotReader:
    """Reads rows and frames; keeps a few files open. Fastest when asked in the order in which they lie in the files."""

    def __init__(
        self,
        folder: Folder,
        features: Sequence[Feature],
        texts: Mapping[str, Sequence[str | None]],
        *,
        fps: float,
        tolerance_s: float,
    ) -> None:
        """Opens nothing yet.

        Args:
            folder: The dataset.
            features: Those that are not excluded, in the order of an item's keys.
            texts: For "task_index" (and "subtask_index") the strings that its numbers stand for.
            fps: Frames per second.
            tolerance_s: How far a frame may be from its row's time, in seconds.
        """
        self._folder = folder
        self._features = {feature.name: feature for feature in features}
        self._values = [feature for feature in features if not feature.is_camera]
        self._texts = texts
        self._fps = fps
        self._tolerance_s = tolerance_s
        row_bytes = sum(8 * math.prod(feature.shape) for feature in self._values)
        self._batch_rows = max(1, min(_BATCH_BYTES // row_bytes, 1024))
        self._files: Recent[str, RowFile] = Recent(lambda path: RowFile(folder, path), limit=_OPEN_ROW_FILES)
        self._videos: Recent[str, VideoFile] = Recent(self._open_video, limit=_OPEN_VIDEOS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
        self._videos.close()

    def rows(self, episode: Episode, first_frame: int, stop_frame: int) -> Rows:
        """Values of all number and string features of a half-open range of frames, and the strings of its tasks.

        Raises:
            DataError: a null, a vector of another length, a task number without a task; the message says where.
            OSError: storage fails.
        """
        names = [feature.name for feature in self._values]
        parts: dict[str, list[Any]] = {name: [] for name in (*names, *self._text_names())}
        for batch, where in self._batches(episode, first_frame, stop_frame, names, self._batch_rows):
            for feature in self._values:
                read = string_values if feature.kind is Kind.STRING else number_values
                parts[feature.name].append(read(batch.column(feature.name), feature, where))
            for column, name in zip(self._texts, self._text_names(), strict=True):
                parts[name].append(self._resolve(column, parts[column][-1], where))
        numbers = {feature.name: feature for feature in self._values if feature.kind is Kind.NUMBER}
        return {
            name: _concatenated(part, numbers[name]) if name in numbers else [text for texts in part for text in texts]
            for name, part in parts.items()
        }

    def frames(self, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """One image (H, W, C) per given frame number, which must be sorted and distinct.

        Raises:
            DataError: a frame cannot be decoded, or none lies within the tolerance; the message says where.
            OSError: storage fails.
        """
        if self._features[camera].kind is Kind.IMAGE:
            return self._stored_images(episode, camera, frames)
        return self._video_frames(episode, camera, frames)

    def key_frames(self, episode: Episode, camera: str) -> list[int]:
        """Numbers of the frames of an episode that can be decoded without an earlier one, ascending.

        Raises:
            DataError: the video cannot be read.
            OSError: storage fails.
        """
        if self._features[camera].kind is Kind.IMAGE:
            return list(range(episode.num_frames))
        span = _span(episode, camera)
        stop_seconds = min(span.stop_seconds, span.start_seconds + episode.num_frames / self._fps)
        try:
            return self._videos[span.path].key_frame_offsets(span.start_seconds, stop_seconds, self._fps)
        except DataError as error:
            raise DataError(f"episode {episode.index}, camera {camera!r}: {error}") from error

    def _video_frames(self, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        span = _span(episode, camera)
        timestamps = self._timestamps(episode, frames)
        seconds = [span.start_seconds + float(timestamp) for timestamp in timestamps]
        # a float32 timestamp cannot be more exact than half its spacing
        tolerances_s = [self._tolerance_s + float(np.spacing(timestamp)) / 2 for timestamp in timestamps]
        _check_seconds(episode, frames, seconds, span)
        num_done = 0
        try:
            for image in self._videos[span.path].frames(seconds, tolerances_s):
                yield image
                num_done += 1
        except DataError as error:
            where = f"episode {episode.index}, frame {frames[num_done]}, camera {camera!r}"
            raise DataError(f"{where}: {error}") from error

    def _stored_images(self, episode: Episode, camera: str, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        feature = self._features[camera]
        for frame in frames:
            for batch, where in self._batches(episode, frame, frame + 1, [camera], _IMAGE_BATCH_ROWS):
                column = batch.column(camera)
                if problem := type_problem(column.type, feature):
                    raise DataError(f"{where(0)}: {problem}")
                try:
                    yield decode_stored_image(self._encoded_image(column[0].as_py()))
                except DataError as error:
                    raise DataError(f"{where(0)}, camera {camera!r}: {error}. {_leave_out(camera)}") from error

    def _timestamps(self, episode: Episode, frames: Sequence[int]) -> NDArray[np.float32]:
        """float32, (len(frames),): the times of rows within their episode, in seconds."""
        if not frames:
            return np.empty(0, dtype=np.float32)
        wanted = np.asarray(frames, dtype=np.int64)
        found = []
        frame = int(wanted[0])
        batches = self._batches(episode, frame, int(wanted[-1]) + 1, ["timestamp"], _TIMESTAMP_BATCH_ROWS)
        for batch, where in batches:
            low, high = np.searchsorted(wanted, (frame, frame + batch.num_rows))
            values = number_values(batch.column("timestamp"), self._features["timestamp"], where)
            found.append(values[wanted[low:high] - frame])
            frame += batch.num_rows
        timestamps = np.concatenate(found)
        finite = np.isfinite(timestamps)
        if not finite.all():
            at = int(np.argmin(finite))
            raise DataError(
                f"episode {episode.index}, frame {frames[at]}: expected a timestamp in seconds, got {timestamps[at]}."
            )
        return cast(NDArray[np.float32], timestamps)

    def _batches(
        self, episode: Episode, first_frame: int, stop_frame: int, columns: Sequence[str], batch_rows: int
    ) -> Iterator[tuple[pa.RecordBatch, Where]]:
        """Rows in frame order, with what says where each of them is."""
        for piece in _pieces(episode, first_frame, stop_frame):
            frame = piece.first_frame
            row = piece.start_row
            while row < piece.stop_row:
                # asked for anew each time: the consumer may have made other files displace this one
                file = self._files[piece.path]
                where = _Where(episode.index, frame, piece.path, row)
                self._check_columns(file, columns, where)
                try:
                    batch = file.cursor(columns, batch_rows=batch_rows).read(row, piece.stop_row)
                except DataError as error:
                    raise DataError(f"{where(0)}: {error}") from error
                yield batch, where
                frame += batch.num_rows
                row += batch.num_rows

    def _check_columns(self, file: RowFile, columns: Sequence[str], where: Where) -> None:
        for name in columns:
            if len(file.schema.get_all_field_indices(name)) != 1:
                raise DataError(f"{where(0)}: expected a column {name!r}, found none or several. {_leave_out(name)}")

    def _text_names(self) -> list[str]:
        return [column.removesuffix("_index") for column in self._texts]

    def _resolve(self, column: str, numbers: NDArray[np.int64], where: Where) -> list[str]:
        """The strings that the numbers of a column stand for."""
        texts = self._texts[column]
        resolved = []
        for position, number in enumerate(numbers.tolist()):
            text = texts[number] if 0 <= number < len(texts) else None
            if text is None:
                raise DataError(
                    f"{where(position)}: {column} is {number}, for which there is no string: "
                    f"the dataset lists {len(texts)}."
                )
            resolved.append(text)
        return resolved

    def _encoded_image(self, value: Any) -> bytes:
        """The bytes of an image, as `datasets.Image` stores it: bytes, a path, or both."""
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, str):
            data, path = None, data
        if data is not None:
            return cast(bytes, data)
        if path is None:
            raise DataError("expected an image, got null")
        try:
            return self._folder.read(check_relative(path, "the image's path"))
        except (SourceError, FileNotFoundError, IsADirectoryError) as error:
            raise DataError(f"expected the bytes of an image, got only the path {path!r:.120}: {error}") from error

    def _open_video(self, path: str) -> VideoFile:
        from predecode.transforms.video import VideoFile

        if self._folder.size(path) is None:
            raise DataError(f"{path}: there is no such file. Is the download complete?")
        return VideoFile(self._folder.path(path) if self._folder.is_local else self._folder.open(path), path)


@dataclass(frozen=True, slots=True)
class _Where:
    """Says where a position of a batch is."""

    episode_index: int
    first_frame: int
    path: str
    first_row: int

    def __call__(self, position: int) -> str:
        frame, row = self.first_frame + position, self.first_row + position
        return f"episode {self.episode_index}, frame {frame} ({self.path}, row {row})"


def _pieces(episode: Episode, first_frame: int, stop_frame: int) -> Iterator[_Piece]:
    """The parts of an episode's runs that hold a half-open range of its frames, in frame order."""
    if not 0 <= first_frame <= stop_frame <= episode.num_frames:
        raise IndexError(f"episode {episode.index} has {episode.num_frames} frames, not [{first_frame}, {stop_frame})")
    at = bisect.bisect_right(episode.runs, first_frame, key=lambda run: run.first_frame) - 1
    frame = first_frame
    while frame < stop_frame:
        run = episode.runs[at]
        stop = min(stop_frame, run.first_frame + run.num_frames)
        start_row = run.first_row + frame - run.first_frame
        yield _Piece(run.path, start_row, start_row + stop - frame, frame)
        frame = stop
        at += 1


def _concatenated(parts: list[NDArray[Any]], feature: Feature) -> NDArray[Any]:
    empty = np.empty((0, *feature.item_shape), dtype=feature.item_dtype)
    return np.concatenate(parts) if parts else empty


def _span(episode: Episode, camera: str) -> VideoSpan:
    return next(video for video in episode.videos if video.camera == camera)


def _check_seconds(episode: Episode, frames: Sequence[int], seconds: Sequence[float], span: VideoSpan) -> None:
    """Refuses times at which the video shows the next episode already."""
    for frame, second in zip(frames, seconds, strict=True):
        if second >= span.stop_seconds:
            raise DataError(
                f"episode {episode.index}, frame {frame}, camera {span.camera!r}: {span.path}: expected a time before "
                f"{span.stop_seconds} s, where by the metadata the episode ends, got {second} s."
            )


def _leave_out(name: str) -> str:
    return f"Leave the feature out with --exclude-features {name}."
