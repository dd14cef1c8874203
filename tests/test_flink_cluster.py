"""Which processes belong to a cluster, and that all of them are stopped; tests/runners has it for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = str(Path(__file__).parent.parent / "scripts/flink-cluster")
MARK = "PREDECODE_FLINK_MEMBER"

Start = Callable[..., subprocess.Popen[bytes]]


def call(action: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, action, f"--folder={folder}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def start() -> Iterator[Start]:
    """Gives a function that starts a process that bears a cluster's mark."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, role: str, *command: str, is_server: bool = False) -> subprocess.Popen[bytes]:
        environment = os.environ | {MARK: f"{folder}:{role}"}
        started.append(subprocess.Popen(command or ("sleep", "600"), env=environment, start_new_session=is_server))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_every_process_is_stopped_also_one_that_does_not_listen(start: Start, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    server = start(tmp_path, "taskmanager-1", is_server=True)
    worker = start(tmp_path, "taskmanager-1", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    others = start(Path(f"{tmp_path}-other"), "taskmanager-1")
    shown = call("status", tmp_path)
    assert shown.returncode == 1
    assert f"{server.pid} taskmanager-1\n" in shown.stdout
    assert f"{worker.pid} taskmanager-1: Python worker\n" in shown.stdout
    assert str(others.pid) not in shown.stdout
    stopped = call("down", tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    assert server.wait(timeout=10)
    assert worker.wait(timeout=10)
    assert others.poll() is None
    assert not (tmp_path / "tmp").exists()


def test_nothing_runs(tmp_path: Path) -> None:
    assert call("down", tmp_path).returncode == 0
    shown = call("status", tmp_path)
    assert shown.returncode == 1
    assert shown.stdout == f"No cluster runs in {tmp_path}\n"


def test_what_it_needs_is_named(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": "/nowhere"}
    command = [sys.executable, PROGRAM, "up", f"--folder={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "flink-cluster: javac is not installed. On Debian and Ubuntu: apt-get install default-jdk-headless\n"
    )
