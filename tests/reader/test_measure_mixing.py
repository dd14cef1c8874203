"""The program that measures how well orders mix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reader.conftest import Materialized

SCRIPT = Path(__file__).parent.parent.parent / "scripts/measure_mixing"


def run(tmp_path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """The rows of the table, by order."""
    written = tmp_path / "mixing.json"
    subprocess.run([sys.executable, str(SCRIPT), *arguments, "--json", str(written)], check=True, capture_output=True)
    return {row["order"]: row for row in json.loads(written.read_text())["rows"]}


def test_wider_windows_mix_better(tmp_path: Path) -> None:
    sizes = "--episodes 200 --frames 200 --anchors-per-shard 1000 --window-shards 1 4 16 --buffer 1000"
    rows = run(tmp_path, *sizes.split())
    assert list(rows) == [
        "buffer of 1,000, source order",
        "buffer of 1,000, shards in turn",
        "windows of 1 shard",
        "windows of 4 shards",
        "windows of 16 shards",
        "true permutation",
    ]
    for column in ("episodes in a batch", "in 100 batches", "spread"):
        values = [row[column] for name, row in rows.items() if name != "windows of 1 shard"]
        assert values == sorted(values)
    assert rows["buffer of 1,000, source order"]["rank correlation"] > 0.99
    # 200 episodes, 64 draws: 200 * (1 - (1 - 1 / 200) ** 64) = 54.9.
    true = rows["true permutation"]
    assert true["episodes in a batch"] == pytest.approx(54.9, abs=0.5)
    assert true["spread"] == pytest.approx(1, abs=0.02)
    assert true["displacement"] == pytest.approx(1, abs=0.03)
    assert true["rank correlation"] == pytest.approx(0, abs=0.03)


def test_measures_an_output(tmp_path: Path, materialized: Materialized) -> None:
    output = materialized("zoo_v30", "far", 7)
    rows = run(tmp_path, str(output), "--batch-size", "8", "--window-shards", "1", "99")
    assert set(rows) >= {"windows of 1 shard", "true permutation"}
    assert "windows of 99 shards" not in rows  # All shards at once: that is a true permutation.
