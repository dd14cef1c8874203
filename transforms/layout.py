"""Which episodes go to which shards: groups of consecutive episodes, each with its own range of shards, per split.

Groups make locality: a set of shards is drawn from a bounded part of the dataset, however its files are cut. A dataset
that grows changes its last group at most, because groups close at a fixed number of anchors.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from predecode.transforms.episodes import Quarantine
from predecode.transforms.hashing import fraction
from predecode.transforms.segments import SegmentRule, count_segments, largest_unit

TRAIN, VAL = "train", "val"

DEFAULT_MIN_SHARDS = 16
"""Shards per split, where there are enough anchors, so that a machine's cores all have work; never its core count."""

MIN_ANCHORS_PER_SHARD = 16
"""Fewer anchors than this are not worth a shard of their own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive episodes of one split, and the shards that their anchors are dealt to.

    Attributes:
        first_episode: Smallest episode_index in it.
        last_episode: Greatest, inclusive.
        num_episodes: Of this split, within that range.
        num_anchors: In all of them.
        first_shard: Number of its first shard within the split.
        num_shards: At least 1.
    """

    first_episode: int
    last_episode: int
    num_episodes: int
    num_anchors: int
    first_shard: int
    num_shards: int


def split_of(episode_index: int, *, validation_fraction: float, seed: int) -> str:
    """The split of an episode: by a threshold on its own hash, so that it never changes while the dataset grows."""
    return VAL if fraction("split", seed, episode_index) < validation_fraction else TRAIN


def plan_groups(
    episodes: Iterable[tuple[int, int]], rule: SegmentRule, *, anchors_per_shard: int, min_shards: int
) -> tuple[Group, ...]:
    """Groups the episodes of one split.

    Args:
        episodes: (episode_index, num_frames), in any order, each once.
        rule: How episodes are cut: shards are never smaller than what may not be cut.
        anchors_per_shard: To aim at.
        min_shards: At least so many in all, where there are enough anchors.

    Returns:
        Groups in episode order; their shards count up from 0 without gaps.
    """
    members: list[list[tuple[int, int]]] = [[]]
    anchors = 0
    for episode_index, num_frames in sorted(episodes):
        if rule.count_anchors(num_frames) == 0:
            continue
        if anchors >= min_shards * anchors_per_shard:
            members.append([])
            anchors = 0
        members[-1].append((episode_index, num_frames))
        anchors += rule.count_anchors(num_frames)
    groups: list[Group] = []
    for group in filter(None, members):
        num_anchors = sum(rule.count_anchors(num_frames) for _, num_frames in group)
        wanted = max(round(num_anchors / anchors_per_shard), min_shards if len(members) == 1 else 1)
        if rule.is_atomic:
            wanted = even_shards(sum(count_segments(num_frames, rule) for _, num_frames in group), wanted)
        smallest = max(MIN_ANCHORS_PER_SHARD, *(largest_unit(num_frames, rule) for _, num_frames in group))
        first_shard = groups[-1].first_shard + groups[-1].num_shards if groups else 0
        num_shards = max(1, min(wanted, num_anchors // smallest))
        groups.append(Group(group[0][0], group[-1][0], len(group), num_anchors, first_shard, num_shards))
    return tuple(groups)


def even_shards(num_units: int, num_shards: int) -> int:
    """How many shards to make of units that cannot be cut, so that few of them spread evenly; at least those asked for.

    Shards of 2 and of 3 units would keep one worker busy half as long again as another.

    >>> even_shards(40, 16), even_shards(1000, 16), even_shards(5, 16)
    (20, 17, 5)
    """
    return -(-num_units // max(1, num_units // num_shards))


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera's frames as stored.

    Attributes:
        name: Feature name.
        height: Pixels.
        width: Pixels.
        channels: 1, 3 or 4.
        frame_bytes: Mean size of an encoded frame, as probed.
    """

    name: str
    height: int
    width: int
    channels: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All that the job decides once for the whole dataset; small, whatever the dataset's size.

    Attributes:
        plan_digest: Of the plan.json that holds this layout.
        rule: How episodes are cut.
        cameras: In feature order.
        has_runs: Whether a sample holds several frames per camera, as one member; else one image member per camera.
        groups: Per split, in episode order; without splits that have no anchors.
        gaps: Episode numbers that should be there and are not.
        is_extension: Whether what is new is staged beside an output that stays readable.
    """

    plan_digest: str
    rule: SegmentRule
    cameras: tuple[Camera, ...]
    has_runs: bool
    groups: Mapping[str, tuple[Group, ...]]
    gaps: tuple[Quarantine, ...]
    is_extension: bool = False

    def written_down(self, plan_digest: str, *, is_extension: bool) -> Layout:
        """The same layout, once its plan is written down."""
        return replace(self, plan_digest=plan_digest, is_extension=is_extension)

    def group_of(self, split: str, episode_index: int) -> int:
        """Number of the group that an episode with anchors belongs to."""
        return bisect_right([group.first_episode for group in self.groups[split]], episode_index) - 1

    def num_shards(self, split: str) -> int:
        """Shards of a split."""
        return sum(group.num_shards for group in self.groups[split])

    def num_anchors(self, split: str) -> int:
        """Anchors of a split, without those of quarantined episodes."""
        return sum(group.num_anchors for group in self.groups[split])


def find_missing(indices: Sequence[int]) -> list[tuple[int, int]]:
    """The half-open gaps in sorted episode numbers that should count up from 0.

    >>> find_missing([1, 2, 5])
    [(0, 1), (3, 5)]
    """
    bounds = [-1, *indices]
    return [(low + 1, high) for low, high in pairwise(bounds) if high > low + 1]
