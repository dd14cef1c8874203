"""What lies in a Zarr store: names and sizes of its files, from one look at all of it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from predecode.transforms.storage import Folder

GROUP_FILES = (".zgroup", "zarr.json")
"""One of them lies at the top of a group."""

_CHUNK_NAME = re.compile(r"(?:c[./])?(\d{1,15})(?:[./]\d+)*")
"""Of a file, below its array: `3.0.0.0` or `3/0/0/0` in version 2, `c/3/0/0/0` in version 3. The first is time's."""


def is_zarr(folder: Folder) -> bool:
    """Whether a source is to be read as a Zarr group: by its name, or by what lies in the local folder."""
    if folder.url.endswith((".zarr", ".zip")):
        return True
    return folder.is_local and not os.path.exists(folder.path("meta/info.json")) and _has_group(folder)


def _has_group(folder: Folder) -> bool:
    return any(os.path.exists(folder.path(name)) for name in GROUP_FILES)


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Bytes of the files of one array, by the stretch of rows that they hold; picklable and small.

    Attributes:
        file_rows: Rows of one file.
        numbers: int64, ascending: which stretches have files.
        sizes: int64: bytes of all files of each of these.
    """

    file_rows: int
    numbers: bytes = field(repr=False)
    sizes: bytes = field(repr=False)

    def of_rows(self, start_row: int, stop_row: int) -> int:
        """Bytes of the files that hold a half-open, not empty range of rows."""
        numbers, sizes = np.frombuffer(self.numbers, np.int64), np.frombuffer(self.sizes, np.int64)
        bounds = start_row // self.file_rows, (stop_row - 1) // self.file_rows + 1
        low, high = np.searchsorted(numbers, bounds)
        return int(sizes[low:high].sum())

    def total(self) -> int:
        """Bytes of all files."""
        return int(np.frombuffer(self.sizes, np.int64).sum())


@dataclass(frozen=True, slots=True)
class ZarrListing:
    """All files of a store.

    Attributes:
        sizes: Bytes of each, by its path.
    """

    sizes: Mapping[str, int]

    def names(self, group: str) -> list[str]:
        """Names of what lies in a group, sorted."""
        prefix = f"{group}/"
        below = (path.removeprefix(prefix) for path in self.sizes if path.startswith(prefix))
        return sorted({path.split("/", 1)[0] for path in below if "/" in path})

    def chunk_sizes(self, path: str, file_rows: int) -> ChunkSizes:
        """Sizes of the files of an array.

        Args:
            path: Of the array.
            file_rows: Rows of one of its files.
        """
        prefix = f"{path}/"
        found: Counter[int] = Counter()
        for file, size_bytes in self.sizes.items():
            if file.startswith(prefix) and (match := _CHUNK_NAME.fullmatch(file, len(prefix))):
                found[int(match[1])] += size_bytes
        numbers = sorted(found)
        sizes = np.array([found[number] for number in numbers], np.int64)
        return ChunkSizes(file_rows, np.array(numbers, np.int64).tobytes(), sizes.tobytes())
