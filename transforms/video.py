"""Reading the frames of a video by their times.

torchcodec (FFmpeg) decodes; it is imported only when something is decoded. Where a frame lies in the file is guessed
from the average rate, which needs no scan of the file, and every presentation time that comes back is checked against
the one that was asked for. A file where a guess is wrong (a variable rate, a header that lies) is scanned once and then
searched.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predecode.transforms.decoder_library import check_decoder
from predecode.transforms.errors import DataError
from predecode.transforms.images import MAX_PIXELS
from predecode.transforms.mp4_index import key_frame_indices

if TYPE_CHECKING:
    from torchcodec import FrameBatch
    from torchcodec.decoders import VideoDecoder

_CHUNK_FRAMES = 16
"""Frames decoded by one call: more gain nothing (docs/pixels.md)."""

_CHUNK_BYTES = 1 << 23
"""Bytes of frames decoded by one call (docs/pixels.md)."""

_JUST_BEFORE_S = 1e-7
"""Less than a tick of any container's clock: this much before a frame's time, the previous frame is on screen."""


class VideoFile:
    """The first video stream of one file, for one thread; a context manager.

    Args:
        source: A local path, or a file that can be read and sought; it is closed with the video.
        name: What to call the file in messages: its path relative to the dataset.
    """

    def __init__(self, source: str | IO[bytes], name: str) -> None:
        self._source = source
        self._name = name
        self._file: _GuardedFile | None = None
        self._decoder: VideoDecoder | None = None
        self._is_scanned = False
        self._must_search = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder and closes the file."""
        self._decoder = None
        if self._file is not None:
            self._file.close()
            self._file = None
        elif not isinstance(self._source, str):
            self._source.close()

    def frames(self, seconds: ArrayLike, tolerances_s: ArrayLike) -> Iterator[NDArray[np.uint8]]:
        """Decodes the frames nearest to the given presentation times.

        Args:
            seconds: (N,), ascending; repeats are allowed.
            tolerances_s: How far from each a frame may be, inclusive: one for all, or (N,).

        Yields:
            N frames: uint8, (H, W, 3). They are views of a chunk of frames: copy what is kept for long.

        Raises:
            DataError: the file cannot be decoded, or has no frame within the tolerance of a time.
            OSError: the file cannot be read.
        """
        times = np.asarray(seconds, np.float64)
        tolerances = np.broadcast_to(np.asarray(tolerances_s, np.float64), times.shape)
        if not len(times):
            return
        metadata = self._opened().metadata
        frame_bytes = 3 * (metadata.width or 1) * (metadata.height or 1)
        step = max(1, min(_CHUNK_FRAMES, _CHUNK_BYTES // frame_bytes))
        for start in range(0, len(times), step):
            chunk = slice(start, start + step)
            yield from self._nearest(times[chunk], tolerances[chunk])

    def key_frame_offsets(self, start_seconds: float, stop_seconds: float, fps: float) -> list[int]:
        """Where the key frames of a stretch of the video are; scans the file, unless its index says so (MP4).

        Times are taken to be evenly spaced: this is for cutting segments well, not for finding frames.

        Args:
            start_seconds: Presentation time of frame 0 of the stretch.
            stop_seconds: Where the stretch ends, exclusive; may be infinite.
            fps: Rate at which frames are counted.

        Returns:
            Frame numbers within the stretch, ascending, not negative.

        Raises:
            DataError: the file cannot be scanned.
            OSError: the file cannot be read.
        """
        decoder = self._opened()
        assert self._file is not None
        with self._decoding("its key frames cannot be listed"):
            indices = None if self._is_scanned else key_frame_indices(self._file)
        if indices is None:
            decoder = self._opened(exact=True)
            with self._decoding("its key frames cannot be listed"):
                # The one thing that torchcodec knows and does not offer publicly.
                indices = np.asarray(decoder._get_key_frame_indices(), np.int64)  # noqa: SLF001
        times = (decoder.metadata.begin_stream_seconds or 0.0) + indices / (decoder.metadata.average_fps or fps)
        # Half a frame of slack: times that are computed differ from those in the file by rounding.
        inside = (times > start_seconds - 0.5 / fps) & (times < stop_seconds - 0.5 / fps)
        return [int(offset) for offset in np.rint((times[inside] - start_seconds) * fps)]

    def _nearest(self, times: NDArray[np.float64], tolerances: NDArray[np.float64]) -> Iterator[NDArray[np.uint8]]:
        """The frames nearest to a few times, up to the first that is missing."""
        if not self._must_search:
            frames = self._guessed(times.tolist(), tolerances.tolist())
            if frames is not None:
                yield from frames
                return
        yield from self._searched(times, tolerances)
        self._must_search = True

    def _guessed(self, times: list[float], tolerances: list[float]) -> NDArray[np.uint8] | None:
        """Frames where the average rate says that they are; None where one is not there.

        In plain Python: decoding leaves nothing of numpy's code in the processor's caches, and a few of its functions
        then take a fiftieth of what decoding takes.
        """
        decoder = self._opened()
        metadata = decoder.metadata
        fps, begin_seconds = metadata.average_fps, metadata.begin_stream_seconds or 0.0
        num_frames = metadata.num_frames or 0
        if not fps:
            return None
        places = [(time - begin_seconds) * fps for time in times]
        if not all(-0.5 <= place < num_frames - 0.5 for place in places):  # NaN is not there either.
            return None
        indices = [round(place) for place in places]
        try:
            with self._decoding(f"between {times[0]:.6f} s and {times[-1]:.6f} s"):
                if indices == list(range(indices[0], indices[0] + len(indices))):
                    batch = decoder.get_frames_in_range(indices[0], indices[-1] + 1)
                else:
                    batch = decoder.get_frames_at(indices)
        except DataError:
            return None  # The header may have promised frames that are not there: the scan will tell.
        # Beyond half a frame another one may be nearer.
        reaches = (min(tolerance, 0.5 / fps) for tolerance in tolerances)
        pts = batch.pts_seconds.tolist()
        is_there = all(abs(got - time) <= reach for got, time, reach in zip(pts, times, reaches, strict=True))
        return _pixels(batch) if is_there else None

    def _searched(self, times: NDArray[np.float64], tolerances: NDArray[np.float64]) -> Iterator[NDArray[np.uint8]]:
        """Frames by the times that a scan of the file has found, up to the first that is missing."""
        decoder = self._opened(exact=True)
        begin = decoder.metadata.begin_stream_seconds or 0.0
        last = max(begin, (decoder.metadata.end_stream_seconds or 0.0) - _JUST_BEFORE_S)

        def on_screen_at(moments: NDArray[np.float64]) -> FrameBatch:
            with self._decoding(f"between {times[0]:.6f} s and {times[-1]:.6f} s"):
                return decoder.get_frames_played_at(np.clip(moments, begin, last).tolist())

        # The last frame within reach; where it is too late, one before it may be nearer.
        batch = on_screen_at(times + tolerances + _JUST_BEFORE_S)
        frames, pts = _pixels(batch), _pts(batch)
        is_open = pts > times
        while np.any(is_open):
            before = on_screen_at(pts[is_open] - _JUST_BEFORE_S)
            is_nearer = np.abs(_pts(before) - times[is_open]) < np.abs(pts[is_open] - times[is_open])
            chosen = np.flatnonzero(is_open)[is_nearer]
            frames[chosen], pts[chosen] = _pixels(before)[is_nearer], _pts(before)[is_nearer]
            is_open[:] = False
            is_open[chosen] = pts[chosen] > times[chosen]
        is_missing = ~(np.abs(pts - times) <= tolerances)  # So that NaN is missing too.
        for missing in np.flatnonzero(is_missing)[:1]:
            yield from frames[:missing]
            raise DataError(
                f"{self._name}: no frame at {times[missing]:.6f} s: the nearest is at {pts[missing]:.6f} s, which is "
                f"more than the tolerance of {tolerances[missing]:.3g} s away. If that frame is the right one, allow "
                "for it with --tolerance-s."
            )
        yield from frames

    def _opened(self, *, exact: bool = False) -> VideoDecoder:
        """The decoder; with `exact` one that has scanned the file."""
        if self._decoder is not None and (self._is_scanned or not exact):
            return self._decoder
        self._decoder = None  # Not two at a time: they share the file.
        if not exact:
            with contextlib.suppress(DataError):  # Some containers say too little for a guess.
                self._decoder = self._open("approximate")
        self._is_scanned = self._decoder is None
        if self._decoder is None:
            self._decoder = self._open("exact")
        return self._decoder

    def _open(self, seek_mode: Literal["exact", "approximate"]) -> VideoDecoder:
        """Opens the first video stream, which need not be the one that FFmpeg deems best."""
        check_decoder()
        from torchcodec.decoders import VideoDecoder

        if self._file is None:
            source = open(self._source, "rb") if isinstance(self._source, str) else self._source  # noqa: SIM115
            self._file = _GuardedFile(source)
        stream = 0
        with self._decoding("it cannot be opened"):
            while True:
                self._file.seek(0)
                try:
                    decoder = VideoDecoder(
                        cast(io.RawIOBase, self._file),  # All that it uses are `read` and `seek`.
                        stream_index=stream,
                        dimension_order="NHWC",
                        num_ffmpeg_threads=1,
                        device="cpu",
                        seek_mode=seek_mode,
                    )
                    break
                except ValueError as error:
                    if "is not a video stream" not in str(error):
                        raise
                    stream += 1
        width, height = decoder.metadata.width or 0, decoder.metadata.height or 0
        if not 0 < width * height <= MAX_PIXELS:
            raise DataError(
                f"{self._name}: the video declares {width} x {height} pixels; expected 1 to {MAX_PIXELS} in all. "
                "Leave it out with --exclude-features."
            )
        return decoder

    @contextlib.contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        """Tells bad data from a bad environment: only the former is a DataError."""
        assert self._file is not None
        try:
            yield
        except (RuntimeError, ValueError, IndexError) as error:
            self._decoder = None  # Where it stands in the file is uncertain now.
            self._file.check()
            if "allocate memory" in str(error):  # FFmpeg's words and torch's.
                raise MemoryError(f"{self._name}: {error}") from error
            reason = _reason(error)
            raise DataError(
                f"{self._name}: the video cannot be decoded: {what}: {reason} The file may be damaged or cut short: "
                "get it again."
            ) from error
        # A read that failed looks like the end of the file to FFmpeg, which may go on with what it has.
        self._file.check()


class _GuardedFile:
    """A file for torchcodec that keeps the error of a failed read, instead of throwing it through FFmpeg's C code."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: OSError | MemoryError | None = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end, and after a failure."""
        try:
            return self._file.read(size) if self._error is None else b""
        except (OSError, MemoryError) as error:
            self._error = error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new position; negative after a failure, which FFmpeg takes for one."""
        try:
            return self._file.seek(offset, whence) if self._error is None else -1
        except (OSError, MemoryError) as error:
            self._error = error
            return -1

    def check(self) -> None:
        """Raises the first error that has been kept, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _reason(error: Exception) -> str:
    """What torchcodec says went wrong, without the place in its source that it puts before it.

    >>> _reason(RuntimeError("Decoder, /src/Decoder.cpp:70, Failed to open: Invalid data"))
    'Failed to open: Invalid data.'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^.*\.cpp:\d+, ", "", lines[0]).rstrip(". ") + "."


def _pixels(batch: FrameBatch) -> NDArray[np.uint8]:
    """uint8, (N, H, W, 3), sharing memory."""
    frames: NDArray[np.uint8] = batch.data.numpy()
    return frames


def _pts(batch: FrameBatch) -> NDArray[np.float64]:
    """Presentation times in seconds, (N,)."""
    seconds: NDArray[np.float64] = batch.pts_seconds.numpy()
    return seconds
