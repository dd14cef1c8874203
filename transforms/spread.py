"""Spreading elements over the workers, where the runner has its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam


@dataclass(kw_only=True)
class Spread(beam.PTransform[Any, Any]):
    """Lets any worker take any element, whichever made it.

    Attributes:
        has_workers: Whether the runner has workers of its own. Where all is done in one process nothing is spread: a
            shuffle is five steps, a tenth of a second.
    """

    has_workers: bool

    def expand(self, elements: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """The elements in, the same out."""
        return elements | beam.Reshuffle() if self.has_workers else elements
