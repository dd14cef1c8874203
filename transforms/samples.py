"""From a segment to its samples: read the rows once, decode, resize and encode each needed frame once, cut windows.

Padding is never stored: a window is `rows[index]`, and the mask says what was padded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.episodes import Episode
from predecode.transforms.errors import DataError
from predecode.transforms.fidelity import CameraMeter, FrameMeter
from predecode.transforms.format import DATA_MEMBER, FRAMES_EXTENSION, JSON_MEMBER, sample_key
from predecode.transforms.images import image_codec
from predecode.transforms.layout import Camera, Layout
from predecode.transforms.packing import pack_tensors
from predecode.transforms.recipe import Recipe
from predecode.transforms.resize import resize
from predecode.transforms.shards import Segment
from predecode.transforms.sources.base import Rows, SourceReader
from predecode.transforms.windows import window

Window: TypeAlias = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Frame numbers (A, T) and padding mask (A, T) of the windows of A anchors."""

_JSON = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """The frames of one camera that a segment needs.

    Attributes:
        numbers: (N,) frame numbers within the episode, ascending.
        contents: N encoded images.
    """

    numbers: NDArray[np.int64]
    contents: list[bytes]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: a run of consecutive anchors of one episode.

    Attributes:
        episode_index: Of which episode.
        frame_index: Of the first anchor.
        num_anchors: At least 1.
        members: Per extension the bytes; `frames` members as the list of their images.
        frame_numbers: Per `frames` member the frame numbers of its images.
    """

    episode_index: int
    frame_index: int
    num_anchors: int
    members: Mapping[str, bytes | list[bytes]]
    frame_numbers: Mapping[str, NDArray[np.int64]]

    @property
    def key(self) -> str:
        """WebDataset key."""
        return sample_key(self.episode_index, self.frame_index)


@dataclass(frozen=True, slots=True)
class EncodedSegment:
    """A segment as it will be stored.

    Attributes:
        samples: In anchor order.
        frames: Per camera the sums over its frames.
        rows: Per feature the anchors' own rows (A, ...).
    """

    samples: Sequence[Sample]
    frames: Mapping[str, CameraMeter]
    rows: Rows


class SegmentEncoder:
    """Turns segments into samples, and meters what passes. For one thread."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        """Nothing is read yet.

        Args:
            recipe: What to make.
            layout: How it is laid out; a frame of another size than its camera's is a data error.
        """
        self._recipe = recipe
        self._cameras = layout.cameras
        self._codec = image_codec(recipe.options.image_codec, jpeg_quality=recipe.options.jpeg_quality)
        self._anchors_per_sample = layout.rule.anchors_per_sample
        self._has_runs = layout.has_runs
        self._meter = FrameMeter(self._codec)

    def encode(self, reader: SourceReader, episode: Episode, segment: Segment) -> EncodedSegment:
        """Reads, decodes and encodes a segment.

        Raises:
            DataError: a row or a frame is bad; the message says which.
        """
        stride = self._recipe.options.anchor_stride
        anchors = np.arange(segment.first_anchor, segment.stop_anchor, dtype=np.int64) * stride
        rows, first_row = self._read_rows(reader, episode, anchors)
        asked = self._recipe.camera_deltas | self._recipe.deltas
        windows = {name: window(anchors, deltas, episode.num_frames) for name, deltas in asked.items()}
        meters = {camera.name: CameraMeter() for camera in self._cameras}
        frames = {
            camera.name: self._encode_frames(reader, episode, camera, windows[camera.name][0], meters[camera.name])
            for camera in self._cameras
        }
        samples = []
        for start in range(0, len(anchors), self._anchors_per_sample):
            run = slice(start, start + self._anchors_per_sample)
            mine = {name: (positions[run], is_pad[run]) for name, (positions, is_pad) in windows.items()}
            samples.append(self._sample(episode, anchors[run], rows, first_row, mine, frames))
        own_rows = {name: _take(values, anchors - first_row) for name, values in rows.items()}
        return EncodedSegment(samples, meters, own_rows)

    def _read_rows(self, reader: SourceReader, episode: Episode, anchors: NDArray[np.int64]) -> tuple[Rows, int]:
        """The rows that anchors and number windows need, as one range, and the frame number of the first."""
        reach = [delta for feature in self._recipe.numbers for delta in self._recipe.deltas.get(feature.name, ())]
        first = max(0, int(anchors[0]) + min(reach, default=0))
        last = min(episode.num_frames - 1, int(anchors[-1]) + max(reach, default=0))
        first, last = min(first, int(anchors[0])), max(last, int(anchors[-1]))
        return reader.rows(episode, first, last + 1), first

    def _encode_frames(
        self,
        reader: SourceReader,
        episode: Episode,
        camera: Camera,
        positions: NDArray[np.int64],
        sums: CameraMeter,
    ) -> EncodedFrames:
        numbers = np.unique(positions)
        contents: list[bytes] = []
        options = self._recipe.options
        expected = (camera.height, camera.width, camera.channels)
        for number, image in zip(numbers.tolist(), reader.frames(episode, camera.name, numbers.tolist()), strict=True):
            stored = resize(image, options.image_size, options.resize_mode) if options.image_size else image
            if stored.shape != expected:
                raise DataError(
                    f"Episode {episode.index}, frame {number}: {camera.name} is {stored.shape} (height, width, "
                    f"channels), expected {expected} as in the first episodes. Give --image-size for one size, or "
                    f"leave it out: --exclude-features {camera.name}."
                )
            stored = np.ascontiguousarray(stored)
            contents.append(self._codec.encode(stored))
            self._meter.see(sums, number, stored, contents[-1])
        return EncodedFrames(numbers, contents)

    def _sample(
        self,
        episode: Episode,
        anchors: NDArray[np.int64],
        rows: Rows,
        first_row: int,
        windows: Mapping[str, Window],
        frames: Mapping[str, EncodedFrames],
    ) -> Sample:
        tensors: dict[str, NDArray[Any]] = {}
        for feature in self._recipe.numbers:
            values = rows[feature.name]
            assert isinstance(values, np.ndarray)
            has_anchor = 0 in self._recipe.deltas.get(feature.name, ())
            shown = windows.get(feature.name)
            tensors.update(window_tensors(feature.name, values, first_row, anchors, shown, has_anchor=has_anchor))
        members: dict[str, bytes | list[bytes]] = {}
        frame_numbers: dict[str, NDArray[np.int64]] = {}
        for camera, encoded in frames.items():
            positions, is_pad = windows[camera]
            if camera in self._recipe.deltas:
                tensors[f"{camera}_is_pad"] = is_pad
            if not self._has_runs:
                place = int(np.searchsorted(encoded.numbers, positions[0, 0]))
                members[f"{camera}.{self._codec.extension}"] = encoded.contents[place]
                continue
            needed = np.unique(positions)
            picked = [encoded.contents[place] for place in np.searchsorted(encoded.numbers, needed)]
            tensors[f"{camera}/index"] = np.searchsorted(needed, positions).astype(np.int32)
            tensors[f"{camera}/offsets"] = np.cumsum([0, *map(len, picked)], dtype=np.int64)
            members[f"{camera}.{FRAMES_EXTENSION}"] = picked
            frame_numbers[f"{camera}.{FRAMES_EXTENSION}"] = needed
        members[DATA_MEMBER] = pack_tensors(tensors)
        members[JSON_MEMBER] = self._text(episode, anchors, rows, first_row)
        return Sample(episode.index, int(anchors[0]), len(anchors), members, frame_numbers)

    def _text(self, episode: Episode, anchors: NDArray[np.int64], rows: Rows, first_row: int) -> bytes:
        content: dict[str, Any] = {
            "episode_index": episode.index,
            "frame_index": int(anchors[0]),
            "anchors": len(anchors),
        }
        for name in self._recipe.source.text_features:
            content[name] = _take(rows[name], anchors - first_row)
        return _JSON.encode(content).encode()


def window_tensors(
    name: str,
    rows: NDArray[Any],
    first_row: int,
    anchors: NDArray[np.int64],
    shown: Window | None,
    *,
    has_anchor: bool,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of one number feature in one sample.

    Without a window the anchors' rows (A, ...). With one each needed row once, in frame order, `/index` int32 (A, T)
    into them and `_is_pad` bool (A, T); the anchors' own rows are there too, at `/anchor` int32 (A,) if 0 is no delta.

    Args:
        name: Of the feature.
        rows: Its values (R, ...) of consecutive frames.
        first_row: Frame number of the first of them.
        anchors: (A,) frame numbers.
        shown: The window of each anchor; None where none was asked for.
        has_anchor: Whether the window shows the anchor itself.
    """
    if shown is None:
        yield name, rows[anchors - first_row]
        return
    positions, is_pad = shown
    stored = np.unique(np.concatenate([positions.ravel(), anchors]))
    yield name, rows[stored - first_row]
    yield f"{name}/index", np.searchsorted(stored, positions).astype(np.int32)
    yield f"{name}_is_pad", is_pad
    if not has_anchor:
        yield f"{name}/anchor", np.searchsorted(stored, anchors).astype(np.int32)


def _take(values: NDArray[Any] | list[str], places: NDArray[np.int64]) -> Any:
    return values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]
