"""`WindowDataset`: a materialized split as a sequence of training windows."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from predecode.reader.batch import Batch, BatchReader
from predecode.reader.cached_ranges import CachedRanges
from predecode.reader.item_format import ItemFormat
from predecode.reader.metadata import WindowMetadata
from predecode.reader.opening import open_output
from predecode.reader.permutation import Order
from predecode.reader.ranges import RangeReader, open_ranges
from predecode.reader.selection import FeatureWindow, select_windows
from predecode.reader.shard_cache import DEFAULT_CACHE_BYTES, ShardCache
from predecode.reader.split import Located, SplitIndex
from predecode.reader.windowed import StorageOrder
from predecode.transforms.errors import UsageError
from predecode.transforms.hashing import order_key
from predecode.transforms.images import image_codec
from predecode.transforms.storage import Folder
from predecode.transforms.windows import compact

Pad: TypeAlias = Literal["edge", "zeros"]
ImageTransforms: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class WindowDataset(Dataset[dict[str, Any]]):
    """The windows of one split, in the order of episodes, then frames: `ds[i] == LeRobotDataset[i]` of a whole dataset.

    Nothing is read at construction but the manifest and two small tables; indices of shards are mapped into memory when
    they are first touched. It can be pickled and forked: each process opens its own files.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        episodes: Sequence[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        image_transforms: ImageTransforms | None = None,
        return_uint8: bool = False,
        pad: Pad = "edge",
        verify: bool = True,
        repo_id: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int | str = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Opens a materialized output.

        Args:
            root: What `predecode materialize` wrote: a folder or an fsspec URL.
            split: "train" or "val".
            episodes: Only these; None for all.
            delta_timestamps: Per feature the offsets of its window in seconds: some of what was materialized, in any
                order. None for all that was materialized (lerobot would give no windows then).
            tolerance_s: How far a delta may be from a multiple of 1/fps.
            image_transforms: Called once per camera and item on the whole tensor, (C, H, W) or (T, C, H, W).
            return_uint8: Whether frames of videos stay uint8 instead of float32 in [0, 1]; stored images don't, as in
                lerobot.
            pad: "edge": padded slots repeat the episode's first or last value, as in lerobot; "zeros".
            verify: Whether every byte that is read is checked against its checksum.
            repo_id: What `meta.repo_id` says; the root if not given.
            storage_options: For fsspec.
            cache_dir: A folder of the local disk that shards are copied to while they are read, where the root is not
                local. Processes and datasets may share it; None for none.
            cache_bytes: What all copies there may take together: bytes, or a size such as "20GB".

        Raises:
            FormatError: the output is incomplete, damaged, or of another format version.
            UsageError: an episode or a delta that is not there, a cache that cannot be.
            OSError: storage fails.
        """
        if pad not in get_args(Pad):
            raise UsageError(f"Expected as pad one of {', '.join(get_args(Pad))}, got {pad!r}.")
        self.split = split
        self.image_transforms = image_transforms
        self._reading = {"return_uint8": return_uint8, "pad_zeros": pad == "zeros", "verify": verify}

        def open_files(folder: Folder, manifest: dict[str, Any]) -> None:
            self._folder = folder
            self.manifest = manifest
            self._selection = select_windows(ItemFormat.of(manifest), delta_timestamps, tolerance_s=tolerance_s)
            self._index = SplitIndex(folder, manifest, split, episodes=episodes, verify=verify)
            chosen = None if episodes is None else self.episodes
            self.meta = WindowMetadata(folder, manifest, split, repo_id=repo_id or folder.url, episodes=chosen)

        self._cache = None if cache_dir is None else ShardCache.of(cache_dir, cache_bytes)
        open_output(Folder.of(str(root), storage_options), open_files)

    def __len__(self) -> int:
        """Windows of the selection."""
        return self._index.num_items

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One window, as lerobot's map-style dataset gives it; a negative index counts from the end.

        Raises:
            IndexError: there is no such window.
            FormatError: what is read is not what was written.
            OSError: storage fails.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several windows at once: what PyTorch's DataLoader calls for a batch."""
        items = np.array([window_number(index, len(self)) for index in indices], np.int64)
        batch, located = self.reader.allocate(len(items)), self._index.locate(items)
        self._index.open_shards(located)
        self.reader.fill(batch, 0, located)
        tensors = batch.tensors(self._selection)
        return [self._transformed({key: value[place] for key, value in tensors.items()}) for place in range(len(items))]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All windows, in order."""
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves open files behind."""
        state = self.__dict__.copy()
        for name in ("reader", "_ranges"):
            state.pop(name, None)
        return state

    @functools.cached_property
    def reader(self) -> BatchReader:
        """What fetches and decodes."""
        image = self.manifest["image"]
        codec = image_codec(image["image_codec"])
        return BatchReader(self._selection, self._index, self._ranges, codec, **self._reading)

    @functools.cached_property
    def _ranges(self) -> RangeReader:
        ranges = open_ranges(self._folder)
        if self._cache is None or not self.is_far:
            return ranges
        return CachedRanges(ranges, self._cache, self._index.cached_shard)

    @property
    def is_far(self) -> bool:
        """Whether reading waits for a network."""
        return not self._folder.is_local

    @property
    def repo_id(self) -> str:
        """What the dataset was called when it was opened."""
        return self.meta.repo_id

    @property
    def root(self) -> Path | str:
        """Path of the output; its URL where it is not local."""
        return self.meta.root

    @property
    def delta_indices(self) -> dict[str, list[int]]:
        """The windows of items: offsets in frames, per feature that has any."""
        windows = self._selection.windows
        return {name: list(window.deltas) for name, window in windows.items() if window.deltas is not None}

    @property
    def delta_timestamps(self) -> dict[str, list[float]]:
        """The same in seconds."""
        return {name: [delta / self.fps for delta in deltas] for name, deltas in self.delta_indices.items()}

    @property
    def num_shards(self) -> int:
        """Shards of the split."""
        return int(self.manifest["splits"][self.split]["shards"])

    @property
    def absolute_to_relative_idx(self) -> None:
        """None: `meta.episodes` counts this dataset's own items, also of a selection. lerobot's later samplers ask."""

    @property
    def episodes(self) -> list[int]:
        """Numbers of the episodes that it has, ascending."""
        return self._index.episodes

    @property
    def num_episodes(self) -> int:
        """How many they are."""
        return len(self.episodes)

    @property
    def num_frames(self) -> int:
        """Windows of the selection."""
        return len(self)

    @property
    def fps(self) -> float:
        """Frames per second, as the source declares it."""
        return self.meta.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Specifications by name: dtype, shape as stored, names."""
        return self.meta.features

    @property
    def stats(self) -> dict[str, dict[str, Any]]:
        """Statistics of the train split, by feature."""
        return self.meta.stats

    def collate(self, batch: Batch, items: NDArray[np.int64], *, seeds: tuple[int, int]) -> dict[str, Any]:
        """A filled batch as `default_collate` would make it of its items, image transforms included.

        Args:
            batch: Filled.
            items: (B,) numbers of its items.
            seeds: What random transforms are seeded by, besides the item's number, so that they don't depend on what
                came before. torch's own state is as it was afterwards.
        """
        tensors = batch.tensors(self._selection)
        if self.image_transforms is None:
            return tensors
        stacks: dict[str, list[torch.Tensor]] = {window.feature.name: [] for window in self._selection.cameras}
        with torch.random.fork_rng(devices=[]):
            for place, number in enumerate(items.tolist()):
                torch.manual_seed(int.from_bytes(order_key("transforms", *seeds, number), "big") >> 1)
                for name, stack in stacks.items():
                    stack.append(self.image_transforms(tensors[name][place]))
        return tensors | {name: torch.stack(stack) for name, stack in stacks.items()}

    def _transformed(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.image_transforms is not None:
            for window in self._selection.cameras:
                item[window.feature.name] = self.image_transforms(item[window.feature.name])
        return item

    def locate(self, items: NDArray[np.int64]) -> Located:
        """Says where items lie: what `reader` fetches by.

        Args:
            items: (G,) numbers of windows.
        """
        return self._index.locate(items)

    def open_shards(self, located: Located) -> None:
        """Makes ready what items need that lie far away, before threads ask for them one by one."""
        self._index.open_shards(located)

    def expect_shards(self, shards: Sequence[int]) -> None:
        """Says which shards are read next, in this order; of none, that they are read in no order."""
        self._ranges.expect(self._index.tar_files(shards))

    @property
    def window_pixels(self) -> int:
        """Pixels of all images of a window."""
        return sum(window.num_slots * math.prod(window.feature.shape[:2]) for window in self._selection.cameras)

    @property
    def epoch_size(self) -> int:
        """Windows of an epoch: each of them once."""
        return len(self)

    def epoch_order(self, order: Order, *, seed: int, epoch: int, shuffle: bool) -> Order:
        """The windows of an epoch, in an order: the order itself, which has each of them once."""
        del seed, epoch, shuffle
        return order

    def arranged(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items of a batch in the order in which they are read best: as they are."""
        return items

    def item_facts(self) -> dict[str, Any]:
        """What items must have in common to stack with one another, by what to call it in messages."""
        windows = self._selection.windows
        return {
            "fps": self.fps,
            **{f"the feature {name}": _described(window) for name, window in windows.items()},
            **{f"the text {name}": "there" for name in self._selection.item_format.text_features},
            "return_uint8": self._reading["return_uint8"],
            "image_transforms": self.image_transforms,
        }

    def storage_order(self) -> StorageOrder:
        """The windows in the order in which they lie in the shards."""
        return self._index.storage_order()

    def identity(self) -> dict[str, Any]:
        """What a saved position belongs to: plain JSON."""
        return {"dataset": self.manifest["plan"], "split": self.split, "items": len(self)}


def window_number(index: int, num_windows: int) -> int:
    """The number of a window by its index: a negative one counts from the end.

    >>> window_number(2, 10), window_number(-1, 10)
    (2, 9)

    Raises:
        IndexError: there is no such window.
    """
    number = operator.index(index)
    if not -num_windows <= number < num_windows:
        raise IndexError(f"Index {number} is out of range: there are {num_windows} windows.")
    return number % num_windows


def _described(window: FeatureWindow) -> str:
    """Kind, dtype, shape and deltas of a feature, for a comparison and for a person."""
    feature = window.feature
    deltas = "without deltas" if window.deltas is None else f"at the deltas {compact(window.deltas)}"
    return f"{feature.kind} {feature.dtype} {feature.shape} {deltas}"
