"""What all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

DATA_DIR = Path(__file__).parent / "data"
LEROBOT_PYTHON = "PREDECODE_LEROBOT_PYTHON"
NO_SKIP = "PREDECODE_NO_SKIP"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Small datasets written by lerobot itself, and `goldens` of what lerobot reads from them; never written to."""
    return DATA_DIR


@pytest.fixture
def copy_dataset(tmp_path: Path) -> Callable[[str], Path]:
    """Gives a function that copies a bundled dataset, by name, so that a test can change the copy."""
    return lambda name: Path(shutil.copytree(DATA_DIR / name, tmp_path / name))


@pytest.fixture(scope="session")
def lerobot_python() -> Path:
    """The Python interpreter that has lerobot, for tests marked `needs_lerobot`."""
    return Path(os.environ[LEROBOT_PYTHON])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs lerobot where there is none: its dependencies do not fit into the project's own environment."""
    if item.get_closest_marker("needs_lerobot") and not os.environ.get(LEROBOT_PYTHON):
        pytest.skip(f"set {LEROBOT_PYTHON} to a Python interpreter that has lerobot 0.4.4, as .ci/run does")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be left out, a skipped test has failed."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where nothing may be left out, a skipped module has failed."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure if asked to; an expected failure also calls itself skipped, and stays."""
    if os.environ.get(NO_SKIP) and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"Skipped, where {NO_SKIP} forbids it: {report.longreprtext}"
