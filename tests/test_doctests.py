"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.test_imports import MODULES


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>> " in path.read_text()])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
