"""What docs/windows.md and docs/verify.md say, tried."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from predecode.pipeline.cli import main
from predecode.reader import WindowDataset
from tests.reader.conftest import Materialized

ROOT = Path(__file__).parent.parent.parent


def commands(page: str) -> list[list[str]]:
    """The commands of a page's code blocks, as a shell would split them."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("predecode ")]


@pytest.fixture
def folder(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a dataset where the pages have it."""
    (tmp_path / "path/to").mkdir(parents=True)
    os.symlink(data_dir / "pusht_images_v30", tmp_path / "path/to/dataset")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_windows_are_as_the_picture_shows(folder: Path) -> None:
    ((*command,),) = commands("windows.md")
    assert main([*command, "--no-progress"]) == 0
    windows = WindowDataset(folder / "out/windows")
    first, late = windows[0], windows[windows.meta.episodes["dataset_to_index"][0] - 2]
    assert first["observation.image_is_pad"].tolist() == [True, True, False]
    assert first["observation.image"].shape == (3, 3, 96, 96)
    assert (first["observation.image"][0] == first["observation.image"][2]).all()
    assert late["action_is_pad"].tolist() == [False, False, True, True]
    assert late["action"].shape == (4, 2)
    assert (late["action"][1:] == late["action"][1]).all()


def test_the_pictures_own_program_draws_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/draw_windows", tmp_path / "windows.svg"], check=True)
    assert (tmp_path / "windows.svg").read_bytes() == (ROOT / "docs/windows.svg").read_bytes()


def test_the_commands_to_verify(folder: Path, materialized: Materialized) -> None:
    (folder / "out").mkdir()
    os.symlink(materialized("pusht_images_v30", "diffusion", None), folder / "out/windows")
    found = commands("verify.md")
    assert [command[0] for command in found] == ["verify", "verify"]
    assert [main(command) for command in found] == [0, 0]
