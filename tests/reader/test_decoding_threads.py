"""How many threads decode where nobody says."""

from __future__ import annotations

import os

import pytest

from predecode.reader import MixedWindows, WindowDataset, WindowLoader
from predecode.reader.decoding_threads import default_num_threads
from predecode.transforms.errors import UsageError
from tests.reader.conftest import Materialized


@pytest.mark.parametrize(
    ("cores", "ranks", "window_pixels", "expected"),
    [
        (1, None, 10**7, 1),
        (2, None, 2 * 224 * 224, 2),
        (16, None, 2 * 224 * 224, 4),
        (16, None, 2 * 480 * 640, 16),
        (64, None, 2 * 480 * 640, 24),
        (64, None, 0, 2),
        (64, "8", 2 * 480 * 640, 8),
        (4, "8", 2 * 480 * 640, 1),
        (64, "", 2 * 480 * 640, 24),
        (64, "many", 2 * 480 * 640, 24),
        (64, "0", 2 * 480 * 640, 24),
    ],
)
def test_threads_are_as_many_as_gain_and_as_a_rank_has_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: str | None, window_pixels: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    if ranks is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert default_num_threads(window_pixels) == expected


def test_the_pixels_of_a_window_are_those_of_all_its_images(materialized: Materialized) -> None:
    dataset = WindowDataset(str(materialized("zoo_v30", "contiguous", None)))
    images = [value for value in dataset[0].values() if getattr(value, "ndim", 0) > 2]
    assert len(images) > 1
    assert dataset.window_pixels == sum(image.numel() // image.shape[-3] for image in images)
    assert MixedWindows([(dataset, 1.0), (dataset, 2.0)]).window_pixels == dataset.window_pixels


def test_no_thread_at_all_is_refused(materialized: Materialized) -> None:
    dataset = WindowDataset(str(materialized("zoo_v30", "contiguous", None)))
    with pytest.raises(UsageError, match="at least one thread"):
        WindowLoader(dataset, 4, num_threads=0)
