from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

_KEPT = """
import gc, sys
from predecode.pipeline.quick_start import kept_for_good
with kept_for_good():
    assert not gc.isenabled()
    import apache_beam
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
gc.unfreeze()
with kept_for_good():
    assert gc.isenabled()
print(gc.get_freeze_count())
"""


def test_what_is_imported_is_kept_for_good_once() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True True", "0"]


_ENDING = """
import atexit, sys, threading, time
from predecode.pipeline.quick_start import run_to_end
class Module:
    def __del__(self):
        print("taken apart")
module = Module()
def wait():
    time.sleep(0.2)
    print("thread")
def main():
    atexit.register(print, "exit handler")
    threading.Thread(target=wait).start()
    print("main")
    return 7
"""


def _end(main: str, output: int | TextIO = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{_ENDING}run_to_end({main})"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(command, check=False, stdout=output, stderr=subprocess.PIPE, text=True, env=buffered)


def test_a_process_ends_with_all_that_it_owes_and_nothing_else() -> None:
    done = _end("main")
    assert done.stdout.split("\n") == ["main", "thread", "exit handler", ""]
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(
    ("main", "status", "said"),
    [
        ("lambda: sys.exit(3)", 3, ""),
        ("lambda: 1 // 0", 1, "ZeroDivisionError"),
        ("lambda: setattr(sys, 'stdout', None) or 4", 4, ""),
    ],
)
def test_an_end_that_is_not_as_it_should_be_is_left_to_python(main: str, status: int, said: str) -> None:
    done = _end(main)
    assert done.returncode == status
    assert said in done.stderr


def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = _end("lambda: print('lost') or 0", full)
    assert done.returncode == 120
    assert "No space left on device" in done.stderr
