"""Cutting episodes: into segments, which are decoded in one go, and segments into samples.

A segment is a run of consecutive anchors of one episode. It is long, so that decoding is near the sequential rate, and
where key frames are far apart it begins so that its first needed frame is a key frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predecode.transforms.windows import count_anchors

MIN_SEGMENT_FRAMES = 128
"""At a GOP of 2 a segment decodes one frame too many at most, and seeks once: 128 keeps both below 2 %."""

SHORT_GOP = 8
"""Up to this many frames between key frames, where a segment begins does not matter."""

COPIES_PER_FRAME = 1.05
"""How many stored copies per frame overlapping windows may cost, where samples of many anchors can be long enough."""

MAX_ANCHORS_PER_SAMPLE = 1024


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """How every episode is cut; a pure function of the options and of the probe.

    Attributes:
        stride: Every so many frames is an anchor.
        drop_last: So many last frames of an episode are no anchors.
        segment_frames: Frames from one boundary to the next.
        offset_frames: Where boundaries lie, modulo `segment_frames`.
        anchors_per_sample: Anchors that share one sample.
        is_atomic: Whether a segment stays in one shard, since decoding it in two parts would decode much twice.
    """

    stride: int
    drop_last: int
    segment_frames: int
    offset_frames: int
    anchors_per_sample: int
    is_atomic: bool

    def count_anchors(self, num_frames: int) -> int:
        """Anchors of an episode of so many frames."""
        return count_anchors(num_frames, stride=self.stride, drop_last=self.drop_last)


def choose_anchors_per_sample(camera_deltas: Sequence[Sequence[int]], *, stride: int, max_anchors: int) -> int:
    """How many anchors share a sample: 1 where every camera shows one frame, else enough that histories cost little.

    A run of K anchors stores K + span frames, where span is what its windows reach beyond it.

    >>> choose_anchors_per_sample([[0], [0]], stride=1, max_anchors=500)
    1
    >>> choose_anchors_per_sample([list(range(-15, 1)), [0]], stride=1, max_anchors=500)
    300
    """
    span_frames = max((max(deltas) - min(deltas) for deltas in camera_deltas if len(deltas) > 1), default=0)
    if not any(len(deltas) > 1 for deltas in camera_deltas):
        return 1
    wanted = math.ceil(round(span_frames / (COPIES_PER_FRAME - 1), 6) / stride)
    return max(1, min(wanted, max_anchors, MAX_ANCHORS_PER_SAMPLE))


def choose_segment_rule(
    camera_deltas: Sequence[Sequence[int]], *, gop_frames: int, anchors_per_sample: int, stride: int, drop_last: int
) -> SegmentRule:
    """Chooses lengths and boundaries from how far apart key frames are, and what the cameras' windows reach back to.

    Args:
        camera_deltas: Per camera the deltas of its window, in frames; (0,) where it has none.
        gop_frames: Greatest distance of key frames over the cameras; 1 where every frame is one.
        anchors_per_sample: From `choose_anchors_per_sample` or the user.
        stride: Frames from one anchor to the next.
        drop_last: Frames at the end of an episode that are no anchors.
    """
    sample_frames = anchors_per_sample * stride
    wanted_frames = max(MIN_SEGMENT_FRAMES, sample_frames)
    if gop_frames <= SHORT_GOP:
        whole_samples = -(-wanted_frames // sample_frames) * sample_frames
        return SegmentRule(stride, drop_last, whole_samples, 0, anchors_per_sample, is_atomic=False)
    whole_gops = -(-wanted_frames // gop_frames) * gop_frames
    reach_back = max(0, *(-min(deltas) for deltas in camera_deltas), 0)
    return SegmentRule(stride, drop_last, whole_gops, reach_back % gop_frames, anchors_per_sample, is_atomic=True)


def plan_segments(num_frames: int, rule: SegmentRule) -> Iterator[tuple[int, int]]:
    """Cuts the anchors of an episode: yields half-open ranges of anchor numbers that cover each anchor once, in order.

    A short rest at the end joins the last segment.

    >>> rule = SegmentRule(1, 0, 100, 1, 1, True)
    >>> list(plan_segments(330, rule)), list(plan_segments(50, rule))
    ([(0, 101), (101, 201), (201, 330)], [(0, 50)])
    """
    num_anchors = rule.count_anchors(num_frames)
    start = 0
    for boundary_frame in range(rule.offset_frames + rule.segment_frames, num_frames, rule.segment_frames):
        boundary = -(-boundary_frame // rule.stride)
        if (num_anchors - boundary) * rule.stride < rule.segment_frames / 2:
            break
        yield start, boundary
        start = boundary
    if start < num_anchors:
        yield start, num_anchors


def unit_starts(first_anchor: int, stop_anchor: int, rule: SegmentRule) -> NDArray[np.int64]:
    """Where a shard may end within a segment: at its samples, or nowhere but at its beginning.

    >>> unit_starts(0, 10, SegmentRule(1, 0, 64, 0, 4, False)).tolist()
    [0, 4, 8]
    """
    step = stop_anchor - first_anchor if rule.is_atomic else rule.anchors_per_sample
    return np.arange(first_anchor, stop_anchor, step)


def count_segments(num_frames: int, rule: SegmentRule) -> int:
    """Segments of an episode."""
    return sum(1 for _ in plan_segments(num_frames, rule))


def largest_unit(num_frames: int, rule: SegmentRule) -> int:
    """Anchors of the largest unit of an episode."""
    if not rule.is_atomic:
        return min(rule.anchors_per_sample, rule.count_anchors(num_frames))
    return max((stop - start for start, stop in plan_segments(num_frames, rule)), default=0)
