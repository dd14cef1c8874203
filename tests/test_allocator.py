"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PIECES = """
import resource

def work():
    pieces = [bytearray(8 << 20) for _ in range(4)]
    for piece in pieces:
        piece[::4096] = bytes(len(piece) // 4096)

for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(program: str) -> int:
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told anything")
def test_pieces_of_megabytes_are_not_cleared_again() -> None:
    keeping = "from predecode.transforms.allocator import keep_freed_memory\nkeep_freed_memory()\n"
    assert _page_faults(PIECES) > 40_000, "Each of 10 times 32 MiB comes from the kernel: is it still needed?"
    assert _page_faults(keeping + PIECES) < 1_000
