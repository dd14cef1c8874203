"""What all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long something takes is no matter of tests.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

DATA_DIR = Path(__file__).parent / "data"
LEROBOT_PYTHON = "PREDECODE_LEROBOT_PYTHON"
FLINK = "PREDECODE_FLINK"
PRISM = "PREDECODE_PRISM"
DATAFLOW_PYTHON = "PREDECODE_DATAFLOW_PYTHON"
OBJECT_STORES = "PREDECODE_OBJECT_STORES"
NO_SKIP = "PREDECODE_NO_SKIP"


NEEDS = (
    ("needs_lerobot", LEROBOT_PYTHON, "a Python interpreter that has lerobot 0.4.4"),
    ("needs_flink", FLINK, "the folder of a cluster that `scripts/flink-cluster up` has brought up"),
    ("needs_prism", PRISM, "the path of Beam's prism command, version 2.77.0"),
    ("needs_dataflow", DATAFLOW_PYTHON, "a Python interpreter that has predecode[dataflow]"),
    ("needs_object_stores", OBJECT_STORES, "the folder that `scripts/object-stores` prints"),
)
"""Per marker the environment variable that says where it is, and what that names."""


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
    """Skips what needs what is not there; `.ci/run` brings all of it."""
    for marker, variable, meaning in NEEDS:
        if item.get_closest_marker(marker) and not os.environ.get(variable):
            pytest.skip(f"set {variable} to {meaning}, as .ci/run does")
    if item.get_closest_marker("needs_cuda") and not _has_cuda():
        pytest.skip("needs a GPU of CUDA's, as no machine of .ci/run has one")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


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
