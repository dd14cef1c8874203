"""What encoding cost, frame by frame: stored frames beside those of the source, where that can be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from predecode.reader.comparison import Sample
from predecode.reader.item_format import ItemFormat
from predecode.reader.plain_images import Pixels, StoredSize, squared_error
from predecode.reader.plain_opening import open_plain_source
from predecode.reader.plain_source import PlainEpisode, PlainReader
from predecode.reader.ranges import RangeReader, open_ranges
from predecode.reader.report_data import ReportData, SampleId
from predecode.reader.sample_rows import SampleRows
from predecode.reader.split import SplitIndex
from predecode.transforms.format import DATA_MEMBER, JSON_MEMBER
from predecode.transforms.hashing import order_key
from predecode.transforms.images import image_codec
from predecode.transforms.storage import Folder

MAX_FRAMES = 200
"""Samples of which frames are compared; of fewer samples more frames each."""

MAX_WORST = 3


@dataclass(frozen=True, slots=True)
class ComparedFrame:
    """A stored frame beside the source's.

    Attributes:
        psnr_db: Peak signal-to-noise ratio; infinite where nothing was lost.
        episode_index: Of its episode.
        frame: Within the episode.
        original: Of the source, resized as it was to be, before encoding.
        stored: As the output gives it back.
    """

    psnr_db: float
    episode_index: int
    frame: int
    original: Pixels
    stored: Pixels


@dataclass(slots=True)
class CameraFidelity:
    """Frames of one camera that were compared.

    Attributes:
        psnr_db: Of each.
        worst: Those that lost most, the worst first.
    """

    psnr_db: list[float] = field(default_factory=list)
    worst: list[ComparedFrame] = field(default_factory=list)

    def see(self, frame: ComparedFrame) -> None:
        """Adds a frame."""
        self.psnr_db.append(frame.psnr_db)
        places = {(worst.episode_index, worst.frame) for worst in self.worst}  # Two samples may hold one frame.
        if np.isfinite(frame.psnr_db) and (frame.episode_index, frame.frame) not in places:
            self.worst = sorted([*self.worst, frame], key=lambda each: each.psnr_db)[:MAX_WORST]


def compare_frames(
    data: ReportData, splits: Mapping[str, SplitIndex], source: Folder, advance: Callable[[int], Any]
) -> dict[str, CameraFidelity]:
    """Compares some frames of each camera with the source's, chosen by a hash from all samples.

    Args:
        data: Of the output.
        splits: Its splits, opened.
        source: The dataset that it was made from.
        advance: Told how many samples were looked at.

    Raises:
        UsageError: the source is of another kind.
        PredecodeError: the source or the output cannot be read.
        OSError: storage fails.
    """
    image, dataset = data.manifest["image"], open_plain_source(source, data.plan)
    names = dict(zip([feature.name for feature in data.item_format.features], dataset.specs, strict=False))
    size = StoredSize(tuple(image["image_size"]) if image["image_size"] else None, image["resize_mode"])
    chosen = sorted(data.samples, key=lambda sample: order_key("fidelity", *sample))[:MAX_FRAMES]
    found: dict[str, CameraFidelity] = {camera.name: CameraFidelity() for camera in data.item_format.cameras}
    comparer = _Comparer(data.item_format, splits, open_ranges(data.folder), names, size)
    draws = -(-MAX_FRAMES // max(1, len(chosen)))
    with dataset.open_reader() as reader:
        episode = None
        for sample_id in sorted(chosen, key=lambda each: _place(each, splits)):
            index = _place(sample_id, splits)[0]
            if episode is None or episode.index != index:
                episode = reader.episode(index)
            for camera, fidelity in found.items():
                for frame in comparer.compare(sample_id, camera, reader, episode, draws=draws):
                    fidelity.see(frame)
            advance(1)
    comparer.ranges.close()
    return found


def _place(sample: SampleId, splits: Mapping[str, SplitIndex]) -> tuple[int, int]:
    """Episode and first frame of a sample."""
    split, shard, row = sample
    index = splits[split].shard_index(shard)
    return int(index.episode_index[row]), int(index.frame_index[row])


@dataclass(frozen=True, slots=True)
class _Comparer:
    """Compares frames of samples with the source's."""

    item_format: ItemFormat
    splits: Mapping[str, SplitIndex]
    ranges: RangeReader
    source_names: Mapping[str, str]
    size: StoredSize

    def compare(
        self, sample_id: SampleId, camera: str, reader: PlainReader, episode: PlainEpisode, *, draws: int
    ) -> Iterator[ComparedFrame]:
        """Some distinct frames of a sample, evenly from all of it."""
        split, shard, row = sample_id
        sample = Sample(split, self.splits[split].shard_index(shard), row, self.ranges)
        content = sample.member(self.item_format.camera_member(camera))
        places, offsets = np.zeros((1, 1), np.int32), np.array([0, len(content)])
        if self.item_format.has_runs:
            text, tensors = sample.member(JSON_MEMBER), sample.member(DATA_MEMBER)
            rows = SampleRows.parse(self.item_format, text, tensors, where=sample.index.tar_path)
            places, offsets = rows.frame_index(camera), rows.frame_offsets(camera)
        anchors = int(sample.index.frame_index[row]) + self.item_format.anchor_stride * np.arange(len(places))
        deltas = np.array(self.item_format.delta_indices.get(camera, (0,)), np.int64)
        frames = np.clip(anchors[:, None] + deltas, 0, episode.num_frames - 1)
        distinct, first = np.unique(frames, return_index=True)
        chosen = np.unique(np.linspace(0, len(distinct) - 1, min(draws, len(distinct))).round().astype(int))
        originals = reader.frames(episode, self.source_names[camera], distinct[chosen].tolist())
        (shape,) = (feature.shape for feature in self.item_format.cameras if feature.name == camera)
        codec = image_codec(self.item_format.image_codec)
        for frame, place, image in zip(
            distinct[chosen].tolist(), places.ravel()[first[chosen]], originals, strict=True
        ):
            original = self.size.resized(image).copy()
            stored = codec.decode(content[offsets[place] : offsets[place + 1]], out=np.empty(shape, np.uint8))
            error = squared_error(stored, original)
            psnr_db = float(10 * np.log10(255.0**2 * stored.size / error)) if error else np.inf
            yield ComparedFrame(psnr_db, episode.index, frame, original, stored)
