"""One sample of an output against the source: every value, mask and image of every window that it makes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predecode.reader.item_format import ItemFormat, StoredFeature
from predecode.reader.plain_images import Pixels, StoredSize, image_problem, squared_error
from predecode.reader.plain_source import PlainEpisode, PlainReader
from predecode.reader.ranges import RangeReader
from predecode.reader.sample_rows import SampleRows
from predecode.reader.shard_index import ShardIndex
from predecode.transforms.errors import FormatError
from predecode.transforms.fidelity import METER_STRIDE_FRAMES
from predecode.transforms.format import DATA_MEMBER, JSON_MEMBER
from predecode.transforms.images import ImageCodec, image_codec

_KEPT_BYTES = 64 << 20
"""Of a camera's frames as they should be stored: the next sample's windows show many of them, too."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an output is not what the source says.

    Attributes:
        split: "train" or "val"; "" where it is not about one.
        episode_index: Of the episode; None where it is about all.
        frame: The anchor's frame; None where it is about the whole episode.
        feature: A key of the item; "" where it is about the whole window.
        delta: Offset from the anchor, in frames; None for a feature without deltas.
        what: Was expected, and got.
        shards: Which have to be written again, such as "train/shard-00003".
    """

    split: str
    episode_index: int | None
    frame: int | None
    feature: str
    delta: int | None
    what: str
    shards: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        parts = [f"episode {self.episode_index}"] if self.episode_index is not None else []
        parts += [f"frame {self.frame}"] if self.frame is not None else []
        parts += [self.feature] if self.feature else []
        parts += [f"delta {self.delta:+d}" if self.delta else "delta 0"] if self.delta is not None else []
        where = f" ({', '.join(self.shards)})" if len(self.shards) == 1 else ""
        return f"{', '.join(parts)}: {self.what}{where}"


@dataclass(slots=True)
class CameraSums:
    """Frames of one camera that were compared.

    Attributes:
        num_frames: All.
        num_metered: Those that the manifest's PSNR is of.
        squared_error: Over these.
        num_values: Of these.
    """

    num_frames: int = 0
    num_metered: int = 0
    squared_error: int = 0
    num_values: int = 0

    def add(self, other: CameraSums) -> None:
        """Adds the sums of others."""
        self.num_frames += other.num_frames
        self.num_metered += other.num_metered
        self.squared_error += other.squared_error
        self.num_values += other.num_values

    @property
    def psnr_db(self) -> float | None:
        """Peak signal-to-noise ratio of the metered frames; None where nothing was lost or none was metered."""
        if not self.squared_error:
            return None
        return float(10 * np.log10(255.0**2 * self.num_values / self.squared_error))


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample, and what it should hold.

    Attributes:
        split: That it belongs to.
        index: Of its shard.
        row: Of the sample in the index.
        reader: Of the output's bytes.
    """

    split: str
    index: ShardIndex
    row: int
    reader: RangeReader

    @property
    def shard(self) -> str:
        """Such as "train/shard-00003"."""
        return self.index.tar.removesuffix(".tar")

    def member(self, extension: str) -> bytes:
        """The content of a member.

        Raises:
            FormatError: it is not what its checksum says.
        """
        (content,) = self.reader.read_ranges([self.index.member_range(self.row, extension)])
        self.index.check_member(content, self.row, extension)
        return bytes(content)


@dataclass(slots=True)
class SampleComparer:
    """Compares the samples of one episode, best in frame order. For one thread.

    Attributes:
        item_format: Of the output.
        source_names: Per feature of the output its name in the source.
        stored_size: How frames were to be resized.
        jpeg_quality: None where the codec is lossless.
        reader: Of the source.
        episode: Of the source.
        sums: Per camera what was compared so far.
    """

    item_format: ItemFormat
    source_names: Mapping[str, str]
    stored_size: StoredSize
    jpeg_quality: int | None
    reader: PlainReader
    episode: PlainEpisode
    sums: dict[str, CameraSums] = field(default_factory=dict)
    _kept: dict[str, OrderedDict[int, tuple[Pixels, bool]]] = field(default_factory=dict)

    def differences(self, sample: Sample) -> Iterator[Difference]:
        """The first difference of each feature and mask of a sample.

        Raises:
            DataError: the source cannot be read.
            OSError: storage fails.
        """
        first_frame = int(sample.index.frame_index[sample.row])
        frames = first_frame + self.item_format.anchor_stride * np.arange(int(sample.index.anchors[sample.row]))
        if frames[-1] >= self.episode.num_frames:
            return  # There is nothing to compare with, and windows too many are named by themselves.
        try:
            where = f"{sample.index.tar_path}, sample {sample.index.keys[sample.row]}"
            text, tensors = sample.member(JSON_MEMBER), sample.member(DATA_MEMBER)
            rows = SampleRows.parse(self.item_format, text, tensors, where=where)
            place = rows.text["episode_index"], rows.text["frame_index"], rows.num_anchors
            if place != (self.episode.index, first_frame, len(frames)):
                yield self._difference(sample, first_frame, "", None, f"the sample says that it is {place}")
                return
            for found in (*self._numbers(rows, frames), *self._masks(rows, frames), *self._texts(rows, frames)):
                yield self._difference(sample, *found)
            for camera in self.item_format.cameras:
                for found in self._images(sample, rows, frames, camera):
                    yield self._difference(sample, *found)
        except FormatError as error:
            yield self._difference(sample, first_frame, "", None, str(error))

    def _difference(self, sample: Sample, frame: int, feature: str, delta: int | None, what: str) -> Difference:
        return Difference(sample.split, self.episode.index, frame, feature, delta, what, (sample.shard,))

    def _shown(self, frames: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        """Which frame each delta of each anchor shows: (A, T)."""
        deltas = np.array(self.item_format.delta_indices.get(name, (0,)), np.int64)
        return np.clip(frames[:, None] + deltas, 0, self.episode.num_frames - 1)

    def _numbers(self, rows: SampleRows, frames: NDArray[np.int64]) -> Iterator[tuple[int, str, int | None, str]]:
        for feature in self.item_format.numbers:
            name, deltas = feature.name, self.item_format.delta_indices.get(feature.name)
            values = self.episode.numbers[self.source_names[name]]
            shown = self._shown(frames, name) if deltas is not None else frames
            got = np.stack([rows.value(feature, anchor).numpy() for anchor in range(len(frames))])
            yield from self._first(name, frames, got, values[shown])
            own = rows.tensors.get(f"{name}/anchor")
            if own is not None:  # What items show where the reader is asked for no deltas.
                yield from self._first(f"{name}/anchor", frames, rows.tensors[name][own].numpy(), values[frames])

    def _masks(self, rows: SampleRows, frames: NDArray[np.int64]) -> Iterator[tuple[int, str, int | None, str]]:
        for name, deltas in self.item_format.delta_indices.items():
            wanted = frames[:, None] + np.array(deltas, np.int64)
            outside = (wanted < 0) | (wanted >= self.episode.num_frames)
            got = np.stack([rows.is_pad(name, anchor).numpy() for anchor in range(len(frames))])
            yield from self._first(f"{name}_is_pad", frames, got, outside)

    def _texts(self, rows: SampleRows, frames: NDArray[np.int64]) -> Iterator[tuple[int, str, int | None, str]]:
        for name in self.item_format.text_features:
            strings = self.episode.texts[self.source_names.get(name, name)]
            for frame, got in zip(frames.tolist(), rows.text[name], strict=True):
                if got != strings[frame]:
                    yield frame, name, None, f"expected {strings[frame]!r:.80}, got {got!r:.80}"
                    break

    def _first(
        self, name: str, frames: NDArray[np.int64], got: NDArray[Any], expected: NDArray[Any]
    ) -> Iterator[tuple[int, str, int | None, str]]:
        """The first of the slots that differ, (A, ...) or (A, T, ...), with how many there are."""
        if got.shape != expected.shape or got.dtype != expected.dtype:
            what = f"expected {expected.dtype} {expected.shape}, got {got.dtype} {got.shape}"
            yield int(frames[0]), name, None, what
            return
        wrong = ~_same(got, expected)
        if not wrong.any():
            return
        deltas = self.item_format.delta_indices.get(name.removesuffix("_is_pad"))
        place = tuple(int(number) for number in np.argwhere(wrong)[0])
        delta = deltas[place[1]] if deltas is not None else None
        element = f" at {list(place[1 + (deltas is not None) :])}" if got.ndim > 1 + (deltas is not None) else ""
        more = f", and {wrong.sum() - 1} more values of this sample" if wrong.sum() > 1 else ""
        yield int(frames[place[0]]), name, delta, f"expected {expected[place]!s}, got {got[place]!s}{element}{more}"

    def _images(
        self, sample: Sample, rows: SampleRows, frames: NDArray[np.int64], camera: StoredFeature
    ) -> Iterator[tuple[int, str, int | None, str]]:
        content = sample.member(self.item_format.camera_member(camera.name))
        places, offsets = np.zeros((len(frames), 1), np.int32), np.array([0, len(content)])
        if self.item_format.has_runs:
            places, offsets = rows.frame_index(camera.name), rows.frame_offsets(camera.name)
        shown = self._shown(frames, camera.name)
        pairs = np.unique(np.stack([shown.ravel(), places.ravel()], axis=1), axis=0)
        expected = self._expected(camera.name, np.unique(shown).tolist())
        codec, sums = image_codec(self.item_format.image_codec), self.sums.setdefault(camera.name, CameraSums())
        number = -1
        for frame, place in pairs.tolist():
            if frame != number:
                number, image, resized = next(expected)
            stored = _decoded(codec, content[offsets[place] : offsets[place + 1]], camera)
            problem = image_problem(stored, image, jpeg_quality=self.jpeg_quality, was_resized=resized)
            sums.num_frames += 1
            if frame % METER_STRIDE_FRAMES == 0 and stored.shape == image.shape:
                sums.add(CameraSums(0, 1, squared_error(stored, image), image.size))
            if problem:
                anchor, slot = np.argwhere((shown == frame) & (places == place))[0].tolist()
                deltas = self.item_format.delta_indices.get(camera.name)
                yield int(frames[anchor]), camera.name, deltas[slot] if deltas else None, problem
                return

    def _expected(self, camera: str, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels, bool]]:
        """Frames as they should be stored, ascending, and whether they were resized."""
        kept = self._kept.setdefault(camera, OrderedDict())
        held = {number: kept[number] for number in numbers if number in kept}
        wanted = [number for number in numbers if number not in held]
        decoded = self.reader.frames(self.episode, self.source_names[camera], wanted)
        for number in numbers:
            if number not in held:
                image = next(decoded)
                held[number] = self.stored_size.resized(image), self.stored_size.changes(image)
            kept[number] = found = held.pop(number)
            while len(kept) * found[0].nbytes > _KEPT_BYTES and len(kept) > 1:
                kept.popitem(last=False)
            yield number, *found


def _decoded(codec: ImageCodec, content: bytes, camera: StoredFeature) -> Pixels:
    return codec.decode(content, out=np.empty(camera.shape, np.uint8))


def _same(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays hold the same bits; any NaN is like any other."""
    if first.dtype.kind != "f":
        return np.asarray(first == second)
    bits = np.dtype(f"u{first.dtype.itemsize}")
    same_bits = np.ascontiguousarray(first).view(bits) == np.ascontiguousarray(second).view(bits)
    return np.asarray(same_bits | (np.isnan(first) & np.isnan(second)))
