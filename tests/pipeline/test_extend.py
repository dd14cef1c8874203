"""A source that has grown: only what is new is written, the result is a fresh run's, the old can be read meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predecode.pipeline import Summary
from predecode.reader import WindowDataset
from predecode.transforms.errors import PlanMismatchError, UsageError
from predecode.transforms.format import EXTENDING, STAGING_FOLDER
from tests.pipeline.running import manifest, quarantine, run, run_killed, tree
from tests.reader.fuzzing import fingerprint
from tests.sources.reading import open_at
from tests.sources.replay_buffers import append, arrays_of, write_buffer

ROOT = Path(__file__).parents[2]
DATASET = "pusht_images_v30"
SMALL: dict[str, Any] = {"image_size": (16, 16), "min_shards": 3, "shard_bytes": 500_000}
"""Groups of some three episodes of that dataset."""
FLAGS = ["--image-size=16", "--min-shards=3", "--shard-bytes=500000"]
OLD, GROWN = "0:5", "0:6"


@pytest.fixture(scope="module")
def old(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the first five episodes."""
    output = tmp_path_factory.mktemp("old") / "out"
    run(data_dir / DATASET, output, episodes=OLD, **SMALL)
    return output


@pytest.fixture(scope="module")
def fresh(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run writes that has never seen less than all six."""
    output = tmp_path_factory.mktemp("fresh") / "out"
    run(data_dir / DATASET, output, episodes=GROWN, **SMALL)
    return output


@pytest.fixture
def output(old: Path, tmp_path: Path) -> Path:
    """A copy of the old one, to be extended."""
    return Path(shutil.copytree(old, tmp_path / "out"))


def extend(source: Path, output: Path, **options: Any) -> Summary:
    return run(source, output, extend=True, **{"episodes": GROWN, **SMALL, **options})


def inodes(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(output.glob("train/shard-*"))}


def windows(output: Path) -> list[str]:
    return [fingerprint(item) for item in WindowDataset(str(output))]


def folders(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_dir()}


def groups(output: Path) -> list[list[int]]:
    plan = json.loads((output / "plan.json").read_text())
    return list(plan["splits"]["train"]["groups"])


def test_closed_groups_are_kept_and_the_result_is_a_fresh_run(data_dir: Path, output: Path, fresh: Path) -> None:
    before, closed = inodes(output), sum(group[-1] for group in groups(output)[:-1])
    assert closed >= 4, "else this test shows nothing"
    summary = extend(data_dir / DATASET, output)
    assert tree(output) == tree(fresh)
    assert folders(output) == folders(fresh)
    assert summary.shards_kept >= closed
    text = str(summary)
    assert f"{summary.shards - summary.shards_kept} shards written in" in text
    assert f"{summary.shards_kept} kept of an earlier run" in text
    kept = [f"shard-{number:05d}.{end}" for number in range(closed) for end in ("tar", "index.arrow", "json")]
    assert {name: inodes(output)[name] for name in kept} == {name: before[name] for name in kept}


def test_nothing_new_changes_nothing(data_dir: Path, output: Path, old: Path) -> None:
    before = inodes(output)
    summary = extend(data_dir / DATASET, output, episodes=OLD)
    assert tree(output) == tree(old)
    assert inodes(output) == before
    assert summary.shards_kept == summary.shards


def test_an_output_that_is_not_there_or_not_complete(data_dir: Path, tmp_path: Path, output: Path, fresh: Path) -> None:
    extend(data_dir / DATASET, tmp_path / "new")
    assert tree(tmp_path / "new") == tree(fresh)
    (output / "manifest.json").unlink()
    assert extend(data_dir / DATASET, output).shards_kept == 0, "nobody could read it: none is said to be kept"
    assert tree(output) == tree(fresh)


def test_a_shrinking_last_group(data_dir: Path, tmp_path: Path) -> None:
    """A long episode may leave fewer shards than there were: those are gone in the end."""
    options: dict[str, Any] = {"image_size": (16, 16), "anchors_per_sample": 100, "min_shards": 9}
    for spec, target in (("0:5", "out"), (GROWN, "fresh")):
        run(data_dir / DATASET, tmp_path / target, episodes=spec, **options)
    (tmp_path / "out/train/shard-00099.tar").write_bytes(b"of an older plan")
    run(data_dir / DATASET, tmp_path / "out", episodes=GROWN, extend=True, **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_what_was_quarantined_and_is_mended_is_taken_in(tmp_path: Path, copy_dataset: Callable[[str], Path]) -> None:
    """The video is as long as before: neither the plan nor a plan hash shows that it was mended."""
    source = copy_dataset("pusht_v21")
    video = source / "videos/chunk-000/observation.image/episode_000004.mp4"
    sound = video.read_bytes()
    options: dict[str, Any] = {"image_size": (16, 16), "on_error": "quarantine"}
    run(source, tmp_path / "fresh", **options)
    video.write_bytes(sound[:-3000] + bytes(3000))
    run(source, tmp_path / "out", **options)
    assert {part["episode_index"] for part in quarantine(tmp_path / "out")} == {4}
    before = inodes(tmp_path / "out")
    video.write_bytes(sound)
    summary = run(source, tmp_path / "out", extend=True, **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")
    assert 0 < summary.shards_kept < summary.shards
    unchanged = [name for name, inode in inodes(tmp_path / "out").items() if before[name] == inode]
    assert len(unchanged) == 3 * summary.shards_kept


def test_what_the_audit_left_out_and_is_mended_is_taken_in(tmp_path: Path, copy_dataset: Callable[[str], Path]) -> None:
    source = copy_dataset("pusht_v21")
    entries = source / "meta/episodes.jsonl"
    sound = entries.read_text()
    options: dict[str, Any] = {**SMALL, "on_error": "quarantine", "exclude_features": ("observation.image",)}
    run(source, tmp_path / "fresh", **options)
    lines = [json.loads(line) for line in sound.splitlines()]
    lines[2]["length"] += 1
    entries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(source, tmp_path / "out", **options)
    assert [part["episode_index"] for part in quarantine(tmp_path / "out")] == [2]
    entries.write_text(sound)
    run(source, tmp_path / "out", extend=True, **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_what_is_no_growth_is_refused(data_dir: Path, output: Path, old: Path) -> None:
    source = data_dir / DATASET
    with pytest.raises(PlanMismatchError, match=r"cannot be extended[\s\S]*image_codec: was \"jpeg\", now \"png\""):
        extend(source, output, image_codec="png")
    with pytest.raises(PlanMismatchError, match="made of 5 sound episodes, and the source has 3 now"):
        extend(source, output, episodes="0:3")
    with pytest.raises(UsageError, match="--overwrite and --extend exclude each other"):
        extend(source, output, overwrite=True)
    with pytest.raises(PlanMismatchError, match=r"source.episodes|options.episodes[\s\S]*--extend to take in"):
        run(source, output, episodes=GROWN, **SMALL)
    assert tree(output) == tree(old)


MOMENTS = {
    "before anything is staged": ("before:plan.json:1", "old"),
    "in the middle of a staged tar": (f"within:{STAGING_FOLDER}/train/shard:1", "old"),
    "after a staged shard": (f"after:{STAGING_FOLDER}/train/shard-00005.json:1", "old"),
    "before the new manifest": ("before:manifest.json:1", "old"),
    "after it": ("after:manifest.json:1", "new"),
    "while staged files find their places": ("after:train/shards.arrow:2", "new"),
    "before the last manifest": ("before:manifest.json:2", "new"),
    "before the staging folder is gone": ("after:manifest.json:2", "new"),
}


def test_a_replay_buffer_that_grows_in_place_keeps_closed_groups(data_dir: Path, tmp_path: Path) -> None:
    """Appended to as Diffusion Policy does: the arrays are resized, and the last chunk of each is written anew."""
    arrays, ends = arrays_of(open_at(data_dir / DATASET))
    beginning = {name: values[: ends[4]] for name, values in arrays.items()}
    source = write_buffer(tmp_path / "data.zarr", beginning, ends[:5])
    options = {"fps": 10.0, "episodes": None, **SMALL}
    output = tmp_path / "out"
    run(source, output, **options)
    before, closed = inodes(output), sum(group[-1] for group in groups(output)[:-1])
    assert closed >= 2, "else this test shows nothing"
    append(source, arrays, ends)
    summary = run(source, output, extend=True, **options)
    assert summary.shards_kept >= closed
    run(source, tmp_path / "fresh", **options)
    assert tree(output) == tree(tmp_path / "fresh")
    kept = [f"shard-{number:05d}.{end}" for number in range(closed) for end in ("tar", "index.arrow", "json")]
    assert {name: inodes(output)[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "state"), MOMENTS.values(), ids=MOMENTS.keys())
def test_a_killed_extension_can_be_read_and_goes_on(
    moment: str, state: str, data_dir: Path, tmp_path: Path, output: Path, old: Path, fresh: Path
) -> None:
    arguments = ["materialize", str(data_dir / DATASET), str(output), *FLAGS]
    killed = run_killed(moment, [*arguments, f"--episodes={GROWN}", "--extend"])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert windows(output) == windows(old if state == "old" else fresh)
    other = Path(shutil.copytree(output, tmp_path / "other"))
    staged = {path.name: path.stat().st_ino for path in output.glob(f"{STAGING_FOLDER}/train/shard-*.json")}
    extend(data_dir / DATASET, output)
    assert tree(output) == tree(fresh)
    assert folders(output) == folders(fresh)
    assert {name: inodes(output)[name] for name in staged} == staged, "what was staged was written again"
    # A run of the plan that the output has leaves no trace of the extension, either.
    run(data_dir / DATASET, other, episodes=OLD if state == "old" else GROWN, **SMALL)
    assert tree(other) == tree(old if state == "old" else fresh)


@pytest.mark.slow
def test_an_extension_that_was_killed_and_whose_source_has_changed_again(
    data_dir: Path, output: Path, old: Path
) -> None:
    arguments = ["materialize", str(data_dir / DATASET), str(output), *FLAGS]
    killed = run_killed("before:manifest.json:1", [*arguments, f"--episodes={GROWN}", "--extend"])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert EXTENDING not in manifest(output)
    extend(data_dir / DATASET, output, episodes=OLD)
    assert tree(output) == tree(old)


def make_source(folder: Path, num_episodes: int) -> Path:
    """The first so many of 110 episodes, a file each."""
    made = folder / "made"
    if not made.exists():
        sizes = "--format v2.1 --episodes 110 --frames-per-episode 16 --clips 2 --cameras 1 --size 64x64 --gop 2"
        command = [sys.executable, str(ROOT / "scripts/make_dataset"), str(made), *sizes.split()]
        subprocess.run(command, check=True, capture_output=True)
    source = Path(shutil.copytree(made, folder / f"source-{num_episodes}", copy_function=os.link))
    for path in source.rglob("episode_*"):
        if int(path.stem.removeprefix("episode_")) >= num_episodes:
            path.unlink()
    for name in ("episodes", "episodes_stats"):
        path = source / f"meta/{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.unlink()
        path.write_text("".join(lines[:num_episodes]))
    return source


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
def test_ten_episodes_added_to_a_hundred_rewrite_the_last_group_at_most(tmp_path: Path) -> None:
    options: dict[str, Any] = {"min_shards": 4, "shard_bytes": 400_000}
    output, fresh = tmp_path / "out", tmp_path / "fresh"
    run(make_source(tmp_path, 100), output, **options)
    before, closed = inodes(output), groups(output)[:-1]
    assert len(closed) >= 3
    grown = make_source(tmp_path, 110)
    summary = run(grown, output, extend=True, **options)
    run(grown, fresh, **options)
    assert tree(output) == tree(fresh)
    kept = sum(group[-1] for group in closed)
    names = [f"shard-{number:05d}.tar" for number in range(kept)]
    assert {name: inodes(output)[name] for name in names} == {name: before[name] for name in names}
    assert summary.shards_kept >= kept
    assert summary.episodes == 110
    assert np.all(np.diff([item["episode_index"].item() for item in WindowDataset(str(output))]) >= 0)


@pytest.mark.slow
@pytest.mark.needs_lerobot
def test_a_recording_that_lerobot_resumes_touches_no_old_shard(lerobot_python: Path, tmp_path: Path) -> None:
    """What docs/sources.md says of lerobot's recorder, and what follows from it."""
    source, output, fresh = tmp_path / "source", tmp_path / "out", tmp_path / "fresh"
    record = [lerobot_python, Path(__file__).with_name("recording.py"), source]
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": os.environ["PATH"]}
    options: dict[str, Any] = {"min_shards": 1, "shard_bytes": 200_000}
    subprocess.run([*record, "5"], check=True, capture_output=True, env=environment)
    of_source = tree(source)
    run(source, output, **options)
    before, closed = inodes(output), groups(output)[:-1]
    assert closed
    subprocess.run([*record, "2"], check=True, capture_output=True, env=environment)
    after = tree(source)
    changed = {name for name in of_source if after.get(name) != of_source[name]}
    assert changed <= {"meta/info.json", "meta/stats.json", "meta/tasks.parquet"}
    summary = run(source, output, extend=True, **options)
    run(source, fresh, **options)
    assert tree(output) == tree(fresh)
    assert summary.episodes == 7
    kept = sum(group[-1] for group in closed)
    names = [f"shard-{number:05d}.tar" for number in range(kept)]
    assert {name: inodes(output)[name] for name in names} == {name: before[name] for name in names}
