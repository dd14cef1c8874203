"""Reading an output back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predecode.reader.dataset import WindowDataset
    from predecode.reader.expand import expand_windows
    from predecode.reader.loader import WindowLoader
    from predecode.reader.mixed import MixedWindows
    from predecode.reader.streaming import StreamingWindowDataset

__all__ = ["MixedWindows", "StreamingWindowDataset", "WindowDataset", "WindowLoader", "expand_windows"]

_LAZY = {
    "MixedWindows": "mixed",
    "StreamingWindowDataset": "streaming",
    "WindowDataset": "dataset",
    "WindowLoader": "loader",
    "expand_windows": "expand",
}


def __getattr__(name: str) -> Any:
    """Imports torch, which takes a second, only for those who read items, not for `predecode inspect`."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
