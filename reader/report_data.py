"""What a report says of an output, gathered from its own files: counts, padding, distributions, repeated frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from predecode.reader.comparison import Sample
from predecode.reader.item_format import ItemFormat
from predecode.reader.ranges import open_ranges
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import FormatError
from predecode.transforms.fidelity import CameraMeter
from predecode.transforms.format import DATA_MEMBER, PLAN_FILE, QUARANTINE_FILE, commit_file
from predecode.transforms.hashing import order_key
from predecode.transforms.manifest import PLAN_REMEDY, read_manifest
from predecode.transforms.plan_file import read_plan
from predecode.transforms.storage import Folder

MAX_READ_SAMPLES = 20_000
"""Samples whose rows are read; of larger outputs some that are chosen by a hash, from everywhere."""

MAX_VALUES = 16
"""Values of one feature that are shown; the first of them."""

MIN_STUCK_FRAMES = 5
"""A camera that shows so many frames in a row the same, to the byte, is noticed."""

_INDEX_FEATURES = ("timestamp", "frame_index", "episode_index", "index", "task_index", "subtask_index")

SampleId = tuple[str, int, int]
"""Split, number of the shard, row of its index."""


@dataclass(slots=True)
class StillFrames:
    """Frames of one camera that are the same, to the byte, as the one before.

    Attributes:
        num_pairs: Neighbouring frames that are both stored.
        num_same: Of these.
        runs: The longest runs of equal frames, as (frames, split, episode, first frame), the longest first.
    """

    num_pairs: int = 0
    num_same: int = 0
    runs: list[tuple[int, str, int, int]] = field(default_factory=list)

    def see(self, split: str, episode: int, numbers: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
        """Adds an episode: its stored frames, ascending and distinct."""
        near = np.diff(numbers) == 1
        same = near & (hashes[1:] == hashes[:-1])
        self.num_pairs += int(near.sum())
        self.num_same += int(same.sum())
        bounds = np.flatnonzero(np.diff(same, prepend=False, append=False)).reshape(-1, 2)
        for start, stop in bounds.tolist():
            if stop - start + 1 >= MIN_STUCK_FRAMES:
                self.runs.append((stop - start + 1, split, episode, int(numbers[start])))
        self.runs = sorted(self.runs, key=lambda run: (-run[0], run[1:]))[:MAX_VALUES]


@dataclass(slots=True)
class ReportData:
    """All numbers of a report.

    Attributes:
        folder: The output.
        manifest: Its manifest.
        plan: Its plan.
        item_format: Of its items.
        lengths: Per episode, by split, its windows.
        num_read: Windows whose rows were read.
        padded: Per windowed feature padded slots and all slots of the windows read.
        values: Per number feature the anchors' own values, (windows, values), at most `MAX_VALUES`.
        still: Per camera.
        copies: Episodes whose stored frames are all the same, to the byte, as another's: (split, episode) each.
        shard_psnr: Per camera the PSNR of each shard's compared frames, in dB.
        quarantine: Entries of quarantine.jsonl.
        samples: Those that were read.
    """

    folder: Folder
    manifest: Mapping[str, Any]
    plan: Mapping[str, Any]
    item_format: ItemFormat
    lengths: dict[str, dict[int, int]] = field(default_factory=dict)
    num_read: int = 0
    padded: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    still: dict[str, StillFrames] = field(default_factory=dict)
    copies: list[list[tuple[str, int]]] = field(default_factory=list)
    shard_psnr: dict[str, list[float]] = field(default_factory=dict)
    quarantine: list[Mapping[str, Any]] = field(default_factory=list)
    samples: list[SampleId] = field(default_factory=list)

    @property
    def num_windows(self) -> int:
        """Of all splits."""
        return sum(sum(lengths.values()) for lengths in self.lengths.values())

    @property
    def shown_numbers(self) -> list[str]:
        """Number features whose distribution says something."""
        return [feature.name for feature in self.item_format.numbers if feature.name not in _INDEX_FEATURES]


def gather_report(folder: Folder, splits: Mapping[str, SplitIndex], advance: Callable[[int], Any]) -> ReportData:
    """Reads indices and commit records, and the rows of samples; decodes nothing.

    Args:
        folder: The output.
        splits: Its splits, opened.
        advance: Told how many windows were looked at.

    Raises:
        FormatError: the output is incomplete or damaged.
        OSError: storage fails.
    """
    manifest, plan = read_manifest(folder), read_plan(folder)
    if plan is None:
        raise FormatError(f"{folder.path(PLAN_FILE)}: expected what was asked for, found no such file. {PLAN_REMEDY}")
    data = ReportData(folder, manifest, plan, ItemFormat.of(manifest))
    if QUARANTINE_FILE in manifest["files"]:
        data.quarantine = [json.loads(line) for line in folder.read(QUARANTINE_FILE).splitlines()]
    found: list[SampleId] = []
    digests: dict[bytes, list[tuple[str, int]]] = {}
    for name, split in splits.items():
        data.lengths[name] = {}
        for episode in split.episodes:
            samples = _samples_of(split, episode)
            data.lengths[name][episode] = len(split.items_of(episode))
            found += [(name, *sample) for sample in samples]
            digest = _see_frames(data, split, name, episode, samples)
            digests.setdefault(digest, []).append((name, episode))
            advance(data.lengths[name][episode])
        _see_commits(data, name, int(manifest["splits"][name]["shards"]))
    if data.item_format.cameras:
        data.copies = [episodes for episodes in digests.values() if len(episodes) > 1]
    data.samples = _chosen(found, MAX_READ_SAMPLES)
    _read_rows(data, splits)
    return data


def _chosen(samples: Sequence[SampleId], limit: int) -> list[SampleId]:
    if len(samples) <= limit:
        return list(samples)
    return sorted(sorted(samples, key=lambda sample: order_key("report", *sample))[:limit])


def _samples_of(split: SplitIndex, episode: int) -> list[tuple[int, int]]:
    """Shard and row of each sample of an episode, in frame order."""
    items = split.items_of(episode)
    located = split.locate(np.arange(items.start, items.stop))
    return [place for place, _ in groupby(zip(located.shard.tolist(), located.row.tolist(), strict=True))]


def _see_frames(
    data: ReportData, split: SplitIndex, name: str, episode: int, samples: Sequence[tuple[int, int]]
) -> bytes:
    """Compares an episode's neighbouring frames by their checksums; returns what stands for all its frames."""
    digest = blake2b(digest_size=16)
    for camera in data.item_format.cameras:
        numbers, hashes = _frames_of(data.item_format, split, camera.name, samples)
        data.still.setdefault(camera.name, StillFrames()).see(name, episode, numbers, hashes)
        digest.update(numbers.tobytes() + hashes.tobytes())
    return digest.digest()


def _frames_of(
    item_format: ItemFormat, split: SplitIndex, camera: str, samples: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Numbers of the frames that are stored of an episode, each once, and the checksums of their bytes."""
    member, delta = item_format.camera_member(camera), item_format.delta_indices.get(camera, (0,))[0]
    numbers, hashes = [], []
    for shard, row in samples:
        index = split.shard_index(shard)
        if item_format.has_runs:
            frames = index.frames[member]
            part = slice(frames.first[row], frames.first[row + 1])
            numbers.append(frames.number[part])
            hashes.append(frames.xxh3[part])
        else:
            numbers.append(np.maximum(0, index.frame_index[row : row + 1] + delta))
            hashes.append(index.members[member].xxh3[row : row + 1])
    distinct, first = np.unique(np.concatenate(numbers), return_index=True)
    return distinct, np.concatenate(hashes)[first]


def _see_commits(data: ReportData, split: str, num_shards: int) -> None:
    for number in range(num_shards):
        record = json.loads(data.folder.read(commit_file(split, number)))
        for camera, sums in record["cameras"].items():
            psnr_db = CameraMeter.from_json(sums).psnr_db
            if psnr_db is not None and np.isfinite(psnr_db):
                data.shard_psnr.setdefault(camera, []).append(psnr_db)


def _read_rows(data: ReportData, splits: Mapping[str, SplitIndex]) -> None:
    """Masks and values of the samples chosen."""
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in data.shown_numbers}
    data.padded = {name: [0, 0] for name in data.item_format.delta_indices}
    reader = open_ranges(data.folder)
    for split, shard, row in data.samples:
        sample = Sample(split, splits[split].shard_index(shard), row, reader)
        tensors = safetensors.numpy.load(sample.member(DATA_MEMBER))
        for name, counts in data.padded.items():
            counts[0] += int(tensors[f"{name}_is_pad"].sum())
            counts[1] += tensors[f"{name}_is_pad"].size
        for name, parts in values.items():
            own = own_rows(tensors, name, data.item_format.delta_indices.get(name))
            parts.append(own.reshape(len(own), -1)[:, :MAX_VALUES].astype(np.float64))
        data.num_read += int(sample.index.anchors[row])
    reader.close()
    data.values = {name: np.concatenate(parts) for name, parts in values.items() if parts}


def own_rows(tensors: Mapping[str, NDArray[Any]], name: str, deltas: Sequence[int] | None) -> NDArray[Any]:
    """A number's values at the anchors themselves, whatever its windows are: (A, ...)."""
    if deltas is None:
        return tensors[name]
    own = tensors[f"{name}/index"][:, deltas.index(0)] if 0 in deltas else tensors[f"{name}/anchor"]
    return tensors[name][own]
