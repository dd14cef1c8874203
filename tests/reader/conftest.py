"""Outputs that the reader's tests share: each is made once, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from predecode.pipeline import MaterializeOptions, materialize
from tests.sources.reading import read_golden

Materialized = Callable[..., Path]


@pytest.fixture(scope="session")
def materialized(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Materialized:
    """Gives a function that materializes a bundled dataset with the windows of one of its goldens."""

    @cache
    def make(dataset: str, golden: str, anchors_per_sample: int | None = None, **options: Any) -> Path:
        _, asked = read_golden(data_dir / "goldens" / f"{dataset}.{golden}.safetensors.gz")
        deltas = asked["delta_indices"] or {}
        output = tmp_path_factory.mktemp(dataset) / "output"
        settings = {"image_codec": "png"} | options
        materialize(
            MaterializeOptions(
                source=str(data_dir / dataset),
                output=str(output),
                delta_indices=tuple((name, tuple(offsets)) for name, offsets in deltas.items()),
                anchors_per_sample=anchors_per_sample,
                **settings,
            ),
            ["--direct_num_workers=2"],
        )
        return output

    return make
