"""The heavy step: from the plan of a shard to its published tar, index and commit record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import repeat
from queue import SimpleQueue
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from predecode.transforms.allocator import keep_freed_memory
from predecode.transforms.commits import CommitRecord, describe_lost, find_commit
from predecode.transforms.episodes import Quarantine
from predecode.transforms.errors import DataError, with_remedy
from predecode.transforms.failure_record import ends_quietly
from predecode.transforms.fidelity import CameraMeter
from predecode.transforms.format import DATA_MEMBER, FRAMES_EXTENSION, JSON_MEMBER, commit_file, index_file, tar_file
from predecode.transforms.images import image_codec
from predecode.transforms.layout import Layout
from predecode.transforms.plan_file import require_plan
from predecode.transforms.recipe import Recipe
from predecode.transforms.samples import EncodedSegment, SegmentEncoder
from predecode.transforms.shard_writer import index_table, write_table, write_tar
from predecode.transforms.shards import Segment, ShardPlan
from predecode.transforms.staging import shard_places, target_of
from predecode.transforms.statistics import RowMeter

STEP = "materialize_shards"


@dataclass(frozen=True, slots=True)
class ShardCommit:
    """Says that a shard is committed, by which plan; all else stands in its commit record."""

    split: str
    number: int
    plan_hash: str


EncodeAll: TypeAlias = Callable[[ShardPlan, Sequence[Segment]], Iterable[EncodedSegment | Quarantine]]
"""Encodes segments of a plan; what came of each, in their order."""


def materialize_shard(plan: ShardPlan, recipe: Recipe, layout: Layout, encode_all: EncodeAll) -> CommitRecord:
    """Writes one shard: tar, then index, then commit record. Two attempts at one plan write the same bytes.

    Segments are read in the order in which they lie in the source and written in the plan's order, so that files are
    read forward.

    Raises:
        DataError: a segment cannot be read and the job fails on errors.
        OutputError: storage fails.
    """
    segments = sorted(plan.segments)
    outcomes = dict(zip(segments, encode_all(plan, segments), strict=True))
    encoded = {segment: outcome for segment, outcome in outcomes.items() if isinstance(outcome, EncodedSegment)}
    frames = {camera.name: CameraMeter() for camera in layout.cameras}
    rows = RowMeter()
    for outcome in encoded.values():
        rows.add(outcome.rows)
        for camera, sums in outcome.frames.items():
            frames[camera].add(sums)
    kept = tuple(segment for segment in plan.segments if segment in encoded)
    samples = [sample for segment in kept for sample in encoded[segment].samples]
    output = target_of(recipe.output, layout)
    record = CommitRecord(
        plan_hash=plan.plan_hash,
        tar=write_tar(output, tar_file(plan.split, plan.number), samples),
        index=write_table(
            output, index_file(plan.split, plan.number), index_table(samples, _extensions(recipe, layout))
        ),
        segments=kept,
        samples_per_segment=tuple(len(encoded[segment].samples) for segment in kept),
        cameras=frames,
        rows=rows.summary(),
        lost=tuple(outcome for outcome in outcomes.values() if isinstance(outcome, Quarantine)),
    )
    output.publish(commit_file(plan.split, plan.number), record.to_bytes())
    return record


def _extensions(recipe: Recipe, layout: Layout) -> dict[str, bool]:
    """The members of every sample; True for a `frames` member."""
    codec = image_codec(recipe.options.image_codec, jpeg_quality=recipe.options.jpeg_quality)
    of_images = FRAMES_EXTENSION if layout.has_runs else codec.extension
    images = {f"{camera.name}.{of_images}": layout.has_runs for camera in layout.cameras}
    return images | {DATA_MEMBER: False, JSON_MEMBER: False}


class _SegmentWorker:
    """What one thread keeps from segment to segment: its reader, with the files that it has open, and its encoder."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        """Opens nothing yet."""
        self._recipe = recipe
        self._reader = recipe.source.reader(tolerance_s=recipe.options.tolerance_s)
        self._encoder = SegmentEncoder(recipe, layout)
        keep_freed_memory()
        if recipe.options.image_size:
            import torch

            torch.set_num_threads(1)  # Where it resizes, it would start a team of threads under each of the runner's.

    def encode(self, plan: ShardPlan, segment: Segment) -> EncodedSegment | Quarantine:
        """Encodes a segment, or says why that cannot be.

        Raises:
            DataError: it cannot be, and the job fails on errors.
        """
        try:
            return self._encoder.encode(self._reader, plan.episodes[segment.episode_index], segment)
        except DataError as error:
            if self._recipe.options.on_error == "fail":
                raise with_remedy(error) from error
            first_frame = segment.first_anchor * self._recipe.options.anchor_stride
            return Quarantine(segment.episode_index, first_frame, segment.num_anchors, str(error))

    def close(self) -> None:
        """Closes what the reader holds open."""
        self._reader.__exit__(None, None, None)


def _work(plan: ShardPlan, recipe: Recipe, layout: Layout, encode_all: EncodeAll) -> dict[str, int]:
    """Skips what is committed by the same plan, else writes it; returns what is to be counted."""
    record = _find_kept(plan, recipe, layout)
    if record is not None:
        _refuse_lost(record, recipe, plan)
        return {"shards_skipped": 1}
    started = time.monotonic()
    record = materialize_shard(plan, recipe, layout, encode_all)
    return _counts(record, time.monotonic() - started)


def _find_kept(plan: ShardPlan, recipe: Recipe, layout: Layout) -> CommitRecord | None:
    """What is committed by this plan. An extension tries again what was lost: files that are mended keep their size."""
    commit = find_commit(shard_places(recipe.output, layout), plan.split, plan.number, plan.plan_hash)
    if commit is None or (layout.is_extension and commit[0] == recipe.output and commit[1].lost):
        return None
    return commit[1]


def _refuse_lost(record: CommitRecord, recipe: Recipe, plan: ShardPlan) -> None:
    """A shard that an earlier run committed with losses does not satisfy a run that fails on errors."""
    if record.lost and recipe.options.on_error == "fail":
        raise DataError(
            f"Shard {plan.split}/{plan.number} was committed by a run with --on-error=quarantine and lacks:\n"
            f"{describe_lost(record.lost)}\nRun with --on-error=quarantine, or mend the source."
        )


def _counts(record: CommitRecord, seconds: float) -> dict[str, int]:
    return {
        "shards_written": 1,
        "anchors_written": record.num_anchors,
        "frames_written": sum(meter.num_frames for meter in record.cameras.values()),
        "bytes_written": record.tar.size_bytes + record.index.size_bytes,
        "segments_lost": len(record.lost),
        "milliseconds": round(seconds * 1000),
    }


def _committed(plan: ShardPlan, counts: Mapping[str, int]) -> ShardCommit:
    """The commit of a plan; counted here because Beam's counters belong to the runner's own threads."""
    for name, amount in counts.items():
        Metrics.counter(STEP, name).inc(amount)
    return ShardCommit(plan.split, plan.number, plan.plan_hash)


class _MaterializeShard(beam.DoFn):
    """Works in the thread that the runner gives it, one shard after the other."""

    def setup(self) -> None:
        """Nothing is open yet: the source is only known when the first plan comes."""
        self._worker: _SegmentWorker | None = None
        self._checked_plan = ""

    @ends_quietly
    def process(self, plan: ShardPlan, recipe: Recipe, layout: Layout) -> Iterator[ShardCommit]:
        """One plan in, its commit out."""
        if self._checked_plan != layout.plan_digest:
            require_plan(target_of(recipe.output, layout), layout.plan_digest)
            self._checked_plan = layout.plan_digest
        worker = self._worker = self._worker or _SegmentWorker(recipe, layout)

        def encode_all(plan: ShardPlan, segments: Sequence[Segment]) -> Iterator[EncodedSegment | Quarantine]:
            return (worker.encode(plan, segment) for segment in segments)

        yield _committed(plan, _work(plan, recipe, layout, encode_all))

    def teardown(self) -> None:
        """Closes the worker's files."""
        if self._worker is not None:
            self._worker.close()


class _MaterializeShardsInThreads(beam.DoFn):
    """Shares the segments of a bundle among threads of its own: whichever is free takes the next.

    Beam's local runner deals a stage's elements to its threads beforehand, and the slower one is waited for. Here even
    the last shard is the work of all threads. Other threads, one per shard, wait for its segments and write it.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads

    def start_bundle(self) -> None:
        """Starts the threads."""
        self._writing = ThreadPoolExecutor(self._num_threads, thread_name_prefix="shards")
        self._encoding = ThreadPoolExecutor(self._num_threads, thread_name_prefix="segments")
        self._idle: SimpleQueue[_SegmentWorker] = SimpleQueue()
        self._begun: dict[Future[dict[str, int]], ShardPlan] = {}

    def process(self, plan: ShardPlan, recipe: Recipe, layout: Layout) -> None:
        """Hands one plan to the threads."""
        if not self._begun:
            require_plan(target_of(recipe.output, layout), layout.plan_digest)
            for _ in range(self._num_threads):
                self._idle.put(_SegmentWorker(recipe, layout))
        self._begun[self._writing.submit(_work, plan, recipe, layout, self._encode_all)] = plan

    def _encode_all(self, plan: ShardPlan, segments: Sequence[Segment]) -> Iterator[EncodedSegment | Quarantine]:
        return self._encoding.map(self._encode, repeat(plan), segments)

    def _encode(self, plan: ShardPlan, segment: Segment) -> EncodedSegment | Quarantine:
        worker = self._idle.get()
        try:
            return worker.encode(plan, segment)
        finally:
            self._idle.put(worker)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Commits as they come; after a failure the shards in work are finished, and no other is begun."""
        try:
            for future in as_completed(self._begun):
                yield GlobalWindows.windowed_value(_committed(self._begun[future], future.result()))
        finally:
            self._writing.shutdown(cancel_futures=True)
            self._encoding.shutdown()
            while not self._idle.empty():
                self._idle.get().close()


@dataclass(kw_only=True)
class MaterializeShards(beam.PTransform[Any, Any]):
    """Writes every planned shard that is not committed already.

    Attributes:
        recipe: Side input: what to make.
        layout: Side input: how it is laid out.
        num_threads: Threads that share the shards of a bundle; None to work in the runner's own.
    """

    recipe: Any
    layout: Any
    num_threads: int | None = None

    def expand(self, plans: beam.PCollection[ShardPlan]) -> beam.PCollection[ShardCommit]:
        """Plans in, commits out; nothing heavier than these crosses an edge."""
        step = _MaterializeShardsInThreads(self.num_threads) if self.num_threads else _MaterializeShard()
        return plans | "MaterializeShard" >> beam.ParDo(
            step,
            beam.pvalue.AsSingleton(self.recipe),
            beam.pvalue.AsSingleton(self.layout, default_value=None),
        ).with_output_types(ShardCommit)
