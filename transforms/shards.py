"""Dealing a group's segments to its shards: seeded order, equal anchors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from predecode.transforms.episodes import Episode
from predecode.transforms.hashing import digest, order_key
from predecode.transforms.segments import SegmentRule, plan_segments, unit_starts


class Segment(NamedTuple):
    """Consecutive anchors of one episode, half-open, in anchor numbers."""

    episode_index: int
    first_anchor: int
    stop_anchor: int

    @property
    def num_anchors(self) -> int:
        """Anchors in it, at least 1."""
        return self.stop_anchor - self.first_anchor


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """All that a worker needs to write one shard.

    Attributes:
        split: "train" or "val".
        number: Of the shard within its split.
        segments: In the order in which they lie in the tar.
        episodes: Those that the segments belong to, by episode_index.
        plan_hash: Stands for everything that determines the shard's bytes.
    """

    split: str
    number: int
    segments: tuple[Segment, ...]
    episodes: Mapping[int, Episode]
    plan_hash: str


def deal_segments(
    episodes: Iterable[tuple[int, int]], rule: SegmentRule, *, num_shards: int, seed: int
) -> list[tuple[Segment, ...]]:
    """Cuts a group's episodes into segments, puts them into seeded order and deals them to shards of equal anchors.

    A unit belongs to the shard in whose share of all anchors its middle lies; parts of one segment that come to lie
    side by side in one shard are one segment again.

    Args:
        episodes: (episode_index, num_frames) of the group.
        rule: How episodes are cut.
        num_shards: As planned in the layout.
        seed: Of the order.
    """
    segments = [
        Segment(index, start, stop) for index, num_frames in episodes for start, stop in plan_segments(num_frames, rule)
    ]
    segments.sort(key=lambda segment: (order_key("segment", seed, *segment), segment))
    num_anchors = sum(segment.num_anchors for segment in segments)
    shards: list[list[Segment]] = [[] for _ in range(num_shards)]
    position = 0
    for segment in segments:
        for number, start, stop in _parts(segment, position, rule, num_shards, num_anchors):
            shard = shards[number]
            adjoins = bool(shard) and (shard[-1].episode_index, shard[-1].stop_anchor) == (segment.episode_index, start)
            first = shard.pop().first_anchor if adjoins else start
            shard.append(Segment(segment.episode_index, first, stop))
        position += segment.num_anchors
    return [tuple(shard) for shard in shards]


def _parts(
    segment: Segment, position: int, rule: SegmentRule, num_shards: int, num_anchors: int
) -> Iterator[tuple[int, int, int]]:
    """The parts of a segment that fall to different shards: number of the shard, first and stop anchor.

    Args:
        segment: To be cut.
        position: Anchors of the group that come before it.
        rule: Where it may be cut.
        num_shards: Of the group.
        num_anchors: Of the group.
    """
    starts = unit_starts(segment.first_anchor, segment.stop_anchor, rule)
    stops = np.append(starts[1:], segment.stop_anchor)
    # Twice the middle of each unit, counted over the group.
    middles = starts + stops + 2 * (position - segment.first_anchor)
    numbers = middles * num_shards // (2 * num_anchors)
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    bounds = [*starts[begins].tolist(), segment.stop_anchor]
    yield from zip(numbers[begins].tolist(), bounds, bounds[1:], strict=False)


def plan_shards(
    split: str,
    first_shard: int,
    dealt: Sequence[tuple[Segment, ...]],
    episodes: Mapping[int, Episode],
    *,
    file_sizes: Mapping[str, int | None],
    content: Mapping[str, Any],
) -> Iterator[ShardPlan]:
    """Completes dealt segments to plans with a hash.

    Args:
        split: Of the group.
        first_shard: Number of the group's first shard.
        dealt: Per shard its segments, from `deal_segments`.
        episodes: Of the group, by episode_index.
        file_sizes: Per file of these episodes its bytes, None where it is missing.
        content: What determines bytes for the whole dataset: format, features, windows, pixel options, versions.
    """
    for offset, segments in enumerate(dealt):
        touched = {index: episodes[index] for index in sorted({segment.episode_index for segment in segments})}
        plan_hash = digest(
            {
                "content": content,
                "segments": segments,
                "episodes": [_identity(episode) for episode in touched.values()],
                "files": {path: file_sizes[path] for episode in touched.values() for path in files_of(episode)},
            }
        )
        yield ShardPlan(split, first_shard + offset, segments, touched, plan_hash)


def _identity(episode: Episode) -> list[Any]:
    """What of an episode's description reaches the bytes: not where its video ends, which only guards."""
    videos = [(span.camera, span.path, span.start_seconds) for span in episode.videos]
    runs = [(run.path, run.first_row, run.first_frame, run.num_frames) for run in episode.runs]
    return [episode.index, episode.num_frames, episode.tasks, runs, videos]


def files_of(episode: Episode) -> Iterator[str]:
    """Relative paths of the files that an episode's rows and frames lie in."""
    yield from (run.path for run in episode.runs)
    yield from (span.path for span in episode.videos)
