"""Episodes by their numbers, as lerobot's trainer and samplers look them up."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predecode.transforms.errors import FormatError

COLUMNS = ("episode_index", "length", "dataset_from_index", "dataset_to_index", "tasks")

MAX_COLUMN = 1 << 24
"""Numbers of episodes below this make columns: far more than datasets have."""


class EpisodeTable:
    """Episodes by number: `episodes[7]` is a row, `episodes["length"]` has a value for each number from 0.

    lerobot takes the row number for the episode's, so a number that a dataset lacks, because it is of another split or
    was not selected, has a row too: of length 0, so that a sampler takes nothing from it.

    >>> table = pa.table({"episode_index": [1, 3], "length": [5, 2], "tasks": [["push"], ["pull"]]})
    >>> EpisodeTable(table)["dataset_from_index"], EpisodeTable(table)["dataset_to_index"]
    ([0, 0, 5, 5], [0, 5, 5, 7])
    >>> EpisodeTable(table)[3]
    {'episode_index': 3, 'length': 2, 'dataset_from_index': 5, 'dataset_to_index': 7, 'tasks': ['pull']}
    """

    def __init__(self, table: pa.Table) -> None:
        """Keeps what there is.

        Args:
            table: `episode_index`, ascending, `length` in items and `tasks` of those that there are.
        """
        self._numbers: NDArray[np.int64] = table["episode_index"].to_numpy()
        # An entry behind the last one, for the place where a number beyond it would stand.
        self._ended = np.append(self._numbers, -1)
        self._lengths = np.append(table["length"].to_numpy(), 0)
        self._first_items = np.append(0, np.cumsum(self._lengths[:-1]))
        self._tasks = table["tasks"]

    def __len__(self) -> int:
        """One more than the highest number."""
        return int(self._numbers[-1]) + 1 if len(self._numbers) else 0

    def __getitem__(self, key: str | int) -> Any:
        """A column as a list, or the row of a number as a dict.

        Raises:
            KeyError: there is no such column.
            IndexError: the number is beyond the highest.
            FormatError: the highest number is so high that a column is out of the question.
        """
        if isinstance(key, str):
            if len(self) > MAX_COLUMN:
                raise FormatError(
                    f"Expected numbers of episodes below {MAX_COLUMN}, got {len(self) - 1}: a column has a value for "
                    "each number from 0. Ask for the rows of single episodes."
                )
            return self._values(key, np.arange(len(self)))
        number = operator.index(key)
        if not -len(self) <= number < len(self):
            raise IndexError(f"Expected the number of an episode, below {len(self)}, got {number}.")
        return {name: self._values(name, np.array([number % len(self)]))[0] for name in COLUMNS}

    @property
    def num_episodes(self) -> int:
        """How many there are."""
        return len(self._numbers)

    @property
    def num_items(self) -> int:
        """Items of all of them."""
        return int(self._first_items[-1])

    def _values(self, column: str, numbers: NDArray[np.int64]) -> list[Any]:
        if column not in COLUMNS:
            raise KeyError(f"Expected one of {', '.join(COLUMNS)}, got {column!r}.")
        place = np.searchsorted(self._numbers, numbers)
        there = self._ended[place] == numbers
        if column == "tasks":
            return [self._tasks[row].as_py() if known else [] for row, known in zip(place.tolist(), there, strict=True)]
        first, length = self._first_items[place], np.where(there, self._lengths[place], 0)
        values = {
            "episode_index": numbers,
            "length": length,
            "dataset_from_index": first,
            "dataset_to_index": first + length,
        }
        return values[column].tolist()
