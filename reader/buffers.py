"""Memory for batches, used again once nobody holds a tensor of the batch any more.

Fresh pages cost as much as filling them: the kernel clears each one. A batch's memory comes back by itself when the
last tensor that shares it is gone, so that nothing that a user keeps is ever overwritten.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray


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
        """Gives memory with any content; it is the caller's until the array and all its views are gone."""
        with self._lock:
            fitting = [buffer for buffer in self._free if len(buffer) >= num_bytes]
            memory = min(fitting, key=len) if fitting else None
            if memory is not None:
                self._free = [buffer for buffer in self._free if buffer is not memory]
        if memory is None:
            memory = np.empty(num_bytes, np.uint8)
        # Views refer to `lent`, never to what lies behind it: its end is the end of the last of them.
        lent = np.frombuffer(memory.data[:num_bytes], np.uint8)
        weakref.finalize(lent, self._give_back, memory)
        return lent

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            if len(self._free) < self._max_kept:
                self._free.append(memory)
