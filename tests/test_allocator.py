"""Freed memory stays with the process, and threads share heaps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PIECES = """
import ctypes
import resource

PR_SET_THP_DISABLE = 41  # Huge pages would hide how many pages are cleared.
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

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

THREADS = """
import ctypes
import threading

def work(barrier):
    pieces = [bytearray(100_000) for _ in range(4)]
    barrier.wait()

barrier = threading.Barrier(8)
threads = [threading.Thread(target=work, args=(barrier,)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told anything")


def _run(program: str) -> str:
    command = [sys.executable, "-c", program]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout


def _page_faults(program: str) -> int:
    return int(_run(program))


def test_pieces_of_megabytes_are_not_cleared_again() -> None:
    keeping = "from predecode.transforms.allocator import keep_freed_memory\nkeep_freed_memory()\n"
    assert _page_faults(PIECES) > 40_000, "Each of 10 times 32 MiB comes from the kernel: is it still needed?"
    assert _page_faults(keeping + PIECES) < 1_000


def test_threads_share_two_heaps() -> None:
    sharing = "from predecode.transforms.allocator import share_heaps\nshare_heaps()\n"
    assert _run(THREADS).count("<heap nr=") > 2
    assert _run(sharing + THREADS).count("<heap nr=") == 2
