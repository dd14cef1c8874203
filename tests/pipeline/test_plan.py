"""`predecode plan`: what it says is what `predecode materialize` then does, and it writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predecode.pipeline import MaterializeOptions
from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from predecode.pipeline.forecast import Forecast
from predecode.pipeline.planning import forecast_job
from predecode.pipeline.trial import Trial, spread_order
from tests.pipeline.running import TWO_THREADS, run, tree

COUNTS = ("source_bytes", "episodes", "anchors", "frames", "shards", "anchors_quarantined")

HISTORY: dict[str, Any] = {
    "delta_indices": (("observation.image", (-3, -1, 0)), ("action", tuple(range(8)))),
    "image_size": (64, 64),
    "min_shards": 5,
}
PARTS: dict[str, Any] = {
    "anchor_stride": 3,
    "drop_last_frames": 4,
    "validation_fraction": 0.4,
    "seed": 1,
    "episodes": "0:3,4:",
    "image_codec": "png",
}


def forecast(source: Path, output: Path, **options: Any) -> Forecast:
    return forecast_job(MaterializeOptions(source=str(source), output=str(output), **options), TWO_THREADS)


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        pytest.param("pusht_v30", {"image_size": (112, 112)}, id="a video"),
        pytest.param("pusht_v21", HISTORY, id="a history"),
        pytest.param("pusht_images_v30", PARTS, id="strides and splits"),
        pytest.param("pusht_images_v30", {"exclude_features": ("observation.image",)}, id="no camera"),
    ],
)
def test_what_it_says_is_what_is_done(data_dir: Path, tmp_path: Path, dataset: str, options: dict[str, Any]) -> None:
    told = forecast(data_dir / dataset, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    done = run(data_dir / dataset, tmp_path / "out", **options)
    assert {name: getattr(told, name) for name in COUNTS} == {name: getattr(done, name) for name in COUNTS}
    assert told.output_bytes == pytest.approx(done.output_bytes, rel=0.05)
    assert told.frames_decoded >= told.frames
    assert 0 < told.segments_tried <= told.segments
    assert told.quarantined == {}


def test_what_would_be_left_out(tmp_path: Path, copy_dataset: Callable[[str], Path]) -> None:
    """An entry that disagrees with the rows, and a video that is missing: neither is found by decoding."""
    source = copy_dataset("pusht_v21")
    entries = source / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in entries.read_text().splitlines()]
    lines[1]["length"] += 1
    entries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (source / "videos/chunk-000/observation.image/episode_000004.mp4").unlink()
    told = forecast(source, tmp_path / "out", image_size=(16, 16))
    done = run(source, tmp_path / "out", image_size=(16, 16), on_error="quarantine")
    assert {name: getattr(told, name) for name in COUNTS} == {name: getattr(done, name) for name in COUNTS}
    assert told.episodes_quarantined == 2
    text = str(told)
    assert "2 episodes (" in text
    assert "the job fails, or leaves them out with --on-error=quarantine" in text
    assert "episode_000004.mp4: there is no such file" in text
    assert "Episode 1: the metadata say" in text


def test_what_only_decoding_finds_is_told_apart(tmp_path: Path, copy_dataset: Callable[[str], Path]) -> None:
    source = copy_dataset("pusht_v21")
    for number in (3, 4, 5):
        video = source / f"videos/chunk-000/observation.image/episode_{number:06d}.mp4"
        video.write_bytes(video.read_bytes()[:2000])
    told = forecast(source, tmp_path / "out", image_size=(16, 16))
    assert told.episodes_quarantined == 0
    assert told.segments_failed
    assert "segments tried cannot be read" in str(told)
    assert ".mp4" in told.segments_failed[0]


def test_as_a_command(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(data_dir / "pusht_images_v30")
    before = tree(data_dir / "pusht_images_v30")
    arguments = ["plan", source, str(tmp_path / "deep/out"), "--image-size=16", *TWO_THREADS]
    assert main(arguments) == EXIT_DONE
    text = capsys.readouterr().out
    assert "6 episodes, windows: 941 train\n941 images in 16 shards; 941 frames to decode" in text
    assert "with 2 threads" in text
    assert f"free at {tmp_path}/deep/out" in text
    assert main([*arguments, "--json"]) == EXIT_DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["anchors"], told["free_bytes"] > 0) == ({"train": 941}, True)
    assert list(tmp_path.iterdir()) == []
    assert tree(data_dir / "pusht_images_v30") == before
    assert main(["plan", source, "--no-such-option"]) == EXIT_USAGE
    assert main(["plan", str(tmp_path)]) == EXIT_FAILED
    assert "there is no LeRobot dataset here" in capsys.readouterr().err


def test_what_is_there_already(data_dir: Path, tmp_path: Path) -> None:
    """Of an output that is not finished, of one that is, and of one whose source has grown."""
    source, output = data_dir / "pusht_images_v30", tmp_path / "out"
    small: dict[str, Any] = {"image_size": (16, 16), "min_shards": 3, "shard_bytes": 500_000}
    assert forecast(source, output, **small).shards_kept == 0
    done = run(source, output, episodes="0:5", **small)
    told = forecast(source, output, episodes="0:5", **small)
    assert (told.shards_kept, told.bytes_to_write, told.core_hours) == (done.shards, 0, 0.0)
    assert told.difference == ""
    (output / "manifest.json").unlink()
    (output / "train/shard-00002.json").unlink()
    told = forecast(source, output, episodes="0:5", **small)
    assert told.shards_kept == done.shards - 1
    assert 0 < told.bytes_to_write < told.output_bytes
    run(source, output, episodes="0:5", **small)
    told = forecast(source, output, **small)
    assert "give --extend to take in what the source has got since" in told.difference
    before = tree(output)
    assert f"shards ({told.shards_kept} are there)" in str(told)
    assert tree(output) == before
    extended = run(source, output, extend=True, **small)
    assert (told.shards, told.shards_kept) == (extended.shards, extended.shards_kept)


def test_a_full_disk_is_said_loudly(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predecode.pipeline.planning.free_bytes", lambda _: 1000)
    assert "NOT ENOUGH" in str(forecast(data_dir / "pusht_images_v30", tmp_path, image_size=(16, 16)))


@given(st.integers(0, 3000), st.integers(1, 50))
@example(213, 41)
def test_segments_are_tried_all_over_the_dataset(count: int, tried: int) -> None:
    order = list(spread_order(count))
    assert sorted(order) == list(range(count))
    if tried <= count:
        places = sorted(order[:tried])
        gaps = [high - low for low, high in zip([0, *places], [*places, count - 1], strict=True)]
        assert max(gaps) <= 2 * count / tried + 2


def test_enough_is_when_segments_agree() -> None:
    alike = Trial(anchors=[10] * 16, tar_bytes=[1000] * 15 + [1010])
    assert alike.is_enough
    assert alike.bytes_per_anchor == pytest.approx(100.0625)
    assert not Trial(anchors=[10] * 15, tar_bytes=[1000] * 15).is_enough, "too few"
    assert not Trial(anchors=[10] * 16, tar_bytes=[500, 1500] * 8).is_enough, "too unlike"
