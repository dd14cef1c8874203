"""Memory for batches, used again once nobody holds a tensor of the batch any more.

Fresh pages cost as much as filling them: the kernel clears each one. A batch's memory comes back by itself when the
last tensor that shares it is gone, so that nothing that a user keeps is ever overwritten.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 32
"""What begins at a multiple of it, counted from the beginning of some memory, is as well placed as that is."""

_OFFSET = 16


def room_for_images(num_bytes: int) -> NDArray[np.uint8]:
    """New memory, with any content, that images are decoded into fast.

    Rows that begin at multiples of 32 bytes are what libjpeg-turbo writes past the caches: that takes a third longer
    (224x224, measured on an AMD EPYC). So memory begins at an odd multiple of 16.
    """
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = (_OFFSET - memory.ctypes.data) % ALIGNMENT
    return memory[start : start + num_bytes]


def pinned_room(num_bytes: int) -> torch.Tensor:
    """The same in page-locked memory, which CUDA copies from while the program goes on.

    It is torch's own, and the tensor must be of it: torch keeps such memory until a copy that was begun is over.
    """
    memory = torch.empty(num_bytes + ALIGNMENT, dtype=torch.uint8, pin_memory=True)
    start = (_OFFSET - memory.data_ptr()) % ALIGNMENT
    return memory[start : start + num_bytes]


class BufferPool:
    """Hands out memory; thread-safe."""

    def __init__(self, *, max_kept: int) -> None:
        """Makes an empty pool.

        Args:
            max_kept: Buffers that are kept for later while nobody uses them.
        """
        self._max_kept = max_kept
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """Gives memory as `room_for_images` does; it is the caller's until the array and all its views are gone."""
        with self._lock:
            fitting = [buffer for buffer in self._free if len(buffer) >= num_bytes]
            memory = min(fitting, key=len) if fitting else None
            if memory is not None:
                self._free = [buffer for buffer in self._free if buffer is not memory]
        if memory is None:
            memory = room_for_images(num_bytes)
        # Views refer to `lent`, never to what lies behind it: its end is the end of the last of them.
        lent = np.frombuffer(memory.data[:num_bytes], np.uint8)
        weakref.finalize(lent, self._give_back, memory)
        return lent

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            if len(self._free) < self._max_kept:
                self._free.append(memory)
