"""What docs/windows.md says, tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from predecode.pipeline.cli import main
from predecode.reader import WindowDataset
from tests.documents import ROOT, commands


@pytest.fixture
def folder(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a dataset where the pages have it."""
    (tmp_path / "path/to").mkdir(parents=True)
    os.symlink(data_dir / "pusht_images_v30", tmp_path / "path/to/dataset")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_windows_are_as_the_picture_shows(folder: Path) -> None:
    ((_, *command),) = commands("docs/windows.md")
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
