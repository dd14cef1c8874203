"""Frames of a segment, counted at once, against a decoder that is played step by step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from predecode.transforms.segments import SegmentRule
from predecode.transforms.shards import Segment
from predecode.transforms.workload import count_frames


def play(needed: list[int], gop_frames: int) -> int:
    """Frames that a decoder decodes that goes to the last key frame before each frame, unless it is past it already."""
    decoded, position = 0, -1
    for frame in needed:
        start = max(position + 1, frame // gop_frames * gop_frames)
        decoded += frame + 1 - start
        position = frame
    return decoded


@given(
    st.integers(1, 400),
    st.integers(1, 9),
    st.lists(st.integers(-60, 60), min_size=1, max_size=6),
    st.integers(1, 40),
    st.data(),
)
def test_frames_of_a_segment(
    num_frames: int, stride: int, deltas: list[int], gop_frames: int, data: st.DataObject
) -> None:
    rule = SegmentRule(stride, 0, 128, 0, 1, is_atomic=False)
    num_anchors = rule.count_anchors(num_frames)
    first = data.draw(st.integers(0, num_anchors - 1))
    stop = data.draw(st.integers(first + 1, num_anchors))
    shown = {min(max(anchor * stride + delta, 0), num_frames - 1) for anchor in range(first, stop) for delta in deltas}
    expected = (len(shown), play(sorted(shown), gop_frames))
    assert count_frames(Segment(0, first, stop), num_frames, rule, deltas, gop_frames=gop_frames) == expected
