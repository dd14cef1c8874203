"""What a plan amounts to: frames that are encoded, and frames that are decoded to get them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from predecode.transforms.segments import SegmentRule
from predecode.transforms.shards import Segment


def count_frames(
    segment: Segment, num_frames: int, rule: SegmentRule, deltas: Sequence[int], *, gop_frames: int
) -> tuple[int, int]:
    """Frames of one camera that a segment needs, each of which is encoded once, and those decoded to get them.

    >>> rule = SegmentRule(1, 0, 128, 0, 1, False)
    >>> count_frames(Segment(0, 5, 10), 20, rule, (-2, 0), gop_frames=4)
    (7, 10)

    Args:
        segment: As dealt to a shard.
        num_frames: Of its episode.
        rule: Which frames are anchors.
        deltas: Of the camera, in frames.
        gop_frames: From key frame to key frame; an episode begins with one.
    """
    first, last = segment.first_anchor * rule.stride, (segment.stop_anchor - 1) * rule.stride
    before, behind = min(first, -min(0, *deltas)), min(num_frames - 1 - last, max(0, *deltas))
    phase = first % gop_frames
    return _count_shown(segment.num_anchors, rule.stride, tuple(deltas), before, behind, phase, gop_frames)


@lru_cache(maxsize=1 << 16)
def _count_shown(
    num_anchors: int, stride: int, deltas: tuple[int, ...], before: int, behind: int, phase: int, gop_frames: int
) -> tuple[int, int]:
    """The same for what does not depend on where in an episode it is; most segments of a dataset are alike.

    Args:
        num_anchors: Consecutive ones.
        stride: Frames from one to the next.
        deltas: In frames.
        before: Frames of the episode before the first anchor, as far as windows reach.
        behind: And behind the last.
        phase: Frames from a key frame to the first anchor.
        gop_frames: From key frame to key frame.
    """
    anchors = np.arange(num_anchors, dtype=np.int64) * stride
    wanted = anchors[:, None] + np.asarray(deltas, np.int64)
    frames = np.unique(np.clip(wanted, -before, anchors[-1] + behind)) + phase
    is_last = np.diff(frames // gop_frames, append=frames[-1] // gop_frames + 1) != 0
    return len(frames), int((frames[is_last] % gop_frames + 1).sum())
