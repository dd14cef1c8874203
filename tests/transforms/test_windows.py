"""Windows against an oracle written from section 2.2 of lerobot's item semantics, one frame at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.transforms.errors import UsageError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.windows import MAX_DELTAS, count_anchors, resolve_deltas, window

FEATURES = (
    Feature("observation.images.top", Kind.VIDEO, "video", (48, 64, 3)),
    Feature("action", Kind.NUMBER, "float32", (7,), "float32"),
    Feature("note", Kind.STRING, "string", (1,)),
    Feature("timestamp", Kind.NUMBER, "float32", (1,), "float32"),
    Feature("task_index", Kind.NUMBER, "int64", (1,), "int64"),
)


def lerobot_window(anchor: int, deltas: list[int], num_frames: int) -> tuple[list[int], list[bool]]:
    """What `_get_query_indices` computes, for an episode that begins at row 0."""
    frames = [max(0, min(num_frames - 1, anchor + delta)) for delta in deltas]
    return frames, [anchor + delta < 0 or anchor + delta >= num_frames for delta in deltas]


@given(st.data())
def test_windows_are_those_of_the_oracle(data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, 300))
    deltas = data.draw(st.lists(st.integers(-400, 400), min_size=1, max_size=20))
    anchors = data.draw(st.lists(st.integers(0, num_frames - 1), min_size=1, max_size=10))
    frames, is_pad = window(np.array(anchors, np.int64), deltas, num_frames)
    for row, anchor in enumerate(anchors):
        expected = lerobot_window(anchor, deltas, num_frames)
        assert (frames[row].tolist(), is_pad[row].tolist()) == expected


@given(num_frames=st.integers(0, 200), stride=st.integers(1, 50), drop_last=st.integers(0, 60))
def test_anchors_are_counted_as_they_are_listed(num_frames: int, stride: int, drop_last: int) -> None:
    listed = range(0, max(0, num_frames - drop_last), stride)
    assert count_anchors(num_frames, stride=stride, drop_last=drop_last) == len(listed)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=20), st.sampled_from([1.0, 5, 10, 15, 29.97, 30, 50]))
def test_seconds_become_the_frames_they_came_from(frames: list[int], fps: float) -> None:
    seconds = {"action": [frame / fps for frame in frames]}
    assert resolve_deltas(seconds, {}, FEATURES, fps=fps, tolerance_s=1e-4) == {"action": tuple(frames)}


def test_order_repeats_and_missing_zero_are_kept() -> None:
    asked = {"action": [3, -2, 3, 120], "observation.images.top": [5]}
    resolved = resolve_deltas({}, asked, FEATURES, fps=10, tolerance_s=1e-4)
    assert list(resolved.items()) == [("action", (3, -2, 3, 120)), ("observation.images.top", (5,))]


def test_a_delta_within_the_tolerance_is_rounded() -> None:
    assert resolve_deltas({"action": [0.10009]}, {}, FEATURES, fps=10, tolerance_s=1e-4) == {"action": (1,)}


@pytest.mark.parametrize(
    ("timestamps", "indices", "message"),
    [
        ({"actoin": [0.0]}, {}, r"no feature 'actoin'.*has: observation\.images\.top, action, note"),
        ({"action": [0.05]}, {}, r"0\.05 s of 'action' is not a multiple of 1/10 s"),
        ({"action": []}, {}, rf"expected 1 to {MAX_DELTAS} deltas for 'action', got 0"),
        ({"action": [float("nan")]}, {}, "expected seconds for 'action', got nan"),
        ({"action": ["0.1"]}, {}, "expected seconds for 'action', got '0.1'"),
        ({}, {"action": [0.5]}, "expected whole frames for 'action', got 0.5"),
        ({}, {"action": [True]}, "expected whole frames for 'action', got True"),
        ({}, {"action": [1 << 40]}, "beyond"),
        ({}, {"note": [0]}, "holds strings"),
        ({}, {"timestamp": [0, 1]}, "'timestamp' cannot have the deltas"),
        ({}, {"task_index": [1]}, "'task_index' cannot have the deltas"),
    ],
)
def test_bad_windows_are_refused(
    timestamps: dict[str, list[float]], indices: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_deltas(timestamps, indices, FEATURES, fps=10, tolerance_s=1e-4)


def test_a_mask_must_not_take_the_name_of_a_feature() -> None:
    features = (*FEATURES, Feature("action_is_pad", Kind.NUMBER, "bool", (7,), "bool"))
    with pytest.raises(UsageError, match="action_is_pad, which is a feature already"):
        resolve_deltas({}, {"action": [0]}, features, fps=10, tolerance_s=1e-4)
