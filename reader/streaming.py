"""`StreamingWindowDataset`: takes the place of lerobot's `StreamingLeRobotDataset` by changing one import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from predecode.reader.dataset import ImageTransforms, Pad, WindowDataset
from predecode.reader.dealing import Deal, Tail
from predecode.reader.loader import rank_and_world_size
from predecode.reader.metadata import WindowMetadata
from predecode.reader.permutation import Identity, Order, Permutation
from predecode.reader.shard_cache import DEFAULT_CACHE_BYTES
from predecode.reader.skipping import MAX_WORKERS, OnError, Skipped, Skipping
from predecode.transforms.errors import UsageError

_STATE_VERSION = 1
_MAX_SEED = 1 << 63
_FETCHED_AT_ONCE = 16


class StreamingWindowDataset(IterableDataset[dict[str, Any]]):
    """Windows one by one, each once an epoch over all ranks and DataLoader workers, in a new true shuffle every epoch.

    Every worker of every rank has an equal part of every epoch, and counts its epochs in memory that it shares with the
    workers before and after it, so that persistent workers or not makes no difference. `WindowLoader` is faster: it
    needs no worker processes.
    """

    def __init__(
        self,
        repo_id: str,
        root: str | Path | None = None,
        episodes: Sequence[int] | None = None,
        image_transforms: ImageTransforms | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        revision: str | None = None,
        force_cache_sync: bool = False,  # noqa: FBT001, FBT002 - The parameters are lerobot's.
        streaming: bool = True,  # noqa: FBT001, FBT002
        buffer_size: int = 1000,
        max_num_shards: int = 16,
        seed: int = 42,
        rng: np.random.Generator | None = None,
        shuffle: bool = True,  # noqa: FBT001, FBT002
        *,
        split: str = "train",
        return_uint8: bool = False,
        pad: Pad = "edge",
        verify: bool = True,
        on_error: OnError = "raise",
        max_skipped: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        tail: Tail = "exact",
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int | str = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Opens a materialized output.

        Args:
            repo_id: What `meta.repo_id` says; also where the output is, if `root` is not given.
            root: What `predecode materialize` wrote: a folder or an fsspec URL.
            episodes: Only these; None for all.
            image_transforms: As for `WindowDataset`.
            delta_timestamps: As for `WindowDataset`.
            tolerance_s: How far a delta may be from a multiple of 1/fps.
            revision: Accepted and not needed: an output is of one revision.
            force_cache_sync: Accepted and not needed: copies of another output are never taken.
            streaming: Accepted and not needed: nothing is loaded that is not asked for.
            buffer_size: Accepted and not needed: the shuffle has no buffer.
            max_num_shards: Accepted and not needed: work is dealt out by window, not by shard.
            seed: Of the orders.
            rng: What the seed is drawn from, once, in place of `seed`. It must be in the same state on every rank.
            shuffle: Whether each epoch has its own order; else the dataset's.
            split: "train" or "val".
            return_uint8: As for `WindowDataset`.
            pad: As for `WindowDataset`.
            verify: As for `WindowDataset`.
            on_error: "raise": a damaged window ends the pass. "skip": it is left out of the stream.
            max_skipped: How many windows of an epoch each rank may skip, over all its workers; more end the pass. 16
                and one in a hundred of its own if not given.
            rank: Of this process; torch.distributed's if not given, 0 without it.
            world_size: How many processes read together; likewise.
            tail: "exact": each window once an epoch; where they are not a multiple of all ranks' workers, some workers
                get one more. "even": all get equally many, so that all ranks get the same number of batches, as
                all-reduce needs it, and a few windows are left out, others in each epoch.
            storage_options: For fsspec.
            cache_dir: As for `WindowDataset`.
            cache_bytes: As for `WindowDataset`.

        Raises:
            FormatError: the output is incomplete, damaged, or of another format version.
            UsageError: an episode, a feature or a delta that is not there; a number outside its range.
            OSError: storage fails.
        """
        del force_cache_sync
        self.repo_id = repo_id
        self.tolerance_s = tolerance_s
        self.revision = revision
        self.streaming = streaming
        self.buffer_size = buffer_size
        self.max_num_shards = max_num_shards
        self.rng = rng
        self.seed = seed if rng is None else int(rng.integers(_MAX_SEED))
        self.shuffle = shuffle
        self.tail = tail
        self._windows = WindowDataset(
            root or repo_id,
            split=split,
            episodes=episodes,
            delta_timestamps=delta_timestamps,
            tolerance_s=tolerance_s,
            image_transforms=image_transforms,
            return_uint8=return_uint8,
            pad=pad,
            verify=verify,
            repo_id=repo_id,
            storage_options=storage_options,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
        )
        self._rank, self._world_size = rank_and_world_size(rank, world_size)
        Deal(num_items=len(self._windows), batch_size=1, rank=self._rank, world_size=self._world_size, tail=tail)
        self._skipping = Skipping(
            on_error, max_skipped, num_windows=len(self._windows), world_size=self._world_size, has_workers=True
        )
        # Per worker the epoch that its next pass is, and how many windows of it were given out already.
        self._progress = torch.zeros((MAX_WORKERS, 2), dtype=torch.int64).share_memory_()

    @property
    def meta(self) -> WindowMetadata:
        """Metadata of the output."""
        return self._windows.meta

    @property
    def root(self) -> Path | str:
        """Path of the output; its URL where it is not local."""
        return self._windows.root

    @property
    def streaming_from_local(self) -> bool:
        """Whether the output is local."""
        return isinstance(self.root, Path)

    @property
    def num_shards(self) -> int:
        """Shards of the split; work is not dealt out by them."""
        return self._windows.num_shards

    @property
    def image_transforms(self) -> ImageTransforms | None:
        """What is called once per camera and item; may be set."""
        return self._windows.image_transforms

    @image_transforms.setter
    def image_transforms(self, transforms: ImageTransforms | None) -> None:
        self._windows.image_transforms = transforms

    @property
    def delta_timestamps(self) -> dict[str, list[float]]:
        """The windows of items: offsets in seconds, per feature that has any."""
        return self._windows.delta_timestamps

    @property
    def delta_indices(self) -> dict[str, list[int]]:
        """The same in frames."""
        return self._windows.delta_indices

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self._windows.fps

    @property
    def num_frames(self) -> int:
        """Windows of the selection, over all ranks."""
        return len(self._windows)

    @property
    def num_episodes(self) -> int:
        """Episodes of the selection."""
        return self._windows.num_episodes

    @property
    def episodes(self) -> list[int]:
        """Their numbers, ascending."""
        return self._windows.episodes

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Specifications by name."""
        return self._windows.features

    @property
    def stats(self) -> dict[str, dict[str, Any]]:
        """Statistics of the train split."""
        return self._windows.stats

    @property
    def skipped(self) -> Skipped:
        """What the last pass left out; workers of a DataLoader count too, but log themselves what it was."""
        return self._skipping.skipped

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass of every worker that of an epoch."""
        self._progress[:, 0] = epoch
        self._progress[:, 1] = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """This worker's part of the next epoch, or of what is left of one.

        The pass counts from here on, also if nothing is taken of it: torchdata takes nothing where it knows that a part
        had ended before the stop.

        Raises:
            FormatError: what is read is not what was written, and is not to be skipped, or too much of it.
            OSError: storage fails.
        """
        worker, num_workers = _worker()
        epoch, taken = self._progress[worker].tolist()
        self._progress[worker] = torch.tensor([epoch + 1, 0])
        self._reached = (epoch, taken)
        self._skipping.begin(epoch, worker=worker)
        deal = Deal(
            num_items=len(self._windows),
            batch_size=1,
            rank=worker * self._world_size + self._rank,
            world_size=num_workers * self._world_size,
            tail=self.tail,
        )
        return self._part(epoch, taken, deal)

    def _part(self, epoch: int, taken: int, deal: Deal) -> Iterator[dict[str, Any]]:
        size = len(self._windows)
        order: Order = Permutation(size, seed=self.seed, epoch=epoch) if self.shuffle else Identity(size)
        for first in range(taken, deal.num_batches(), _FETCHED_AT_ONCE):
            stop = min(first + _FETCHED_AT_ONCE, deal.num_batches())
            positions = np.array([deal.batch(step)[0] for step in range(first, stop)], np.int64)
            for number, item in self._skipping.windows(self._windows.__getitems__, order(positions).tolist()):
                self._reached = (epoch, first + number + 1)
                yield item
        self._skipping.end()

    def state_dict(self) -> dict[str, Any]:
        """Where this worker is: a small dict of plain JSON values. torchdata's StatefulDataLoader gathers them."""
        epoch, taken = self.__dict__.get("_reached") or self._progress[_worker()[0]].tolist()
        return {**self._identity(), "epoch": epoch, "taken": taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes this worker's next pass go on where it was, with the same number of workers and ranks.

        Raises:
            UsageError: the state is of another dataset, split, selection, seed or number of workers.
        """
        expected = self._identity()
        if different := [key for key, value in expected.items() if state.get(key) != value]:
            details = ", ".join(f"{key} is {state.get(key)!r}, here {expected[key]!r}" for key in different)
            raise UsageError(f"The state belongs to another stream: {details}. Make the stream as that one was made.")
        self._progress[_worker()[0]] = torch.tensor([state["epoch"], state["taken"]])
        self._reached = (state["epoch"], state["taken"])

    def _identity(self) -> dict[str, Any]:
        worker, num_workers = _worker()
        return {
            "version": _STATE_VERSION,
            **self._windows.identity(),
            "shuffle": self.shuffle,
            "seed": self.seed,
            "world_size": self._world_size,
            "num_workers": num_workers,
            "worker": worker,
        }


def _worker() -> tuple[int, int]:
    """Number of this DataLoader worker, and how many there are; 0 and 1 without workers."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info is not None else (0, 1)
