"""`predecode plan`: what a job would do, by its planning steps and by trying a small part of its work."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from predecode.pipeline.forecast import Forecast
from predecode.pipeline.job_plan import JobPlan, Shard, plan_job
from predecode.pipeline.runner import local_threads, pipeline_options
from predecode.pipeline.standing import find_difference, find_kept
from predecode.pipeline.trial import Trial, try_segments
from predecode.transforms.episodes import Quarantine
from predecode.transforms.features import Kind
from predecode.transforms.format import TAR_BLOCK_BYTES
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.shards import Segment
from predecode.transforms.storage import Folder
from predecode.transforms.workload import count_frames

TRIAL_SECONDS = 20.0


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
    shards, kept = list(plan.shards()), find_kept(plan)
    to_write = [shard for shard in shards if (shard.split, shard.number) not in kept]
    seconds_to_plan = time.monotonic() - started
    trial = _try_some(plan, to_write or shards, num_threads)
    thread_seconds = sum(shard.num_anchors for shard in to_write) * trial.seconds_per_anchor
    return Forecast(
        **_what_is_planned(plan, shards),
        shards_kept=len(kept),
        source_bytes=Folder.of(options.source, json.loads(options.storage_options_json)).total_bytes(),
        output_bytes=sum(tar_bytes(shard.num_anchors, trial) for shard in shards),
        bytes_to_write=sum(tar_bytes(shard.num_anchors, trial) for shard in to_write),
        seconds=round(seconds_to_plan + thread_seconds / num_threads, 1),
        core_hours=round(thread_seconds / 3600, 4),
        threads=num_threads,
        free_bytes=free_bytes(plan.recipe.output),
        segments_tried=len(trial.anchors),
        segments_failed=tuple(trial.failures),
        difference=find_difference(plan),
    )


def _what_is_planned(plan: JobPlan, shards: Sequence[Shard]) -> dict[str, Any]:
    """The fields of a forecast that are known without trying anything."""
    segments = _segments_of(shards)
    frames, frames_decoded = count_images(plan, segments)
    return {
        "source": Folder.of(plan.recipe.options.source).url,
        "output": plan.recipe.output.url,
        "episodes": len({segment.episode_index for segment in segments}),
        "anchors": _anchors_by_split(plan, shards),
        "frames": frames,
        "frames_decoded": frames_decoded,
        "shards": len(shards),
        "anchors_quarantined": sum(part.num_anchors for part in plan.left_out),
        "quarantined": _anchors_by_reason(plan.left_out),
        "episodes_quarantined": len({part.episode_index for part in plan.left_out}),
        "segments": len(segments),
    }


def _try_some(plan: JobPlan, shards: Iterable[Shard], num_threads: int) -> Trial:
    segments = _segments_of(shards)
    return try_segments(
        plan.recipe, plan.layout, plan.episodes, segments, num_threads=num_threads, seconds_at_most=TRIAL_SECONDS
    )


def _segments_of(shards: Iterable[Shard]) -> list[Segment]:
    """In source order."""
    return sorted(segment for shard in shards for segment in shard.segments)


def count_images(plan: JobPlan, segments: Sequence[Segment]) -> tuple[int, int]:
    """Images that are encoded, and frames that are decoded for them, over all cameras."""
    encoded = decoded = 0
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


def _anchors_by_split(plan: JobPlan, shards: Iterable[Shard]) -> dict[str, int]:
    counts = Counter(dict.fromkeys(plan.layout.groups, 0))
    for shard in shards:
        counts[shard.split] += shard.num_anchors
    return dict(counts)


def _anchors_by_reason(parts: Iterable[Quarantine]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.reason] += part.num_anchors
    return dict(counts.most_common())
