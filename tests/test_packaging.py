"""The built wheel works by itself, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "reader", "transforms")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: the build leaves folders behind, and must not pick up what an earlier one left."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    lines = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True).stdout
    return source / lines.split()[-1]


def run_installed(wheel: Path, folder: Path, *arguments: str) -> str:
    """Runs Python with the wheel's content and its dependencies, and without the checkout."""
    installed = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    # With -S nothing reads the .pth files by which an editable install makes the checkout importable.
    path = os.pathsep.join((str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    command = [sys.executable, "-S", *arguments]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    expected = {f"predecode/{path.relative_to(ROOT)}" for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert {f"predecode/{package}/py.typed" for package in PACKAGES} <= expected


def test_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/", 1)[-1]: name for name in archive.namelist() if ".dist-info/" in name}
        metadata = message_from_bytes(archive.read(names["METADATA"]))
        entry_points = archive.read(names["entry_points.txt"]).decode()
    assert (metadata["Name"], metadata["Requires-Python"]) == ("predecode", ">=3.11")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "licenses/LICENSE" in names
    assert "predecode = predecode.pipeline.__main__:run" in entry_points


def test_wheel_is_imported_from_where_it_was_installed(wheel: Path, tmp_path: Path) -> None:
    modules = "predecode.transforms.features as a, predecode.transforms.sources.base as b"
    code = f"import {modules}; print(a.__file__, b.__file__)"
    for file in run_installed(wheel, tmp_path, "-c", code).split():
        assert Path(file).is_relative_to(tmp_path / "installed")


def test_wheel_has_the_command_line(wheel: Path, tmp_path: Path) -> None:
    assert "materialize" in run_installed(wheel, tmp_path, "-m", "predecode.pipeline", "--help")
