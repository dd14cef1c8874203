"""How long a thread waits for the interpreter while others decode."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from predecode.reader import WindowDataset, WindowLoader
from predecode.reader.quick_turns import SWITCH_SECONDS, quick_turns
from tests.reader.conftest import Materialized


@pytest.fixture(autouse=True)
def usual() -> Iterator[float]:
    """The interpreter's own interval, before and after each test."""
    before = sys.getswitchinterval()
    assert before > 2 * SWITCH_SECONDS
    yield before
    sys.setswitchinterval(before)


def test_a_pass_takes_quick_turns_and_puts_the_interval_back(materialized: Materialized, usual: float) -> None:
    loader = WindowLoader(WindowDataset(str(materialized("zoo_v30", "far", 7))), 8)
    whole = iter(loader)
    next(whole)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS, abs=1e-6)
    assert sum(1 for _ in whole) > 0
    assert sys.getswitchinterval() == usual
    left = iter(loader)
    next(left)
    del left
    assert sys.getswitchinterval() == usual


def test_the_last_of_several_puts_it_back(usual: float) -> None:
    first, second = quick_turns(), quick_turns()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS, abs=1e-6)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == usual


def test_one_that_is_shorter_is_left_alone() -> None:
    sys.setswitchinterval(2e-5)
    with quick_turns():
        assert sys.getswitchinterval() == pytest.approx(2e-5, abs=1e-6)
    assert sys.getswitchinterval() == pytest.approx(2e-5, abs=1e-6)
