"""What progress says: only what is true, also before the first shard and while another plan is replaced."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from predecode.pipeline import progress
from predecode.pipeline.committed import count_shards
from predecode.pipeline.progress import Progress
from predecode.transforms.storage import Folder
from tests.pipeline.running import run

NUM_SHARDS = 3
PLANNING = "planning: reading the source's metadata, trying its first episodes"
FINISHING = "all shards are there: checking the counts, writing what describes them"


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("progress") / "out"
    run(data_dir / "zoo_v30", output)
    return output


@pytest.fixture
def output(reference: Path, tmp_path: Path) -> Path:
    """A copy, to take away from and put back into."""
    return Path(shutil.copytree(reference, tmp_path / "out"))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_POLL_SECONDS", "_LINE_SECONDS", "_PLANNING_SECONDS"):
        monkeypatch.setattr(progress, name, 0.01)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def commit_record(output: Path, number: int) -> Path:
    return output / "train" / f"shard-{number:05d}.json"


def test_it_says_when_the_job_plans_writes_and_finishes(output: Path, reference: Path) -> None:
    for path in (output / "plan.json", *(commit_record(output, number) for number in range(NUM_SHARDS))):
        path.unlink()
    stream = io.StringIO()
    with Progress(Folder.of(str(output)), stream=stream):
        wait_until(lambda: PLANNING in stream.getvalue())
        shutil.copy(reference / "plan.json", output)
        assert "shards" not in stream.getvalue()
        for number in range(NUM_SHARDS):
            shutil.copy(commit_record(reference, number), output / "train")
            wait_until(lambda: f"\n{number + 1}/{NUM_SHARDS} shards, " in stream.getvalue())  # noqa: B023 - Called here.
        wait_until(lambda: FINISHING in stream.getvalue())
    assert stream.getvalue().count(PLANNING) == stream.getvalue().count(FINISHING) == 1
    assert f"{NUM_SHARDS}/{NUM_SHARDS} shards, 174 frames, " in stream.getvalue()


def test_shards_that_were_there_count_but_not_their_frames(output: Path, reference: Path) -> None:
    commit_record(output, 1).unlink()
    stream = io.StringIO()
    with Progress(Folder.of(str(output)), stream=stream):
        time.sleep(0.2)
        assert stream.getvalue() == ""
        shutil.copy(commit_record(reference, 1), output / "train")
        wait_until(lambda: f"{NUM_SHARDS}/{NUM_SHARDS} shards" in stream.getvalue())
    assert "174 frames" not in stream.getvalue()


def test_shards_that_may_be_replaced_do_not_count_until_the_end(output: Path, reference: Path) -> None:
    stream = io.StringIO()
    with Progress(Folder.of(str(output)), overwrite=True, stream=stream):
        time.sleep(0.2)
        assert stream.getvalue() == ""
        shutil.copy(commit_record(reference, 2), output / "train" / f"shard-{NUM_SHARDS:05d}.json")
        wait_until(lambda: f"1/{NUM_SHARDS} shards" in stream.getvalue())
        commit_record(output, NUM_SHARDS).unlink()
    assert stream.getvalue().splitlines()[-1].startswith(f"{NUM_SHARDS}/{NUM_SHARDS} shards")


def test_committed_shards_are_counted(output: Path, tmp_path: Path) -> None:
    commit_record(output, 0).unlink()
    assert count_shards(Folder.of(str(output))) == (NUM_SHARDS - 1, NUM_SHARDS)
    assert count_shards(Folder.of(str(tmp_path / "nothing"))) == (0, 0)
