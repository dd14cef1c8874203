"""A remote file that is read by ranges, block by block, with a bounded cache: no whole download for a few frames."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable

BLOCK_BYTES = 1 << 20
"""What one request gets at least: less costs a request over a network nearly as much time."""

_MAX_BLOCKS_AT_ONCE = 8
_KEPT_BLOCKS = 8


class FarFile(io.RawIOBase):
    """For one thread. Where blocks are asked for one after the other, several are fetched at once."""

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int) -> None:
        """Reads nothing yet.

        Args:
            fetch: Gives the bytes of a half-open range, all of them.
            size_bytes: Of the file.
        """
        super().__init__()
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block = -1
        self._at_once = 1

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where reading goes on."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Where reading goes on from now."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"expected a position of 0 or more, got {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes, unless the file ends before: never fewer for another reason."""
        is_all = size is None or size < 0
        stop = self._size_bytes if is_all else min(self._position + (size or 0), self._size_bytes)
        parts = []
        while self._position < stop:
            number, start = divmod(self._position, BLOCK_BYTES)
            part = self._block(number)[start : start + stop - self._position]
            parts.append(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override] # mypy wants any buffer.
        """Fills a buffer, unless the file ends before."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Forgets what was read."""
        self._blocks.clear()
        super().close()

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        goes_on = number == self._next_block
        self._at_once = min(2 * self._at_once, _MAX_BLOCKS_AT_ONCE) if goes_on else 1
        start = number * BLOCK_BYTES
        content = self._fetch(start, min(start + self._at_once * BLOCK_BYTES, self._size_bytes))
        for place in range(0, len(content), BLOCK_BYTES):
            self._blocks[number + place // BLOCK_BYTES] = content[place : place + BLOCK_BYTES]
        self._next_block = number + self._at_once
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]
