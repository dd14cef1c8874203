"""The stream can stand where lerobot's does: its parameters, and what can be asked of it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from predecode.reader import StreamingWindowDataset
from tests.training.conftest import RunLerobot, last_json

HOW_LEROBOTS_READS = {"hf_dataset", "make_frame", "video_decoder_cache"}
"""Attributes that windows have no use for; docs/training.md says so."""


@pytest.mark.slow
@pytest.mark.needs_lerobot
def test_parameters_and_attributes_are_those_of_lerobots_class(
    data_dir: Path, windows: Path, tmp_path: Path, run_lerobot: RunLerobot
) -> None:
    printed = run_lerobot("-m", "tests.training.describe_streaming", data_dir / "pusht_v30", cwd=tmp_path)
    lerobots = last_json(printed)
    parameters = inspect.signature(StreamingWindowDataset).parameters.values()
    shared = [
        [each.name, each.kind.name, None if each.default is inspect.Parameter.empty else repr(each.default)]
        for each in parameters
        if each.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert shared == lerobots["parameters"]
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in list(parameters)[len(shared) :])
    stream = StreamingWindowDataset("some/name", windows)
    assert HOW_LEROBOTS_READS.issubset(lerobots["attributes"])
    missing = {name for name in lerobots["attributes"] if not hasattr(stream, name)}
    assert missing == HOW_LEROBOTS_READS
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert all(f"`{name}`" in page for name in missing)
