"""Opens the source of an output for a plain reading, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from predecode.reader.plain_buffer import BufferReader, open_plain_buffer
from predecode.reader.plain_dataset import open_plain_dataset
from predecode.reader.plain_reader import DatasetReader
from predecode.reader.plain_source import PlainSource
from predecode.transforms.storage import Folder

_BUFFER = "zarr"


def open_plain_source(folder: Folder, plan: Mapping[str, Any]) -> PlainSource:
    """Reads the metadata of a source, and finds the rows of every episode.

    Args:
        folder: The LeRobot dataset or the Zarr replay buffer.
        plan: plan.json of the output that was made from it: what was left out and, for a buffer, fps and task, which it
            does not know.

    Raises:
        UsageError: it is a dataset of another kind than the output was made from.
        SourceError: the metadata cannot be used.
        DataError: a data file cannot be read.
        OSError: storage fails.
    """
    options, asked = plan["options"], plan["source"]
    excluded = options["exclude_features"]
    if asked.get("format") == _BUFFER:
        buffer = open_plain_buffer(folder, excluded)
        fps = float(asked["fps"])
        lengths = dict(enumerate(buffer.lengths))
        reader = partial(BufferReader, buffer, fps=fps, task=str(asked["task"]))
        return PlainSource(fps, buffer.specs, ("task",), lengths, reader)
    dataset = open_plain_dataset(folder, excluded)
    lengths = {
        episode: sum(place.stop_row - place.start_row for place in places) for episode, places in dataset.places.items()
    }
    open_reader = partial(DatasetReader, dataset, tolerance_s=options["tolerance_s"])
    return PlainSource(dataset.fps, dataset.specs, tuple(dataset.texts), lengths, open_reader)
