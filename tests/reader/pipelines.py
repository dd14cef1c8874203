"""Windows through webdataset's own pipelines, as its users write them."""

from __future__ import annotations

import gc
import itertools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import webdataset

from predecode.reader import expand_windows


def tars(output: Path) -> list[str]:
    """The shards of the train split, in order."""
    return sorted(str(path) for path in output.glob("train/*.tar"))


def pipeline(shards: list[str], **options: Any) -> webdataset.WebDataset:
    """All items of some shards."""
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False, **options)
    return dataset.map(expand_windows).compose(itertools.chain.from_iterable)


def read_all(items: Iterable[Any]) -> list[Any]:
    """webdataset leaves closing its files to the garbage collector, which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(items)
        gc.collect()
    return found
