"""Where the rows of a LeRobot data file belong: runs of consecutive frames of one episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.transforms.columns import is_plain_number, type_problem, whole_numbers
from predecode.transforms.episodes import FrameRun
from predecode.transforms.errors import SOURCE_REMEDY, DataError, SourceError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.rows import RowFile
from predecode.transforms.storage import Folder

_BATCH_ROWS = 1 << 17


def read_frame_runs(
    folder: Folder, path: str, features: Sequence[Feature], texts: Mapping[str, Sequence[str | None]]
) -> Iterator[tuple[int, FrameRun]]:
    """Finds the longest runs of rows that are consecutive frames of one episode, with the faults that rows show here.

    Only number columns that rows are found by are read, a batch at a time.

    Args:
        folder: The dataset.
        path: The data file.
        features: What the file's columns are compared with.
        texts: For "task_index" (and "subtask_index") the strings that its numbers stand for.

    Yields:
        (episode_index, run), in row order.

    Raises:
        SourceError: the file is not Parquet, or rows cannot be attributed to an episode.
    """
    try:
        with RowFile(folder, path) as file:
            scan = _Scan(path, file_problem(file.schema, features), texts)
            wanted = ("episode_index", "frame_index", *texts)
            columns = [name for name in wanted if _is_usable(file.schema, name)]
            if "episode_index" not in columns:
                raise SourceError(
                    f"{path}: expected a column episode_index of whole numbers; there is none. {SOURCE_REMEDY}"
                )
            row = 0
            for batch in file.batches(columns, batch_rows=_BATCH_ROWS):
                yield from scan.advance(batch, row)
                row += batch.num_rows
            if scan.pending is not None:
                yield scan.pending
    except DataError as error:
        raise SourceError(
            f"{error} Its episodes are unknown, so that they cannot be left out: mend or remove it."
        ) from error


def file_problem(schema: pa.Schema, features: Sequence[Feature]) -> str:
    """What is wrong with a data file's columns, compared with info.json; "" where all is well."""
    problems = []
    for feature in features:
        if feature.kind is Kind.VIDEO:
            continue
        places = schema.get_all_field_indices(feature.name)
        if len(places) != 1:
            problems.append(
                f"feature {feature.name!r}: expected one column, got {len(places)}. "
                f"Leave it out with --exclude-features {feature.name}."
            )
        elif problem := type_problem(schema.field(places[0]).type, feature):
            problems.append(problem)
    return " ".join(problems[:3])


@dataclass(slots=True)
class _Scan:
    """Cuts batches of rows into runs; the last run stays open, because the next batch may go on with it."""

    path: str
    problem: str
    texts: Mapping[str, Sequence[str | None]]
    pending: tuple[int, FrameRun] | None = None

    def advance(self, batch: pa.RecordBatch, first_row: int) -> Iterator[tuple[int, FrameRun]]:
        """Takes the next rows; yields the runs that are complete."""
        columns = {name: whole_numbers(batch.column(name)) for name in batch.schema.names}
        episodes, is_attributed = columns["episode_index"]
        if not is_attributed.all():
            row = first_row + int(np.argmin(is_attributed))
            raise SourceError(
                f"{self.path}: row {row}: expected an episode_index, got null or a fraction. {SOURCE_REMEDY}"
            )
        frames, has_frame = columns.get("frame_index", (episodes, np.zeros(len(episodes), dtype=bool)))
        # rows without a number count on, so that a column of nulls is one run an episode
        frames = np.where(has_frame, frames, first_row + np.arange(len(frames)))
        faulty = {"frame_index": ~has_frame | (frames < 0), "episode_index": episodes < 0}
        for name, texts in self.texts.items():
            if name in columns:
                faulty[name] = ~_has_text(*columns[name], texts)
        faults = np.flatnonzero(np.logical_or.reduce(list(faulty.values())))
        is_break = (episodes[1:] != episodes[:-1]) | (frames[1:] != frames[:-1] + 1)
        bounds = np.concatenate([[0], np.flatnonzero(is_break) + 1, [len(frames)]]).astype(np.int64)
        first_faults = np.concatenate([faults, [len(frames)]])[np.searchsorted(faults, bounds[:-1])]
        rows = zip(bounds[:-1].tolist(), bounds[1:].tolist(), first_faults.tolist(), strict=True)
        for start, stop, fault in rows:
            problem = self.problem or (self._describe(fault, first_row, columns, faulty) if fault < stop else "")
            run = FrameRun(self.path, first_row + start, int(frames[start]), stop - start, problem)
            yield from self._push(int(episodes[start]), run)

    def _push(self, episode_index: int, run: FrameRun) -> Iterator[tuple[int, FrameRun]]:
        if self.pending is not None:
            last_index, last = self.pending
            if last_index == episode_index and last.first_frame + last.num_frames == run.first_frame:
                num_frames = last.num_frames + run.num_frames
                merged = dataclasses.replace(last, num_frames=num_frames, problem=last.problem or run.problem)
                self.pending = (episode_index, merged)
                return
            yield self.pending
        self.pending = (episode_index, run)

    def _describe(
        self,
        position: int,
        first_row: int,
        columns: Mapping[str, tuple[NDArray[np.int64], NDArray[np.bool_]]],
        faulty: Mapping[str, NDArray[np.bool_]],
    ) -> str:
        name = next(name for name, is_faulty in faulty.items() if is_faulty[position])
        where = f"{self.path}: row {first_row + position}"
        numbers, valid = columns[name]
        if not valid[position]:
            return f"{where}: expected a {name}, got null or a fraction."
        if name in self.texts:
            return (
                f"{where}: {name} is {numbers[position]}, for which there is no string: the dataset lists "
                f"{len(self.texts[name])}."
            )
        return f"{where}: expected {name} to be 0 or more, got {numbers[position]}."


def _has_text(numbers: NDArray[np.int64], valid: NDArray[np.bool_], texts: Sequence[str | None]) -> NDArray[np.bool_]:
    is_text = np.array([text is not None for text in texts] or [False])
    in_range = valid & (numbers >= 0) & (numbers < len(is_text))
    return in_range & is_text[np.where(in_range, numbers, 0)]


def _is_usable(schema: pa.Schema, name: str) -> bool:
    places = schema.get_all_field_indices(name)
    return len(places) == 1 and is_plain_number(schema.field(places[0]).type)
