"""Whether an output holds what its source says: a certificate, made by reading both, and by none of the job's code.

What is expected is computed anew from the dataset, as plainly as lerobot's own map-style items are described. The two
sides share the options in plan.json and the reader of the output, which is what a training sees.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import groupby
from queue import SimpleQueue
from typing import Any

import numpy as np
from tqdm import tqdm

from predecode.reader.comparison import CameraSums, Difference, Sample, SampleComparer
from predecode.reader.item_format import ItemFormat
from predecode.reader.plain_images import StoredSize
from predecode.reader.plain_opening import open_plain_source
from predecode.reader.plain_rows import item_dtype, item_shape
from predecode.reader.plain_source import PlainReader, PlainSource
from predecode.reader.ranges import RangeReader, open_ranges
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import DataError, FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import PLAN_FILE, QUARANTINE_FILE, shard_stem
from predecode.transforms.manifest import MANIFEST_REMEDY, PLAN_REMEDY, read_manifest
from predecode.transforms.plan_file import read_plan
from predecode.transforms.staging import described_files
from predecode.transforms.storage import Folder
from predecode.transforms.wording import counted

MAX_SHOWN = 20
MAX_KEPT = 1000
_PER_EPISODE = 100
_MAX_PSNR_CHANGE_DB = 0.5
"""How far the PSNR found may be from the manifest's, whose frames were resized by another library."""

_UNKNOWN_COUNT = 0


@dataclass(slots=True)
class Certificate:
    """What a comparison of an output with its source has found.

    Attributes:
        output: Its folder.
        source: The dataset.
        num_episodes: Compared.
        num_windows: Compared, each with all its values, masks and images.
        cameras: Per camera the frames compared, and their PSNR.
        num_differences: Found; of one feature in one sample the first counts.
        differences: The first of them, by split, episode and frame.
        damaged_shards: Shards that would have to be written again.
    """

    output: str
    source: str
    num_episodes: int = 0
    num_windows: int = 0
    cameras: dict[str, CameraSums] = field(default_factory=dict)
    num_differences: int = 0
    differences: list[Difference] = field(default_factory=list)
    damaged_shards: set[str] = field(default_factory=set)

    @property
    def is_sound(self) -> bool:
        """Whether no difference was found."""
        return not self.num_differences

    def note(self, differences: Sequence[Difference]) -> None:
        """Adds differences; the first are kept."""
        self.num_differences += len(differences)
        self.differences = sorted([*self.differences, *differences], key=_order)[:MAX_KEPT]
        self.damaged_shards.update(shard for difference in differences for shard in difference.shards)

    def content(self) -> dict[str, Any]:
        """As plain JSON."""
        cameras = {
            name: {"frames": sums.num_frames, "metered": sums.num_metered, "psnr_db": sums.psnr_db}
            for name, sums in self.cameras.items()
        }
        return {
            "source": self.source,
            "sound": self.is_sound,
            "episodes": self.num_episodes,
            "windows": self.num_windows,
            "cameras": cameras,
            "num_differences": self.num_differences,
            "differences": [asdict(difference) for difference in self.differences],
            "damaged_shards": sorted(self.damaged_shards),
        }

    def __str__(self) -> str:
        """For a person."""
        seen = f"{counted(self.num_episodes, 'episode')}, {counted(self.num_windows, 'window')}"
        frames = [
            f"  {name}: {counted(sums.num_frames, 'frame')} compared, "
            + (f"{sums.psnr_db:.1f} dB from the source's" if sums.psnr_db is not None else "equal to the source's")
            for name, sums in self.cameras.items()
        ]
        if self.is_sound:
            return "\n".join([f"Every window is what {self.source} says: {seen}.", *frames])
        shown = [f"  {difference}" for difference in self.differences[:MAX_SHOWN]]
        left = self.num_differences - len(shown)
        rest = [f"  and {left:,} more"] if left else []
        count = counted(self.num_differences, "difference")
        return "\n".join([f"{self.output} is not what {self.source} says: {count}, {seen} compared.", *shown, *rest])


def certify_output(
    url: str,
    source: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    num_threads: int | None = None,
    show_progress: bool = False,
) -> Certificate:
    """Compares every window of an output with values computed anew from the source.

    Args:
        url: The output: a folder or an fsspec URL.
        source: The dataset that it was made from: a folder or a URL, of Zarr also a .zip.
        storage_options: For fsspec, for both.
        num_threads: Episodes that are compared at once; the cores if not given.
        show_progress: Whether to draw a bar on standard error.

    Raises:
        UsageError: the source is of another kind.
        SourceError: the source's metadata cannot be used.
        FormatError: the output is incomplete or damaged.
        OSError: storage fails.
    """
    folder = Folder.of(url, storage_options)
    certificate = Certificate(str(folder), source)
    try:
        comparison = _Comparison.open(folder, Folder.of(source, storage_options))
        certificate.note(comparison.general_differences())
        if certificate.is_sound:
            total = sum(split.num_items for split in comparison.splits.values())
            with tqdm(total=total, unit=" windows", file=sys.stderr, disable=not show_progress) as bar:
                comparison.run(certificate, num_threads or os.cpu_count() or 1, bar.update)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{folder}: manifest.json or plan.json lacks something: {error!r:.200}. {MANIFEST_REMEDY}"
        ) from error
    return certificate


def _order(difference: Difference) -> tuple[str, int, int]:
    return difference.split, difference.episode_index or 0, difference.frame or 0


@dataclass(frozen=True, slots=True)
class _Comparison:
    """All that is needed to compare."""

    manifest: Mapping[str, Any]
    plan: Mapping[str, Any]
    item_format: ItemFormat
    source: PlainSource
    source_names: Mapping[str, str]
    splits: Mapping[str, SplitIndex]
    left_out: Mapping[int, Sequence[tuple[int, int]]]
    ranges: RangeReader
    stopped: threading.Event

    @classmethod
    def open(cls, folder: Folder, source: Folder) -> _Comparison:
        manifest = read_manifest(folder)
        folder = described_files(folder, manifest)
        plan = read_plan(folder)
        if plan is None:
            raise FormatError(
                f"{folder.path(PLAN_FILE)}: expected what was asked for, found no such file. {PLAN_REMEDY}"
            )
        item_format = ItemFormat.of(manifest)
        opened = open_plain_source(source, plan)
        names = [feature.name for feature in item_format.features]  # Renamed or not, they are in the source's order.
        return cls(
            manifest,
            plan,
            item_format,
            opened,
            dict(zip(names, opened.specs, strict=False)),
            {name: SplitIndex(folder, manifest, name) for name in manifest["splits"]},
            _left_out(folder, manifest),
            open_ranges(folder),
            threading.Event(),
        )

    def general_differences(self) -> list[Difference]:
        """What is not about one episode."""
        found = []
        if self.item_format.fps != self.source.fps:
            found.append(f"the source has {self.source.fps:g} fps, the output {self.item_format.fps:g}")
        stored = [(str(feature.kind), feature.dtype, feature.shape) for feature in self.item_format.features]
        declared = [_described(spec) for spec in self.source.specs.values()]
        comparable = [entry[:2] if entry[0] in (Kind.VIDEO, Kind.IMAGE) else entry for entry in stored]
        if comparable != declared:
            found.append(f"the source has the features {', '.join(self.source.specs)}, or others of these names")
        texts = [self.source_names.get(name, name) for name in self.item_format.text_features]
        strings = [name for name, spec in self.source.specs.items() if spec["dtype"] == "string"]
        if texts != [*strings, *self.source.texts]:
            found.append(f"the source has the texts {', '.join([*strings, *self.source.texts])}")
        asked = {name: tuple(deltas) for name, deltas in self.plan["options"]["delta_indices"]}
        if asked != dict(self.item_format.delta_indices):
            found.append(f"the windows asked for are {asked!s:.200}")
        return [Difference("", None, None, "", None, f"the output as a whole: {what}") for what in found]

    def run(self, certificate: Certificate, num_threads: int, advance: Callable[[int], Any]) -> None:
        """Compares all episodes, some at a time, and adds up."""
        idle: SimpleQueue[PlainReader] = SimpleQueue()
        readers = [self.source.open_reader() for _ in range(num_threads)]
        for reader in readers:
            idle.put(reader)
        lock = threading.Lock()

        def counted(number: int) -> None:
            with lock:
                advance(number)

        certificate.note(list(self._absent_episodes()))
        pool = ThreadPoolExecutor(num_threads)
        try:
            tasks = [(name, episode) for name, split in self.splits.items() for episode in split.episodes]
            futures = [pool.submit(self._compare, idle, *task, counted) for task in tasks]
            for future in as_completed(futures):
                differences, num_windows, sums = future.result()
                certificate.note(differences)
                certificate.num_episodes += 1
                certificate.num_windows += num_windows
                for camera in self.item_format.cameras:
                    found = sums.get(camera.name, CameraSums())
                    certificate.cameras.setdefault(camera.name, CameraSums()).add(found)
        finally:
            self.stopped.set()
            pool.shutdown(cancel_futures=True)
            for reader in readers:
                reader.__exit__(None, None, None)
            self.ranges.close()
        certificate.note(list(self._fidelity_differences(certificate.cameras)))

    def _compare(
        self, idle: SimpleQueue[PlainReader], split: str, episode: int, advance: Callable[[int], None]
    ) -> tuple[list[Difference], int, dict[str, CameraSums]]:
        reader = idle.get()
        try:
            return self._compare_episode(reader, split, episode, advance)
        finally:
            idle.put(reader)

    def _compare_episode(
        self, reader: PlainReader, split: str, index: int, advance: Callable[[int], None]
    ) -> tuple[list[Difference], int, dict[str, CameraSums]]:
        """One episode of a split: are all its anchors there, and what is in their samples."""
        found: list[Difference] = []
        items = self.splits[split].items_of(index)
        located = self.splits[split].locate(np.arange(items.start, items.stop))
        places = zip(located.shard.tolist(), located.row.tolist(), strict=True)
        samples = [(*place, len(list(group))) for place, group in groupby(places)]
        num_windows, sums = 0, {}
        try:
            episode = reader.episode(index)
            found += self._missing_anchors(split, index, episode.num_frames, located.anchor_number.tolist())
            image = self.manifest["image"]
            size = tuple(image["image_size"]) if image["image_size"] else None
            comparer = SampleComparer(
                self.item_format,
                self.source_names,
                StoredSize(size, image["resize_mode"]),
                image["jpeg_quality"],
                reader,
                episode,
            )
            sums = comparer.sums
            for shard, row, num_anchors in samples:
                if self.stopped.is_set():
                    break
                sample = Sample(split, self.splits[split].shard_index(shard), row, self.ranges)
                found += comparer.differences(sample)
                num_windows += num_anchors
                advance(num_anchors)
        except (DataError, FormatError) as error:
            shards = tuple(sorted({shard_stem(split, shard) for shard, *_ in samples}))
            shards = shards if isinstance(error, FormatError) else ()
            found.append(Difference(split, index, None, "", None, f"cannot be compared: {error}", shards))
        return found, num_windows, sums

    def _missing_anchors(self, split: str, index: int, num_frames: int, numbers: list[int]) -> Iterator[Difference]:
        expected = self._anchors(index, num_frames)
        stride, shards = self.item_format.anchor_stride, self._shards_of(split, index)
        for number in sorted(expected - set(numbers))[:_PER_EPISODE]:
            what = "this window is not in the output, and not in quarantine.jsonl"
            yield Difference(split, index, number * stride, "", None, what, shards)
        for number in sorted(set(numbers) - expected)[:_PER_EPISODE]:
            what = "this window should not be in the output"
            yield Difference(split, index, number * stride, "", None, what, shards)
        if others := [name for name, other in self.splits.items() if name > split and len(other.items_of(index))]:
            yield Difference(split, index, None, "", None, f"the episode is in the split {others[0]}, too", shards)

    def _anchors(self, index: int, num_frames: int) -> set[int]:
        """Numbers of the anchors that an episode should have in the output."""
        options, stride = self.plan["options"], self.item_format.anchor_stride
        ranges = options["episodes"]
        chosen = ranges is None or any(start <= index and (stop is None or index < stop) for start, stop in ranges)
        anchors = set(range(len(range(0, num_frames - options["drop_last_frames"], stride)))) if chosen else set()
        for first_frame, count in self.left_out.get(index, ()):
            first = -(-first_frame // stride)
            anchors -= set(range(first, first + count)) if count != _UNKNOWN_COUNT else anchors
        return anchors

    def _absent_episodes(self) -> Iterator[Difference]:
        """Episodes of the source that no split has, though something of them should be there."""
        there = {episode for split in self.splits.values() for episode in split.episodes}
        for index in sorted(self.source.lengths.keys() - there):
            if expected := self._anchors(index, self.source.lengths[index]):
                shards = tuple(shard for split in self.plan["splits"] for shard in self._shards_of(split, index))
                what = f"its {len(expected)} windows are not in the output, and not in quarantine.jsonl"
                yield Difference("", index, None, "", None, what, shards)

    def _shards_of(self, split: str, index: int) -> tuple[str, ...]:
        """The shards that the plan gives the group of an episode: where what is missing belongs."""
        groups = self.plan["splits"].get(split, {}).get("groups", ())
        return tuple(
            shard_stem(split, first_shard + number)
            for first, last, _, _, first_shard, shards in groups
            if first <= index <= last
            for number in range(shards)
        )

    def _fidelity_differences(self, cameras: Mapping[str, CameraSums]) -> Iterator[Difference]:
        """Whether the PSNR that the manifest states is what was found."""
        for name, sums in cameras.items():
            stated = self.manifest["frames"][name]["psnr_db"]
            if stated is None or sums.psnr_db is None or self.manifest["image"]["lossless"]:
                continue
            if abs(stated - sums.psnr_db) > _MAX_PSNR_CHANGE_DB:
                what = f"the manifest states a PSNR of {stated:.1f} dB, found were {sums.psnr_db:.1f} dB"
                yield Difference("", None, None, name, None, what)


def _left_out(folder: Folder, manifest: Mapping[str, Any]) -> dict[int, list[tuple[int, int]]]:
    """Per episode what quarantine.jsonl lists: the first frame and the number of anchors left out."""
    found: dict[int, list[tuple[int, int]]] = {}
    if QUARANTINE_FILE in manifest["files"]:
        for line in folder.read(QUARANTINE_FILE).splitlines():
            entry = json.loads(line)
            place = int(entry["first_frame"]), int(entry["num_anchors"])
            found.setdefault(int(entry["episode_index"]), []).append(place)
    return found


def _described(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the manifest should say of a feature: kind, dtype and, but for cameras, shape."""
    if spec["dtype"] in (Kind.VIDEO, Kind.IMAGE):
        return spec["dtype"], "uint8"
    if spec["dtype"] == Kind.STRING:
        return Kind.STRING, "string", ()
    return Kind.NUMBER, item_dtype(spec["dtype"]), item_shape(spec["shape"])
