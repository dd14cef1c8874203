"""`WindowLoader`: batches of shuffled windows by threads in one process, with an exact position."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice, pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from predecode.reader.batch import Batch
from predecode.reader.dataset import WindowDataset
from predecode.reader.dealing import Deal, Tail
from predecode.reader.decoding_threads import default_num_threads
from predecode.reader.mixed import MixedWindows
from predecode.reader.permutation import Identity, Order, Permutation
from predecode.reader.quick_turns import quick_turns
from predecode.reader.skipping import Damaged, OnError, Skipped, Skipping
from predecode.reader.windowed import StorageOrder, WindowedShuffle
from predecode.transforms.errors import UsageError

_STATE_VERSION = 1
_MIN_PART = 16
_FOUND_AT_ONCE = 1024
_FETCHERS = 16
"""Threads that wait for the bytes of far batches: those that are ahead, in parts, beside the threads that decode."""


class WindowLoader:
    """Iterates over a dataset in batches, as often as wanted: each pass is the next epoch.

    Every (seed, epoch) has its own true permutation of all windows, computed, not buffered. Threads decode straight
    into the batch: image codecs let other threads run, so that no worker process, queue or copy stands between shard
    and batch.
    """

    def __init__(
        self,
        dataset: WindowDataset | MixedWindows,
        batch_size: int,
        *,
        shuffle: bool | Literal["windowed"] = True,
        window_shards: int = 16,
        seed: int = 0,
        drop_last: bool = False,
        num_threads: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        tail: Tail | None = None,
        prefetch_batches: int = 2,
        device: torch.device | str | None = None,
        pin_memory: bool | None = None,
        on_error: OnError = "raise",
        max_skipped: int | None = None,
    ) -> None:
        """Prepares; the first batch is fetched when iteration begins.

        Args:
            dataset: What to read; several outputs as `MixedWindows`.
            batch_size: Windows a batch, of each rank.
            shuffle: True: a true permutation of all windows. "windowed": a permutation within a few shards at a time,
                for bytes that are far away. False: the dataset's order.
            window_shards: How many shards that is.
            seed: Of the orders, and of random image transforms.
            drop_last: Whether a short last batch is left out.
            num_threads: Threads that decode. If not given: one per core, or fewer where windows are so small that more
                would be no gain; cores are shared among the ranks of a machine, as far as LOCAL_WORLD_SIZE says.
            rank: Of this process; torch.distributed's if not given, 0 without it.
            world_size: How many processes read together; likewise.
            tail: "exact": each window once an epoch, ranks may differ by a batch. "even": all ranks get the same number
                of batches, as all-reduce needs it, and a few windows are left out, others in each epoch. "even" with
                several ranks if not given, else "exact".
            prefetch_batches: Batches that are decoded ahead.
            device: Where tensors are moved to, without waiting for it; not moved if not given.
            pin_memory: Whether batches lie in page-locked memory, as far as there is CUDA: images are decoded straight
                into it. If not given, where `device` is CUDA's.
            on_error: "raise": a damaged window ends the pass. "skip": it is left out, so that its batch is shorter. One
                rank leaves out a batch of which nothing is left; with several it ends the pass, since the others would
                wait.
            max_skipped: How many windows of an epoch each rank may skip; more end the pass. 16 and one in a hundred of
                its own if not given.

        Raises:
            UsageError: a number outside its range.
        """
        self._dataset = dataset
        rank, world_size = rank_and_world_size(rank, world_size)
        self._dealing: dict[str, Any] = {
            "num_items": dataset.epoch_size,
            "batch_size": batch_size,
            "rank": rank,
            "world_size": world_size,
            "tail": tail or ("even" if world_size > 1 else "exact"),
            "drop_last": drop_last,
        }
        Deal(**self._dealing)
        self._skipping = Skipping(on_error, max_skipped, num_windows=dataset.epoch_size, world_size=world_size)
        self._num_threads = default_num_threads(dataset.window_pixels) if num_threads is None else num_threads
        if self._num_threads < 1 or prefetch_batches < 0:
            raise UsageError(
                f"Expected at least one thread and no negative number of batches ahead, got {num_threads} and "
                f"{prefetch_batches}."
            )
        if shuffle not in (True, False, "windowed"):
            raise UsageError(f"Expected as shuffle True, False or 'windowed', got {shuffle!r}.")
        self._shuffle = shuffle
        self._window_shards = window_shards
        self._seed = seed
        self._num_ahead = prefetch_batches
        self._device = None if device is None else torch.device(device)
        wants_pinned = self._device is not None and self._device.type == "cuda" if pin_memory is None else pin_memory
        self._is_pinned = wants_pinned and torch.cuda.is_available()
        self._next = (0, 0)  # Epoch and position that the next pass begins with.
        self._reached = (0, 0)
        self._expected: tuple[int, int] | None = None  # Epoch and start of the window whose shards are made ready.

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, those that may be skipped included."""
        return Deal(**self._dealing).num_batches()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches of the next epoch, or of what is left of one: dicts of tensors (B, ...) and lists of strings.

        Raises:
            FormatError: what is read is not what was written, and is not to be skipped, or too much of it.
            OSError: storage fails.
        """
        epoch, position = self._next
        self._next = (epoch + 1, 0)
        self._reached = (epoch, position)
        self._skipping.begin(epoch)
        deal = Deal(**self._dealing, first_position=position)
        order = self._order(epoch)
        self._expected = None
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="windows")
        fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="bytes") if self._dataset.is_far else None
        if self._shuffle != "windowed":
            self._dataset.expect_shards([])
        with quick_turns():
            try:
                for number, (batch, items) in enumerate(self._filled(pool, fetchers, deal, order, epoch)):
                    if not len(items):  # All of it was skipped.
                        continue
                    tensors = self._moved(self._dataset.collate(batch, items, seeds=(self._seed, epoch)))
                    reached = deal.position_after(number + 1)
                    self._reached = (epoch, reached) if reached < self._dataset.epoch_size else (epoch + 1, 0)
                    yield tensors
                self._reached = self._next
                self._skipping.end()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                if fetchers is not None:
                    fetchers.shutdown(wait=False, cancel_futures=True)

    def _order(self, epoch: int) -> Order:
        if self._shuffle == "windowed":
            return WindowedShuffle(self._storage_order, seed=self._seed, epoch=epoch, window_shards=self._window_shards)
        size = self._dataset.epoch_size
        order = Permutation(size, seed=self._seed, epoch=epoch) if self._shuffle else Identity(size)
        return self._dataset.epoch_order(order, seed=self._seed, epoch=epoch, shuffle=bool(self._shuffle))

    @functools.cached_property
    def _storage_order(self) -> StorageOrder:
        return self._dataset.storage_order()

    @property
    def skipped(self) -> Skipped:
        """What the last pass left out."""
        return self._skipping.skipped

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of an epoch."""
        self._next = self._reached = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where iteration is, after the last batch that was given out: a small dict of plain JSON values."""
        epoch, position = self._reached
        return {
            "version": _STATE_VERSION,
            **self._dataset.identity(),
            "shuffle": self._shuffle,
            "window_shards": self._window_shards if self._shuffle == "windowed" else None,
            "seed": self._seed,
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass go on where another loader was, also with another number of ranks.

        Raises:
            UsageError: the state is of another dataset, split, selection or seed.
        """
        expected = {**self.state_dict(), "epoch": state.get("epoch"), "position": state.get("position")}
        if different := [key for key, value in expected.items() if state.get(key) != value]:
            details = ", ".join(f"{key} is {state.get(key)!r}, here {expected[key]!r}" for key in different)
            raise UsageError(f"The state belongs to another loader: {details}. Make the loader as that one was made.")
        epoch, position = state["epoch"], state["position"]
        sound = type(epoch) is type(position) is int and epoch >= 0 and 0 <= position <= self._dataset.epoch_size
        if not sound:
            raise UsageError(
                f"The state is damaged: expected an epoch and a position in it, got {epoch!r}, {position!r}."
            )
        self._next = self._reached = (epoch, position)

    def _filled(
        self, pool: ThreadPoolExecutor, fetchers: ThreadPoolExecutor | None, deal: Deal, order: Order, epoch: int
    ) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """Batches in order, each when all of it is there; the next ones are being filled meanwhile."""
        reader, skipping = self._dataset.reader, self._skipping
        ahead: deque[tuple[Batch, NDArray[np.int64], list[Future[list[Damaged]]]]] = deque()
        found = self._found(deal, order, epoch)
        while True:
            while len(ahead) <= self._num_ahead and (one := next(found, None)) is not None:
                items, places = one
                self._dataset.open_shards(places)
                batch = reader.allocate(len(items), pinned=self._is_pinned)
                num_parts = self._num_parts(len(items), is_first=not ahead)
                bounds = [len(items) * part // num_parts for part in range(num_parts + 1)]
                tasks = []
                for start, stop in pairwise(bounds):
                    part = places[start:stop]
                    fetching = fetchers.submit(reader.fetch, part) if fetchers is not None else None
                    tasks.append(pool.submit(skipping.fill, reader, batch, start, part, fetching))
                ahead.append((batch, items, tasks))
            if not ahead:
                return
            batch, items, tasks = ahead.popleft()
            yield skipping.without(batch, items, [damaged for task in tasks for damaged in task.result()])

    def _found(self, deal: Deal, order: Order, epoch: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Per batch its items, and where they lie as the dataset's `locate` says.

        They are found for many batches at once: for one it costs nearly as much.
        """
        batches = deal.batches()
        while block := list(islice(batches, max(1, _FOUND_AT_ONCE // self._dealing["batch_size"]))):
            items = order(np.concatenate([np.arange(*positions) for positions in block]))
            stops = list(accumulate(stop - start for start, stop in block))
            parts = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
            items = np.concatenate([self._dataset.arranged(items[part]) for part in parts])
            located = self._dataset.locate(items)
            for part, (start, _) in zip(parts, block, strict=True):
                if isinstance(order, WindowedShuffle):
                    self._expect_windows(order, start, epoch)
                yield items[part], located[part]

    def _expect_windows(self, order: WindowedShuffle, position: int, epoch: int) -> None:
        """Has the shards of a position's window and of the next one made ready, when a window begins."""
        window = order.window_at(position)
        if self._expected == (epoch, window.start):
            return
        self._expected = (epoch, window.start)
        later = order if window.stop < len(order) else self._order(epoch + 1)
        assert isinstance(later, WindowedShuffle)
        self._dataset.expect_shards([*window.shards, *later.window_at(window.stop % len(order)).shards])

    def _num_parts(self, num_items: int, *, is_first: bool) -> int:
        """Tasks to make of a batch: handing one over costs as much as half an image, and so do its first steps.

        The first batch is waited for: all threads have a part of it. Later there are others to work on.
        """
        needed = self._num_threads if is_first else -(-self._num_threads // (1 + self._num_ahead))
        return min(max(needed, num_items // _MIN_PART), self._num_threads, num_items)

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._is_pinned:  # Images are already.
            batch = {key: value.pin_memory() if torch.is_tensor(value) else value for key, value in batch.items()}
        if self._device is None:
            return batch
        return {
            key: value.to(self._device, non_blocking=True) if torch.is_tensor(value) else value
            for key, value in batch.items()
        }


def rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Those given, else those of torch.distributed, else 0 and 1.

    Raises:
        UsageError: only one of them is given.
    """
    if (rank is None) != (world_size is None):
        raise UsageError(f"Give rank and world_size, or neither: got {rank} and {world_size}.")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
