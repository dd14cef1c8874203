"""Ctrl-C, as a real SIGINT in a real process: one clear message, and an output that the next run completes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, main
from predecode.pipeline.interrupts import Interrupts
from tests.pipeline.running import run, run_killed, tree

NUM_SHARDS = 16
OPTIONS = ("--episodes", "0:2", "--no-progress", "--direct_num_workers=2")
STOPPING = "Stopping: what is in work is finished, which can take some seconds. Ctrl-C again leaves at once.\n"
GO_ON = "Run the same command again to go on.\n"


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("interrupts") / "out"
    run(data_dir / "pusht_v30", output, episodes="0:2")
    return tree(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("after:plan.json:1", f"shards are committed in OUTPUT. {GO_ON}"),
        ("after:train/shard-00002.json:1", f"of {NUM_SHARDS} shards are committed in OUTPUT. {GO_ON}"),
        ("before:manifest.json:1", f"Stopped: {NUM_SHARDS} of {NUM_SHARDS} shards are committed in OUTPUT. {GO_ON}"),
    ],
)
def test_once_ends_the_job_in_order(
    moment: str, said: str, data_dir: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    output = tmp_path / "out"
    command = ["materialize", str(data_dir / "pusht_v30"), str(output), *OPTIONS]
    stopped = run_killed(f"{moment}:SIGINT", command)
    assert stopped.returncode == EXIT_FAILED
    assert stopped.stdout == ""
    assert stopped.stderr.startswith("\n" + STOPPING)
    assert stopped.stderr.endswith(said.replace("OUTPUT", str(output)))
    assert stopped.stderr.count("\n") == 3
    assert not (output / "manifest.json").exists()
    assert not list(output.rglob("*.tmp-*"))
    assert main(command) == EXIT_DONE
    assert tree(output) == reference


@pytest.mark.slow
def test_twice_leaves_at_once(data_dir: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    output = tmp_path / "out"
    command = ["materialize", str(data_dir / "pusht_v30"), str(output), *OPTIONS]
    stopped = run_killed("before:train/shard-00003.tar:1:SIGINT+SIGINT", command)
    assert stopped.returncode == EXIT_FAILED
    assert stopped.stderr.splitlines()[1:] == [
        STOPPING.strip(),
        "",
        "Left at once. What is committed is kept: run the same command again to go on.",
    ]
    assert list(output.rglob("*.tmp-*")), "the shard in work was left as it was"
    assert main(command) == EXIT_DONE
    assert tree(output) == reference


def test_what_is_to_be_ignored_stays_ignored() -> None:
    """As for a job that a script has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(EXIT_FAILED) as interrupts:
            signal.raise_signal(signal.SIGINT)
        assert not interrupts.happened
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background ignores it.
sys.meta_path.insert(0, Interrupting())
from predecode.pipeline.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("library", "end"),
    [
        ("imagecodecs", "Stopped.\n"),  # Imported before the arguments are understood,
        ("safetensors", f"Stopped before the first shard. {GO_ON}"),  # with the job,
        ("torchcodec", f"Stopped before the first shard. {GO_ON}"),  # when the job begins.
    ],
)
def test_while_libraries_are_imported(library: str, end: str, data_dir: Path, tmp_path: Path) -> None:
    command = ["materialize", str(data_dir / "pusht_v30"), str(tmp_path / "out")]
    program = [sys.executable, "-c", INTERRUPTED_IMPORT, library, *command]
    stopped = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert stopped.returncode == EXIT_FAILED
    assert stopped.stderr == f"\n{STOPPING}{end}"
