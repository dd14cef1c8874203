"""Replay buffers of Diffusion Policy and UMI: a Zarr group of `data/NAME`, time first, and `meta/episode_ends`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from predecode.transforms.episodes import EpisodeMetadata, FrameRun
from predecode.transforms.errors import SOURCE_REMEDY, DataError, SourceError, UsageError
from predecode.transforms.features import Feature
from predecode.transforms.sources.base import SourceReader
from predecode.transforms.sources.renaming import new_names
from predecode.transforms.sources.zarr_arrays import ZarrArray, describe_array, features_of
from predecode.transforms.sources.zarr_reader import ZarrReader
from predecode.transforms.sources.zarr_store import ZarrStore, new_context
from predecode.transforms.storage import Folder, check_relative

_DATA = "data"
_ENDS = "meta/episode_ends"
_ROWS = "rows/"
_STRETCH = re.compile(rf"{_ROWS}(\d+)-(\d+)")
"""What stands for a file here: the rows of one episode."""

_MAX_EPISODES = 1 << 27
_BATCH_EPISODES = 1 << 16


@dataclass(frozen=True, slots=True)
class ZarrSource:
    """A replay buffer, opened: what its arrays are; none of their values.

    Attributes:
        store: Where it lies.
        fps: Frames per second, which the buffer does not know.
        task: The task string of every frame.
        features: Those of the arrays, by name, then the columns that LeRobot has besides.
        arrays: Of each feature that is one, by the feature's name.
        ends: The array of where episodes end.
        specs_json: The features, as info.json has them.
    """

    store: ZarrStore
    fps: float
    task: str
    features: tuple[Feature, ...]
    arrays: dict[str, ZarrArray]
    ends: ZarrArray
    specs_json: str

    @classmethod
    def open(
        cls, folder: Folder, *, excluded: frozenset[str], renames: Mapping[str, str], fps: float | None, task: str
    ) -> ZarrSource:
        """Reads the metadata of all arrays.

        Raises:
            SourceNotFoundError: there is no Zarr group.
            SourceError: it is no replay buffer, or holds what cannot be read.
            UsageError: fps is missing, a feature is excluded or renamed that is not there.
        """
        store = ZarrStore(folder)
        listing = store.list_files()
        if fps is None:
            raise UsageError(f"{folder}: a Zarr replay buffer does not say how fast it was recorded: give --fps N.")
        found = listing.names(_DATA)
        if unknown := excluded.difference(found):
            raise UsageError(
                f"{folder}: cannot exclude {', '.join(sorted(unknown))}: no such array. There are: {', '.join(found)}."
            )
        names = new_names([name for name in found if name not in excluded], renames)
        if not names:
            raise SourceError(f"{folder}: expected arrays in {_DATA}/, found none. Is it a replay buffer?")
        arrays = {
            new: describe_array(
                store,
                listing,
                check_relative(f"{_DATA}/{old}", str(folder)),
                f"Or leave it out with --exclude-features {old}.",
            )
            for old, new in names.items()
        }
        ends = describe_array(store, listing, _ENDS, "It says where episodes end.")
        if "int" not in ends.dtype or len(ends.shape) != 1 or ends.shape[0] > _MAX_EPISODES:
            raise SourceError(
                f"{folder}: {_ENDS}: expected at most {_MAX_EPISODES} whole numbers, got {ends.dtype} of shape "
                f"{ends.shape}. {SOURCE_REMEDY}"
            )
        _check_lengths(arrays, str(folder))
        specs, features = features_of(arrays, str(folder))
        return cls(store, fps, task, features, arrays, ends, json.dumps(specs))

    @property
    def info(self) -> dict[str, Any]:
        """What an info.json would say of it."""
        fps = int(self.fps) if self.fps.is_integer() else self.fps
        return {"robot_type": None, "fps": fps, "features": json.loads(self.specs_json)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The one task."""
        return (self.task,)

    @property
    def text_features(self) -> tuple[str, ...]:
        """The task."""
        return ("task",)

    def stats(self) -> dict[str, Any] | None:
        """None: a replay buffer has no statistics."""
        return None

    def summary(self) -> dict[str, Any]:
        """Speed, task, dtype and shape of each feature, and the array that it is."""
        features = {feature.name: {"dtype": feature.dtype, "shape": list(feature.shape)} for feature in self.features}
        arrays = {name: array.path for name, array in self.arrays.items()}
        return {"format": "zarr", "fps": self.fps, "task": self.task, "features": features, "arrays": arrays}

    def data_files(self) -> Iterator[str]:
        """The array that attributes rows to episodes."""
        yield _ENDS

    def metadata_files(self) -> Iterator[str]:
        """The same array."""
        yield _ENDS

    def read_frame_runs(self, path: str) -> Iterator[tuple[int, FrameRun]]:
        """One run an episode.

        Raises:
            SourceError: the ends do not increase, or are not those of the arrays.
        """
        for index, (start, stop) in enumerate(pairwise(self._bounds(path))):
            yield index, FrameRun(f"{_ROWS}{start}-{stop}", start, 0, stop - start)

    def read_episode_metadata(self, path: str) -> Iterator[tuple[int, EpisodeMetadata]]:
        """One entry an episode.

        Raises:
            SourceError: as for `read_frame_runs`.
        """
        for index, (start, stop) in enumerate(pairwise(self._bounds(path))):
            yield index, EpisodeMetadata(stop - start, (self.task,), ())

    def file_size(self, path: str) -> int | None:
        """Bytes of the files of all arrays that hold a stretch of rows, which changes when these rows do."""
        if path == _ENDS:
            return self.ends.files.total()
        if not (rows := _STRETCH.fullmatch(path)):
            return None
        return sum(array.files.of_rows(int(rows[1]), int(rows[2])) for array in self.arrays.values())

    def reader(self, *, tolerance_s: float) -> SourceReader:
        """Opens what one thread needs; there are no timestamps that could be off."""
        del tolerance_s
        return ZarrReader(self.store, self.features, self.arrays, fps=self.fps, task=self.task)

    def _bounds(self, path: str) -> Iterator[int]:
        """0, and where each episode ends."""
        where = f"{self.store.folder}: {path}"
        last = 0
        yield 0
        for index, end in enumerate(self._ends(path, where)):
            if end <= last:
                raise SourceError(f"{where}: expected ends that increase, got {end} after {last} at {index}. Mend it.")
            last = end
            yield end
        num_rows = next(iter(self.arrays.values())).shape[0]
        if last != num_rows:
            raise SourceError(
                f"{where}: expected the last episode to end where the arrays do, at row {num_rows}, got {last}. "
                "Is the copy complete?"
            )

    def _ends(self, path: str, where: str) -> Iterator[int]:
        num_episodes = self.ends.shape[0]
        try:
            for start in range(0, num_episodes, _BATCH_EPISODES):
                yield from self._batch(path, start, min(start + _BATCH_EPISODES, num_episodes))
        except DataError as error:
            raise SourceError(f"{where}: {error}. Without it the episodes are unknown: mend it.") from error

    def _batch(self, path: str, start: int, stop: int) -> list[int]:
        def read(seconds: float | None, _: int) -> list[int]:
            # Each time in a context of its own: within an old one it would only join who waits for what hangs.
            array = self.store.open_array(path, self.ends.driver, new_context())
            found: list[int] = array[start:stop].read().result(timeout=seconds).tolist()
            return found

        return self.store.attempt(path, read)


def _check_lengths(arrays: Mapping[str, ZarrArray], where: str) -> None:
    lengths = {array.path: array.shape[0] for array in arrays.values()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{path}: {length}" for path, length in lengths.items())
        raise SourceError(
            f"{where}: expected arrays of one length, got {listed}. Is the copy complete? --exclude-features leaves "
            "an array out."
        )
