"""The job on Prism, Beam's reference runner: the strictest of all about what a graph may do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, main
from tests import dirty
from tests.conftest import PRISM
from tests.pipeline.running import tree

pytestmark = [pytest.mark.needs_prism, pytest.mark.slow]

OPTIONS = ("--delta-indices", '{"action": [0, 1]}', "--validation-fraction=0.3")


def run(source: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own: Prism stops with its client."""
    arguments = ["materialize", str(source), str(output), *options, "--no-progress"]
    flags = ["--runner=PrismRunner", f"--prism_location={os.environ[PRISM]}"]
    command = [sys.executable, "-m", "predecode.pipeline", *arguments, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.parametrize("dataset", ["pusht_v30", "zoo_v30"])
def test_the_same_bytes_as_on_one_machine(dataset: str, data_dir: Path, tmp_path: Path) -> None:
    arguments = ["materialize", str(data_dir / dataset), str(tmp_path / "here"), *OPTIONS, "--no-progress"]
    assert main([*arguments, "--direct_num_workers=2"]) == EXIT_DONE
    there = run(data_dir / dataset, tmp_path / "there", *OPTIONS)
    assert there.returncode == EXIT_DONE, there.stderr
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def test_a_data_error_is_told_as_on_one_machine(
    copy_dataset: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_dataset("zoo_v30")
    dirty.break_image(root, "observation.img", row=26)
    assert main(["materialize", str(root), str(tmp_path / "here"), "--no-progress"]) == EXIT_FAILED
    there = run(root, tmp_path / "there")
    assert there.returncode == EXIT_FAILED
    assert there.stderr == capsys.readouterr().err
