from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from predecode.pipeline import quick_start
from predecode.pipeline.quick_start import without_compiler

_PROGRAM = """
import sys
from predecode.pipeline.quick_start import without_compiler
from predecode.transforms.decoder_library import check_decoder
with without_compiler():
    check_decoder()
print("torch._dynamo" in sys.modules, "torch._inductor" in sys.modules)
import torch
print(torch._dynamo.disallow_in_graph.__module__)
"""


def test_decoder_is_imported_without_the_compiler_which_is_there_when_wanted() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False False", "torch._dynamo.decorators"]


def test_compiler_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType("there")
    monkeypatch.setitem(sys.modules, "torch._dynamo", there)
    with without_compiler():
        assert sys.modules["torch._dynamo"] is there
    assert sys.modules["torch._dynamo"] is there


def test_whatever_else_is_wanted_loads_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_start, "_COMPILER", "colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without_compiler():
        stand_in = sys.modules["colorsys"]
        assert stand_in.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
        assert sys.modules["colorsys"] is not stand_in
    assert sys.modules["colorsys"].__name__ == "colorsys"
    assert not isinstance(sys.modules["colorsys"], quick_start._NoCompiler)


_KEPT = """
import gc, sys
from predecode.pipeline.quick_start import kept_for_good
with kept_for_good():
    assert not gc.isenabled()
    import apache_beam
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
gc.unfreeze()
with kept_for_good():
    assert gc.isenabled()
print(gc.get_freeze_count())
"""


def test_what_is_imported_is_kept_for_good_once() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True True", "0"]
