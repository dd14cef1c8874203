"""`predecode plan`: the planning steps of the job, and a small part of its work, to say what all of it would be."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from predecode.pipeline.forecast import Forecast
from predecode.pipeline.runner import local_threads, pipeline_options
from predecode.pipeline.trial import Trial, try_segments
from predecode.transforms.assemble import assemble_episode
from predecode.transforms.episodes import Episode, EpisodeMetadata, FrameRun, Quarantine
from predecode.transforms.features import Kind
from predecode.transforms.format import TAR_BLOCK_BYTES
from predecode.transforms.layout import Layout
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.plan_layout import plan_layout
from predecode.transforms.probe import CANDIDATE_EPISODES, Probe, probe_source
from predecode.transforms.read_source import read_episode_metadata, read_frame_runs
from predecode.transforms.recipe import Recipe, open_recipe
from predecode.transforms.shards import Segment, deal_segments, files_of
from predecode.transforms.storage import Folder
from predecode.transforms.video import check_decoder
from predecode.transforms.windows import count_anchors
from predecode.transforms.workload import count_frames

TRIAL_SECONDS = 20.0
_FILES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Shard:
    """What one shard would hold.

    Attributes:
        split: "train" or "val".
        segments: Those whose files are all there.
        num_anchors: Of these.
    """

    split: str
    segments: tuple[Segment, ...]
    num_anchors: int


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What the planning steps find.

    Attributes:
        recipe: What to make.
        probe: What a first look at the pixels showed.
        layout: Groups and numbers of shards.
        episodes: Those that can be read, as far as that is known without decoding, by number.
        shards: In order, per split.
        left_out: What would be quarantined.
    """

    recipe: Recipe
    probe: Probe
    layout: Layout
    episodes: Mapping[int, Episode]
    shards: Sequence[Shard]
    left_out: Sequence[Quarantine]

    @property
    def segments(self) -> list[Segment]:
        """Of all shards, in source order."""
        return sorted(segment for shard in self.shards for segment in shard.segments)


def forecast_job(
    options: MaterializeOptions, beam_flags: Sequence[str] = (), *, started: float | None = None
) -> Forecast:
    """Says what a job would do; writes nothing.

    Args:
        options: Of the job. What fails it on errors is listed here in any case.
        beam_flags: Beam's, for the number of threads.
        started: `time.monotonic()` of when the command was started; now, if not given.

    Raises:
        PredecodeError: the source or the options cannot be used, or nothing of the source is sound.
    """
    started = time.monotonic() if started is None else started
    num_threads = local_threads(pipeline_options(beam_flags)) or os.cpu_count() or 1
    plan = plan_job(options)
    segments = plan.segments
    seconds_to_plan = time.monotonic() - started
    trial = try_segments(
        plan.recipe, plan.layout, plan.episodes, segments, num_threads=num_threads, seconds_at_most=TRIAL_SECONDS
    )
    thread_seconds = sum(shard.num_anchors for shard in plan.shards) * trial.seconds_per_anchor
    frames, frames_decoded = count_images(plan)
    source = Folder.of(options.source, json.loads(options.storage_options_json))
    return Forecast(
        source=source.url,
        output=plan.recipe.output.url,
        episodes=len({segment.episode_index for segment in segments}),
        anchors=_anchors_by_split(plan),
        frames=frames,
        frames_decoded=frames_decoded,
        shards=len(plan.shards),
        source_bytes=source.total_bytes(),
        output_bytes=sum(tar_bytes(shard.num_anchors, trial) for shard in plan.shards),
        seconds=round(seconds_to_plan + thread_seconds / num_threads, 1),
        core_hours=round(thread_seconds / 3600, 4),
        threads=num_threads,
        free_bytes=free_bytes(plan.recipe.output),
        anchors_quarantined=sum(part.num_anchors for part in plan.left_out),
        quarantined=_anchors_by_reason(plan.left_out),
        episodes_quarantined=len({part.episode_index for part in plan.left_out}),
        segments_tried=len(trial.anchors),
        segments=len(segments),
        segments_failed=tuple(trial.failures),
    )


def plan_job(options: MaterializeOptions) -> JobPlan:
    """Runs the planning steps of a job, without Beam.

    Raises:
        PredecodeError: the source or the options cannot be used, or nothing of the source is sound.
    """
    recipe = open_recipe(replace(options, on_error="quarantine"))
    if any(camera.kind is Kind.VIDEO for camera in recipe.cameras):
        check_decoder()
    episodes, bad = find_episodes(recipe)
    with recipe.source.reader(tolerance_s=options.tolerance_s) as reader:
        probe = probe_source(recipe, list(islice(episodes.values(), CANDIDATE_EPISODES)), reader)
    sizes = {episode.index: episode.num_frames for episode in episodes.values()}
    layout = plan_layout(recipe, probe, list(sizes.items()), bad)
    lost = list(find_missing_files(recipe, layout, episodes))
    for part in lost:
        del episodes[part.episode_index]
    shards = tuple(deal_shards(recipe, layout, sizes, episodes))
    return JobPlan(recipe, probe, layout, episodes, shards, [*bad, *layout.gaps, *lost])


def find_episodes(recipe: Recipe) -> tuple[dict[int, Episode], list[Quarantine]]:
    """The episodes of the source by number, ascending, and those that the audit leaves out.

    Raises:
        SourceError: a file of rows or metadata cannot be read.
    """
    parts: dict[int, list[FrameRun | EpisodeMetadata]] = defaultdict(list)
    for path in recipe.source.data_files():
        for index, run in read_frame_runs(path, recipe):
            parts[index].append(run)
    for path in recipe.source.metadata_files():
        for index, entry in read_episode_metadata(path, recipe):
            parts[index].append(entry)
    episodes, bad = {}, []
    options = recipe.options
    for index in sorted(parts):
        found = parts.pop(index)
        assembled = assemble_episode(index, found)
        if isinstance(assembled, Episode):
            episodes[index] = assembled
            continue
        num_rows = sum(part.num_frames for part in found if isinstance(part, FrameRun))
        anchors = count_anchors(num_rows, stride=options.anchor_stride, drop_last=options.drop_last_frames)
        bad.append(Quarantine(index, 0, anchors, assembled))
    return episodes, bad


def find_missing_files(recipe: Recipe, layout: Layout, episodes: Mapping[int, Episode]) -> Iterator[Quarantine]:
    """Episodes with a file that is not there, which a job only finds when it opens it."""
    paths = sorted({path for episode in episodes.values() for path in files_of(episode)})
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        sizes = pool.map(recipe.source.file_size, paths)
        missing = {path for path, size_bytes in zip(paths, sizes, strict=True) if size_bytes is None}
    for episode in episodes.values() if missing else ():
        if path := next((path for path in files_of(episode) if path in missing), None):
            anchors = layout.rule.count_anchors(episode.num_frames)
            yield Quarantine(episode.index, 0, anchors, f"{path}: there is no such file. Is the download complete?")


def deal_shards(
    recipe: Recipe, layout: Layout, sizes: Mapping[int, int], readable: Mapping[int, Episode]
) -> Iterator[Shard]:
    """Every shard, as the job deals them.

    Args:
        recipe: What to make.
        layout: How it is laid out.
        sizes: Frames of every sound episode.
        readable: Those whose files are all there: only they end in a shard.
    """
    members: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, num_frames in sizes.items():
        if layout.rule.count_anchors(num_frames):
            split = recipe.split_of(index)
            members[split, layout.group_of(split, index)].append(index)
    for (split, number), indices in sorted(members.items()):
        dealt = deal_segments(
            [(index, sizes[index]) for index in indices],
            layout.rule,
            num_shards=layout.groups[split][number].num_shards,
            seed=recipe.options.seed,
        )
        for segments in dealt:
            kept = tuple(segment for segment in segments if segment.episode_index in readable)
            yield Shard(split, kept, sum(segment.num_anchors for segment in kept))


def count_images(plan: JobPlan) -> tuple[int, int]:
    """Images that are encoded, and frames that are decoded for them, over all cameras."""
    encoded = decoded = 0
    segments = plan.segments
    for camera in plan.recipe.cameras:
        deltas = plan.recipe.camera_deltas[camera.name]
        gop_frames = plan.probe.gop_frames if camera.kind is Kind.VIDEO else 1
        for segment in segments:
            num_frames = plan.episodes[segment.episode_index].num_frames
            counts = count_frames(segment, num_frames, plan.layout.rule, deltas, gop_frames=gop_frames)
            encoded += counts[0]
            decoded += counts[1]
    return encoded, decoded


def tar_bytes(num_anchors: int, trial: Trial) -> int:
    """Size of a tar with so many anchors: its end is two empty blocks, and it is filled up to whole records."""
    record_bytes = 20 * TAR_BLOCK_BYTES
    content = round(num_anchors * trial.bytes_per_anchor) + 2 * TAR_BLOCK_BYTES
    return -(-content // record_bytes) * record_bytes


def free_bytes(output: Folder) -> int | None:
    """What is free on the disk where a folder is, or would be; None where it is not local."""
    if not output.is_local:
        return None
    path = Path(output.url)
    there = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    return shutil.disk_usage(there).free


def _anchors_by_split(plan: JobPlan) -> dict[str, int]:
    counts = Counter(dict.fromkeys(plan.layout.groups, 0))
    for shard in plan.shards:
        counts[shard.split] += shard.num_anchors
    return dict(counts)


def _anchors_by_reason(parts: Sequence[Quarantine]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.reason] += part.num_anchors
    return dict(counts.most_common())
