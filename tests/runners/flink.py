"""A running Flink cluster as tests use it: what a job needs to get there, what it did, and how to kill its parts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[2] / "scripts/flink-cluster"

CACHE_MILLISECONDS = 4_000
"""Workers are kept from stage to stage, but not from one attempt to the next: one that died would be kept, too."""


@dataclass(frozen=True)
class Member:
    """A process of the cluster.

    Attributes:
        process: Its id.
        role: "jobmanager", "taskmanager-1", ..., "jobserver".
        is_worker: Whether it is a Python worker, started by the role's process.
    """

    process: int
    role: str
    is_worker: bool

    def kill(self) -> None:
        """At once, without a chance to clean up."""
        os.kill(self.process, signal.SIGKILL)


@dataclass(frozen=True)
class LongJob:
    """A job that can be killed while it works.

    Attributes:
        source: Its dataset.
        options: Of the command line.
        num_shards: What it writes.
        tree: The checksum of each file of its output.
    """

    source: Path
    options: Sequence[str]
    num_shards: int
    tree: Mapping[str, str]


class FlinkCluster:
    """The cluster in a folder, as `scripts/flink-cluster` brought it up."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._settings = json.loads(Path(folder, "cluster.json").read_text())

    @property
    def flags(self) -> list[str]:
        """Beam's options of a job that runs here on all slots."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self._settings['job_port']}",
            f"--artifact_endpoint=localhost:{self._settings['artifact_port']}",
            "--environment_type=PROCESS",
            f"--environment_cache_millis={CACHE_MILLISECONDS}",
            f"--parallelism={self._settings['taskmanagers'] * self._settings['slots']}",
        ]

    def start(self, source: Path, output: Path, *options: str) -> subprocess.Popen[str]:
        """Starts the command line; its output is kept."""
        command = [sys.executable, "-m", "predecode.pipeline", "materialize", str(source), str(output)]
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *options, *self.flags], stdout=pipe, stderr=pipe, text=True)

    def run(self, source: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line to its end."""
        with self.start(source, output, *options) as client:
            return finish(client)

    def members(self) -> list[Member]:
        """All of its processes."""
        lines = self._call("status", may_fail=True).splitlines()
        words = [line.split(maxsplit=1) for line in lines if line.split()[0].isdigit()]
        return [Member(int(number), name.split(":")[0], name.endswith("worker")) for number, name in words]

    def member(self, role: str, *, is_worker: bool = False) -> Member:
        """One of its processes."""
        return next(one for one in self.members() if one.role == role and one.is_worker == is_worker)

    def workers(self) -> list[Member]:
        """Its Python workers."""
        return [one for one in self.members() if one.is_worker]

    def wait_until_gone(self, killed: Sequence[Member], seconds: float = 120) -> None:
        """Waits until none of some processes is there."""
        deadline = time.monotonic() + seconds
        while left := set(killed).intersection(self.members()):
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.2)

    def repair(self) -> None:
        """Starts what was killed."""
        self._call("up")

    def last_job(self) -> dict[str, Any]:
        """What Flink says of the job that was started last: its state, and how often it failed."""
        job = max(self._rest("/jobs/overview")["jobs"], key=lambda job: job["start-time"])
        failures = self._rest(f"/jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"]
        return {"state": job["state"], "failures": len(failures)}

    def wait_for_failures(self, number: int, seconds: float = 120) -> None:
        """Waits until the job that was started last has failed so often."""
        deadline = time.monotonic() + seconds
        while self._rest("/overview")["jobs-running"] == 0 or self.last_job()["failures"] < number:
            assert time.monotonic() < deadline, f"the job failed {self.last_job()['failures']} times"
            time.sleep(0.2)

    def wait_until_idle(self, seconds: float = 120) -> None:
        """Waits until no job is running."""
        deadline = time.monotonic() + seconds
        while self._rest("/overview")["jobs-running"]:
            assert time.monotonic() < deadline, "a job runs on"
            time.sleep(0.2)

    def wait_for_free_slots(self, seconds: float = 120) -> None:
        """Waits until all TaskManagers have come to the JobManager and have nothing to do."""
        wanted = self._settings["taskmanagers"] * self._settings["slots"]
        deadline = time.monotonic() + seconds
        while (free := self._rest("/overview")["slots-available"]) < wanted:
            assert time.monotonic() < deadline, f"{free} of {wanted} slots are free"
            time.sleep(0.2)

    def _rest(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://localhost:{self._settings['rest_port']}{path}", timeout=30) as answer:
            return json.load(answer)

    def _call(self, action: str, *, may_fail: bool = False) -> str:
        options: Sequence[str] = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        called = subprocess.run(
            [sys.executable, PROGRAM, action, *options], capture_output=True, text=True, check=False
        )
        assert may_fail or called.returncode == 0, called.stderr
        return called.stdout


@contextlib.contextmanager
def frozen(members: Sequence[Member]) -> Iterator[None]:
    """Processes that live and do nothing until the `with` block ends."""
    for member in members:
        os.kill(member.process, signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.process, signal.SIGCONT)


def finish(client: subprocess.Popen[str], seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Waits for a client."""
    try:
        out, err = client.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        client.kill()
        out, err = client.communicate()
        raise AssertionError(f"the client did not end within {seconds} s:\n{out}{err}") from None
    return subprocess.CompletedProcess(client.args, client.returncode, out, err)
