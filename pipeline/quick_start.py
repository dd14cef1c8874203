"""A quicker start and end: imports without torch's compiler, and without looking through them for garbage.

torchcodec's import loads the compiler, which takes longer than torch and is no use here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


class _NoCompiler(ModuleType):
    """Stands in for torch's compiler; whatever else is wanted of it loads the real one."""

    @staticmethod
    def disallow_in_graph(function: Callable[..., Any]) -> Callable[..., Any]:
        """What torchcodec wants: that the compiler leaves a function alone."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Imports in the block do not load torch's compiler just to tell it to leave their functions alone.

    Should somebody use `torch.compile` later, it sees these functions as any others. Where the compiler is loaded
    already, nothing is changed.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = _NoCompiler(_COMPILER)
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


@contextlib.contextmanager
def kept_for_good() -> Iterator[None]:
    """What the block imports is there until the process ends, and is never looked through for garbage.

    Beam and torch make some hundred thousand objects, which Python's collector goes through while they are imported and
    once more at the end of the process: a second in all. Where Beam is loaded already, nothing is changed: this process
    may have garbage of its own.
    """
    if "apache_beam" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
