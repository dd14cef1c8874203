"""Reads whole datasets through the interface of sources, as the job does but without it."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from predecode.transforms.episodes import Episode, EpisodeMetadata, FrameRun
from predecode.transforms.sources.base import Source
from predecode.transforms.sources.opening import open_source
from predecode.transforms.storage import Folder


def open_at(root: Path | str, **options: Any) -> Source:
    return open_source(Folder.of(str(root)), **options)


def frame_runs(source: Source) -> dict[int, list[FrameRun]]:
    runs = defaultdict(list)
    for path in source.data_files():
        for episode, run in source.read_frame_runs(path):
            runs[episode].append(run)
    return dict(runs)


def metadata(source: Source) -> dict[int, EpisodeMetadata]:
    return dict(entry for path in source.metadata_files() for entry in source.read_episode_metadata(path))


def episodes(source: Source) -> dict[int, Episode]:
    """All episodes of a source without faults."""
    entries = metadata(source)
    joined = {}
    for index, runs in sorted(frame_runs(source).items()):
        entry = entries[index]
        assert not entry.problem
        assert not any(run.problem for run in runs)
        ordered = tuple(sorted(runs, key=lambda run: run.first_frame))
        joined[index] = Episode(index, entry.num_frames, entry.tasks, ordered, entry.videos)
    return joined


def episode(source: Source, index: int) -> Episode:
    """One episode, even where the source has faults."""
    entry = metadata(source)[index]
    runs = tuple(sorted(frame_runs(source)[index], key=lambda run: run.first_frame))
    return Episode(index, sum(run.num_frames for run in runs), entry.tasks, runs, entry.videos)


def read_golden(path: Path) -> tuple[dict[str, NDArray[Any] | str], dict[str, Any]]:
    """What lerobot returned: `ITEM/KEY` to value, and how it was asked."""
    content = gzip.decompress(path.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = json.loads(header["__metadata__"]["golden"])
    return safetensors.numpy.load(content) | description["strings"], description


def same(got: NDArray[Any] | str, expected: NDArray[Any] | str) -> bool:
    """Equal in dtype, shape and every bit that matters (NaN equals NaN)."""
    if isinstance(expected, str):
        return got == expected
    array = np.asarray(got)
    is_float = expected.dtype.kind == "f"
    return (
        array.dtype == expected.dtype
        and array.shape == expected.shape
        and np.array_equal(array, expected, equal_nan=is_float)
    )
