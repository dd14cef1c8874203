"""Segments, groups and shards: every anchor once, equal shards, and nothing that moves when a dataset grows."""

from __future__ import annotations

import statistics

from hypothesis import given
from hypothesis import strategies as st

from predecode.transforms.layout import MIN_ANCHORS_PER_SHARD, find_missing, plan_groups, split_of
from predecode.transforms.segments import (
    SHORT_GOP,
    SegmentRule,
    choose_anchors_per_sample,
    choose_segment_rule,
    largest_unit,
    plan_segments,
    unit_starts,
)
from predecode.transforms.shards import deal_segments

deltas = st.lists(st.lists(st.integers(-40, 40), min_size=1, max_size=6), min_size=1, max_size=3)
rules = st.builds(
    choose_segment_rule,
    deltas,
    gop_frames=st.integers(1, 300),
    anchors_per_sample=st.integers(1, 80),
    stride=st.integers(1, 7),
    drop_last=st.integers(0, 20),
)
lengths = st.lists(st.integers(1, 900), min_size=1, max_size=40)


def numbered(num_frames: list[int]) -> list[tuple[int, int]]:
    return list(enumerate(num_frames))


@given(rules, st.integers(1, 3000))
def test_segments_and_units_cover_every_anchor_once_in_order(rule: SegmentRule, num_frames: int) -> None:
    position = 0
    for start, stop in plan_segments(num_frames, rule):
        starts = unit_starts(start, stop, rule).tolist()
        for first, last in zip(starts, [*starts[1:], stop], strict=True):
            assert first == position < last
            assert last - first <= largest_unit(num_frames, rule)
            position = last
        assert position == stop
    assert position == rule.count_anchors(num_frames)


@given(st.integers(SHORT_GOP + 1, 300), st.integers(0, 30), st.integers(1, 3000))
def test_what_a_segment_needs_first_is_a_key_frame(gop_frames: int, reach_back: int, num_frames: int) -> None:
    rule = choose_segment_rule([[-reach_back, 0]], gop_frames=gop_frames, anchors_per_sample=1, stride=1, drop_last=0)
    for start, _ in plan_segments(num_frames, rule):
        assert start == 0 or (start - reach_back) % gop_frames == 0


@given(rules, lengths, st.integers(1, 40), st.integers(0, 3))
def test_dealing_gives_each_anchor_to_one_shard(
    rule: SegmentRule, num_frames: list[int], num_shards: int, seed: int
) -> None:
    dealt = deal_segments(numbered(num_frames), rule, num_shards=num_shards, seed=seed)
    assert len(dealt) == num_shards
    found = sorted((part.episode_index, anchor) for shard in dealt for part in shard for anchor in range(*part[1:]))
    assert found == [
        (index, anchor) for index, frames in enumerate(num_frames) for anchor in range(rule.count_anchors(frames))
    ]


@given(rules, lengths, st.integers(20, 500), st.integers(1, 20))
def test_groups_cover_every_episode_and_their_shards_are_never_empty(
    rule: SegmentRule, num_frames: list[int], anchors_per_shard: int, min_shards: int
) -> None:
    episodes = numbered(num_frames)
    groups = plan_groups(episodes, rule, anchors_per_shard=anchors_per_shard, min_shards=min_shards)
    expected = [(index, frames) for index, frames in episodes if rule.count_anchors(frames)]
    next_shard = 0
    for group in groups:
        members = [(i, frames) for i, frames in expected if group.first_episode <= i <= group.last_episode]
        assert (len(members), sum(rule.count_anchors(frames) for _, frames in members)) == (
            group.num_episodes,
            group.num_anchors,
        )
        assert group.first_shard == next_shard
        next_shard += group.num_shards
        assert all(deal_segments(members, rule, num_shards=group.num_shards, seed=0))
    assert sum(group.num_episodes for group in groups) == len(expected)


@given(rules, lengths, lengths, st.integers(20, 500))
def test_growth_changes_the_last_group_at_most(
    rule: SegmentRule, num_frames: list[int], added: list[int], anchors_per_shard: int
) -> None:
    before = plan_groups(numbered(num_frames), rule, anchors_per_shard=anchors_per_shard, min_shards=4)
    after = plan_groups(numbered(num_frames + added), rule, anchors_per_shard=anchors_per_shard, min_shards=4)
    untouched = max(0, len(before) - 1)
    assert after[:untouched] == before[:untouched]


def test_shards_of_a_large_dataset_are_equal() -> None:
    rule = choose_segment_rule([[0]], gop_frames=2, anchors_per_sample=1, stride=1, drop_last=0)
    episodes = [(index, 200 + index * 37 % 300) for index in range(3000)]
    groups = plan_groups(episodes, rule, anchors_per_shard=5000, min_shards=16)
    sizes = []
    for group in groups:
        members = [episode for episode in episodes if group.first_episode <= episode[0] <= group.last_episode]
        dealt = deal_segments(members, rule, num_shards=group.num_shards, seed=0)
        sizes += [sum(segment.num_anchors for segment in shard) for shard in dealt]
    assert len(groups) > 5
    assert max(sizes) / statistics.median(sizes) < 1.3


def test_a_small_dataset_still_has_work_for_sixteen() -> None:
    rule = choose_segment_rule([[0]], gop_frames=2, anchors_per_sample=1, stride=1, drop_last=0)
    (group,) = plan_groups([(0, 500), (1, 500)], rule, anchors_per_shard=100_000, min_shards=16)
    assert group.num_shards == 16
    (tiny,) = plan_groups([(0, 3 * MIN_ANCHORS_PER_SHARD)], rule, anchors_per_shard=100_000, min_shards=16)
    assert tiny.num_shards == 3


def test_a_history_of_sixteen_frames_costs_at_most_five_percent() -> None:
    history = list(range(-15, 1))
    anchors = choose_anchors_per_sample([history], stride=1, max_anchors=1000)
    assert (anchors + max(history) - min(history)) / anchors <= 1.05


@given(st.integers(0, 1 << 40), st.floats(0, 0.9), st.integers(0, 9))
def test_an_episode_that_is_validation_stays_so_with_a_larger_fraction(index: int, fraction: float, seed: int) -> None:
    if split_of(index, validation_fraction=fraction, seed=seed) == "val":
        assert split_of(index, validation_fraction=fraction + 0.05, seed=seed) == "val"


@given(st.sets(st.integers(0, 60)))
def test_gaps_and_numbers_make_the_whole(indices: set[int]) -> None:
    gaps = [number for low, high in find_missing(sorted(indices)) for number in range(low, high)]
    assert sorted([*gaps, *indices]) == list(range(max(indices, default=-1) + 1))


def test_order_and_split_are_pinned() -> None:
    """Changing these makes every existing output foreign: they may change with the format version only."""
    rule = SegmentRule(1, 0, 64, 0, 1, is_atomic=False)
    dealt = deal_segments([(0, 200), (1, 70)], rule, num_shards=2, seed=0)
    assert dealt == PINNED_DEAL
    assert [i for i in range(60) if split_of(i, validation_fraction=0.1, seed=0) == "val"] == PINNED_VALIDATION


PINNED_DEAL = [((0, 64, 199),), ((0, 199, 200), (0, 0, 64), (1, 0, 70))]
PINNED_VALIDATION = [2, 5, 18, 21, 32, 38, 48, 49]
