"""The job: from a LeRobot dataset to shards of training windows, on Apache Beam."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from predecode.transforms.errors import PredecodeError

if TYPE_CHECKING:
    from predecode.pipeline.graph import Materialize
    from predecode.pipeline.job import materialize
    from predecode.pipeline.summary import Summary
    from predecode.transforms.options import MaterializeOptions

__all__ = ["Materialize", "MaterializeOptions", "PredecodeError", "Summary", "materialize"]

_LAZY = {
    "Materialize": "predecode.pipeline.graph",
    "MaterializeOptions": "predecode.transforms.options",
    "materialize": "predecode.pipeline.job",
    "Summary": "predecode.pipeline.summary",
}


def __getattr__(name: str) -> Any:
    """Imports Beam, which takes a second, only for those who run the job, not for `predecode --help`."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
