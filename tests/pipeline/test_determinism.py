"""The same input and options give the same bytes, however the job runs and however often it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from predecode.transforms.errors import FormatError, PlanMismatchError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder
from tests.pipeline.running import run, run_killed, tree

WINDOWS: dict[str, Any] = {"delta_indices": (("observation.image", (-1, 0)), ("action", (0, 1, 2, 3)))}
DATASET = "pusht_images_v30"
FLAGS = ["--delta-indices", '{"observation.image": [-1, 0], "action": [0, 1, 2, 3]}', "--image-codec", "png"]


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one thread writes without any interruption."""
    output = tmp_path_factory.mktemp("reference") / "out"
    run(data_dir / DATASET, output, flags=["--direct_num_workers=1"], image_codec="png", **WINDOWS)
    return output


def rerun(data_dir: Path, output: Path) -> None:
    run(data_dir / DATASET, output, image_codec="png", **WINDOWS)


def test_two_threads_and_bundles_run_twice(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    flags = ["--direct_num_workers=2", "--direct_runner_bundle_repeat=1"]
    run(data_dir / DATASET, tmp_path / "out", flags=flags, image_codec="png", **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)


def test_direct_runner(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    run(data_dir / DATASET, tmp_path / "out", flags=["--runner=DirectRunner"], image_codec="png", **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)


@pytest.mark.slow
def test_worker_processes(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    arguments = ["materialize", str(data_dir / DATASET), str(tmp_path / "out"), *FLAGS]
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [sys.executable, "-m", "predecode.pipeline", *arguments, *processes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(reference)


def test_running_again_changes_nothing(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(reference, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("shard-*")}
    rerun(data_dir, output)
    assert tree(output) == tree(reference)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("shard-*")} == before


MOMENTS = {
    "before the plan": "before:plan.json:1",
    "after the plan": "after:plan.json:1",
    "in the middle of a tar": "within:.tar:5",
    "between tar and index": "after:.tar:5",
    "between index and commit record": "after:.index.arrow:5",
    "after a commit record": "after:shard-00003.json:1",
    "while the last files are written": "after:order.arrow:1",
    "before the manifest": "before:manifest.json:1",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_killed_job_goes_on_where_it_was(moment: str, data_dir: Path, tmp_path: Path, reference: Path) -> None:
    output = tmp_path / "out"
    killed = run_killed(moment, ["materialize", str(data_dir / DATASET), str(output), *FLAGS])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(FormatError, match="not finished" if (output / "plan.json").exists() else "is no output"):
        read_manifest(Folder.of(str(output)))
    committed = {path: path.with_suffix(".tar").stat().st_ino for path in output.glob("train/shard-*.json")}
    rerun(data_dir, output)
    assert tree(output) == tree(reference)
    kept = {path: path.with_suffix(".tar").stat().st_ino for path in committed}
    assert kept == committed, "a shard that was committed was written again"


def test_two_attempts_at_the_same_shards_at_once_harm_nothing(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "predecode.pipeline", "materialize", str(data_dir / DATASET), str(output), *FLAGS]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    failures: list[BaseException] = []

    def here() -> None:
        try:
            rerun(data_dir, output)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=here)
    thread.start()
    thread.join()
    _, messages = other.communicate(timeout=120)
    # The one that is done first removes what the other has not published yet, which must then say so and be run again.
    assert not failures or other.returncode == 0, (failures, messages.decode())
    if failures or other.returncode:
        rerun(data_dir, output)
    assert tree(output) == tree(reference)


def test_another_plan_is_refused_and_named(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(reference, output)
    with pytest.raises(PlanMismatchError, match=r"options\.image_codec: was \"png\", now \"webp\"[\s\S]*--overwrite"):
        run(data_dir / DATASET, output, image_codec="webp", **WINDOWS)
    assert tree(output) == tree(reference)


def test_overwrite_leaves_only_the_new_plan(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    output, fresh = tmp_path / "out", tmp_path / "fresh"
    shutil.copytree(reference, output)
    options: dict[str, Any] = {"image_codec": "png", "episodes": "0:2", "validation_fraction": 0.4, **WINDOWS}
    run(data_dir / DATASET, output, overwrite=True, **options)
    run(data_dir / DATASET, fresh, **options)
    assert tree(output) == tree(fresh)


def test_overwrite_keeps_the_shards_whose_plan_is_the_same(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(reference, output)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("train/*.tar")}
    # A larger aim changes the plan, and here not one shard.
    run(data_dir / DATASET, output, overwrite=True, shard_bytes=300_000_000, image_codec="png", **WINDOWS)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("train/*.tar")} == before


def test_a_fixed_commit_record_is_believed_only_if_its_files_are_whole(
    data_dir: Path, tmp_path: Path, reference: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(reference, output)
    (output / "train/shard-00002.tar").unlink()
    with (output / "train/shard-00004.index.arrow").open("r+b") as file:
        os.ftruncate(file.fileno(), 100)
    (output / "train/shard-00006.json").write_text("{")
    rerun(data_dir, output)
    assert tree(output) == tree(reference)


def test_where_the_source_lies_does_not_matter(
    tmp_path: Path, reference: Path, copy_dataset: Callable[[str], Path]
) -> None:
    run(copy_dataset(DATASET), tmp_path / "out", image_codec="png", **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)
