"""Whether an output that is not what its source says is found out, though every checksum fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from predecode.pipeline.cli import main
from predecode.reader import certificate as certificate_module
from predecode.reader.certificate import certify_output
from predecode.reader.plain_images import StoredSize, image_problem
from predecode.transforms import samples
from predecode.transforms.errors import SourceError, UsageError
from predecode.transforms.hashing import digest
from predecode.transforms.images import image_codec
from predecode.transforms.manifest import manifest_bytes
from predecode.transforms.resize import RESIZE_MODES, resize
from predecode.transforms.sources.lerobot_reader import LeRobotReader
from predecode.transforms.windows import window
from tests import dirty
from tests.pipeline.running import manifest, quarantine, run, tree
from tests.reader.certifying import certify, found
from tests.reader.conftest import Materialized

WINDOWS = (("observation.image", (-1, 0)), ("action", (-3, 0, 5)))
CopyDataset = Callable[[str], Path]


@pytest.mark.parametrize(
    ("dataset", "golden", "per_sample"),
    [
        ("zoo_v30", "single", None),
        ("zoo_v30", "contiguous", None),
        ("zoo_v30", "unordered", None),
        ("zoo_v30", "far", 7),
        ("pusht_v30", "diffusion", None),
        ("pusht_v21", "diffusion", None),
        ("pusht_images_v30", "single", None),
        ("pusht_images_v30", "diffusion", None),
    ],
)
def test_each_fixture_is_what_its_source_says(
    materialized: Materialized, data_dir: Path, dataset: str, golden: str, per_sample: int | None
) -> None:
    output = materialized(dataset, golden, per_sample)
    certificate = certify(output, data_dir / dataset)
    assert found(certificate) == []
    counts = manifest(output)["splits"]["train"]
    assert (certificate.num_episodes, certificate.num_windows) == (counts["episodes"], counts["anchors"])
    for name, frames in manifest(output)["frames"].items():
        sums = certificate.cameras[name]
        assert sums.num_frames >= frames["stored"]  # The job counts a frame once that two samples of a segment hold.
        assert sums.num_metered >= frames["compared"]
        assert sums.psnr_db is None


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["aloha_v30", "aloha_v21"])
@pytest.mark.parametrize("options", [{}, {"image_size": (224, 224)}], ids=["source", "224"])
def test_large_frames(data_dir: Path, tmp_path: Path, dataset: str, options: dict[str, Any]) -> None:
    run(data_dir / dataset, tmp_path / "out", delta_indices=(("action", tuple(range(20))),), **options)
    assert found(certify(tmp_path / "out", data_dir / dataset)) == []


@pytest.mark.parametrize(
    "options",
    [
        {"image_codec": "jpeg"},
        {"image_codec": "jpeg", "jpeg_quality": 60, "image_size": (40, 56), "min_psnr_db": 0.0},
        {"image_codec": "zstd", "image_size": (24, 24), "resize_mode": "crop"},
        {"image_codec": "webp", "image_size": (100, 30), "resize_mode": "stretch"},
        {"anchor_stride": 3, "drop_last_frames": 2, "episodes": "1:3,5:", "validation_fraction": 0.5},
        {"exclude_features": ("u8", "observation.images.cam")},
    ],
    ids=lambda options: next(reversed(options)),
)
def test_whatever_was_asked_for(data_dir: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"image_codec": "png"} | options
    run(data_dir / "zoo_v30", tmp_path / "out", delta_indices=(("observation.img", (-2, 0)),), **settings)
    certificate = certify(tmp_path / "out", data_dir / "zoo_v30")
    assert found(certificate) == []
    splits = manifest(tmp_path / "out")["splits"].values()
    assert certificate.num_windows == sum(split["anchors"] for split in splits) > 0


ODD_BUT_SOUND: dict[str, Callable[[Path], None]] = {
    "stale file index": dirty.stale_file_index,
    "renamed videos": dirty.rename_video_files,
    "numbers with a gap": lambda root: dirty.renumber_episodes(root, {5: 9}),
    "interleaved": lambda root: dirty.interleave_episodes(root, 0, 1),
    "small row groups": lambda root: dirty.reorder_rows(root, range(941), row_group_size=7),
    "backwards": lambda root: dirty.reorder_rows(root, range(940, -1, -1), row_group_size=50),
    "several files": lambda root: dirty.split_data_file(root, [3, 100, 101]),
}


@pytest.mark.parametrize("name", ODD_BUT_SOUND)
def test_rows_are_found_wherever_they_are(copy_dataset: CopyDataset, tmp_path: Path, name: str) -> None:
    dataset = "pusht_v30" if name == "renamed videos" else "pusht_images_v30"
    source = copy_dataset(dataset)
    ODD_BUT_SOUND[name](source)
    run(source, tmp_path / "out", image_codec="png", delta_indices=WINDOWS, on_error="quarantine")
    assert found(certify(tmp_path / "out", source)) == []


class TestPlanted:
    """Outputs whose checksums fit, made from another source, or by a job that makes a mistake."""

    def test_a_value(self, data_dir: Path, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        other = copy_dataset("pusht_images_v30")
        value = [float(np.float32(7.25)), 1.0]
        dirty.set_values(other, "action", {20: value})
        run(other, tmp_path / "out", image_codec="png", delta_indices=WINDOWS, anchors_per_sample=1)
        certificate = certify(tmp_path / "out", data_dir / "pusht_images_v30")
        assert found(certificate) == [(0, frame, "action", delta) for frame, delta in ((15, 5), (20, 0), (23, -3))]
        assert "got 7.25 at [0]" in str(certificate)
        assert all(difference.shards for difference in certificate.differences)

    def test_the_last_bit_of_a_value(self, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        other = copy_dataset("pusht_images_v30")
        state = np.array([222.0, 97.0], np.float32)
        dirty.set_values(other, "observation.state", {0: state.tolist()})
        run(other, tmp_path / "one", image_codec="png")
        dirty.set_values(other, "observation.state", {0: np.nextafter(state, np.float32(999)).tolist()})
        assert found(certify(tmp_path / "one", other)) == [(0, 0, "observation.state", None)]

    def test_an_image(self, data_dir: Path, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        other = copy_dataset("pusht_images_v30")
        image = pq.read_table(other / dirty.DATA_FILE).column("observation.image")[200].as_py()
        dirty.set_values(other, "observation.image", {30: image})
        for codec in ("png", "jpeg"):
            output = tmp_path / codec
            run(other, output, image_codec=codec, delta_indices=WINDOWS, anchors_per_sample=1, episodes="0")
            certificate = certify(output, data_dir / "pusht_images_v30")
            expected = [(0, 30, "observation.image", 0), (0, 31, "observation.image", -1)]
            assert found(certificate)[:2] == expected
        assert "a JPEG of quality 95 has" in str(certificate)

    def test_a_task(self, data_dir: Path, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        other = copy_dataset("pusht_images_v30")
        dirty.set_values(other, "task_index", {700: 0, 701: 1})
        run(other, tmp_path / "out", image_codec="png")
        assert {feature for *_, feature, _ in found(certify(tmp_path / "out", data_dir / "pusht_images_v30"))} == {
            "task",
            "task_index",
        }

    @pytest.mark.parametrize("codec", ["png", "jpeg"])
    def test_the_frame_beside_the_right_one(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
    ) -> None:
        read = LeRobotReader.frames

        def shifted(
            self: LeRobotReader, episode: Any, camera: str, frames: Sequence[int]
        ) -> Iterator[NDArray[np.uint8]]:
            for frame in frames:
                yield from read(self, episode, camera, [max(0, frame - 1)])

        monkeypatch.setattr(LeRobotReader, "frames", shifted)
        run(data_dir / "pusht_v30", tmp_path / "out", image_codec=codec, episodes="0:2")
        differences = found(certify(tmp_path / "out", data_dir / "pusht_v30"))
        assert {feature for *_, feature, _ in differences} == {"observation.image"}
        assert len(differences) > 200

    def test_a_mask(self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        right = window

        def wrong(anchors: NDArray[np.int64], deltas: tuple[int, ...], num_frames: int) -> samples.Window:
            frames, is_pad = right(anchors, deltas, num_frames)
            return frames, is_pad & (anchors != 0)[:, None]

        monkeypatch.setattr(samples, "window", wrong)
        run(data_dir / "pusht_images_v30", tmp_path / "out", image_codec="png", episodes="2", delta_indices=WINDOWS)
        differences = found(certify(tmp_path / "out", data_dir / "pusht_images_v30"))
        assert differences == [(2, 0, "observation.image_is_pad", -1), (2, 0, "action_is_pad", -3)]

    def test_the_next_episodes_first_frame_as_padding(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = window

        def wrong(anchors: NDArray[np.int64], deltas: tuple[int, ...], num_frames: int) -> samples.Window:
            frames, is_pad = right(anchors, deltas, num_frames)
            return np.where(frames == num_frames - 1, num_frames - 2, frames), is_pad

        monkeypatch.setattr(samples, "window", wrong)
        run(data_dir / "zoo_v30", tmp_path / "out", image_codec="png", delta_indices=(("action", (0, 4)),))
        differences = found(certify(tmp_path / "out", data_dir / "zoo_v30"))
        assert {feature for *_, feature, _ in differences} >= {"action"}

    def test_missing_windows(self, data_dir: Path, tmp_path: Path) -> None:
        run(data_dir / "pusht_images_v30", tmp_path / "out", image_codec="png", drop_last_frames=2, episodes="0:5")
        claim(tmp_path / "out", drop_last_frames=0, episodes=None)
        certificate = certify(tmp_path / "out", data_dir / "pusht_images_v30")
        lengths = episode_lengths(data_dir / "pusht_images_v30")
        expected = [(episode, lengths[episode] - last, "", None) for episode in range(5) for last in (2, 1)]
        assert found(certificate) == [(5, None, "", None), *expected]
        assert f"episode 5: its {lengths[5]} windows are not in the output" in str(certificate)

    def test_windows_too_many(self, data_dir: Path, tmp_path: Path) -> None:
        run(data_dir / "pusht_images_v30", tmp_path / "out", image_codec="png", episodes="0")
        claim(tmp_path / "out", drop_last_frames=1)
        last = episode_lengths(data_dir / "pusht_images_v30")[0] - 1
        assert found(certify(tmp_path / "out", data_dir / "pusht_images_v30")) == [(0, last, "", None)]

    def test_what_is_quarantined_may_be_missing_and_nothing_else(
        self, data_dir: Path, copy_dataset: CopyDataset, tmp_path: Path
    ) -> None:
        other, output = copy_dataset("pusht_images_v30"), tmp_path / "out"
        dirty.break_image(other, "observation.image", row=3)
        run(other, output, image_codec="png", on_error="quarantine", episodes="0:2")
        source = data_dir / "pusht_images_v30"
        assert found(certify(output, source)) == []
        lost = quarantine(output)[0]
        content = json.dumps({**lost, "num_anchors": lost["num_anchors"] - 1}).encode() + b"\n"
        (output / "quarantine.jsonl").write_bytes(content)
        with_manifest(output, lambda manifest: manifest["files"].update({"quarantine.jsonl": described(content)}))
        assert found(certify(output, source)) == [(0, lost["first_frame"] + lost["num_anchors"] - 1, "", None)]

    def test_another_fidelity_than_stated(self, data_dir: Path, tmp_path: Path) -> None:
        run(data_dir / "pusht_images_v30", tmp_path / "out", episodes="0")
        with_manifest(tmp_path / "out", lambda manifest: manifest["frames"]["observation.image"].update(psnr_db=60.0))
        certificate = certify(tmp_path / "out", data_dir / "pusht_images_v30")
        assert "observation.image: the manifest states a PSNR of 60.0 dB, found were" in str(certificate)

    def test_another_dataset(self, data_dir: Path, materialized: Materialized) -> None:
        certificate = certify(materialized("zoo_v30", "far", 7), data_dir / "pusht_v30")
        assert not certificate.is_sound
        assert "the source has the features" in str(certificate)


@pytest.mark.slow
def test_a_repair_writes_what_differs_and_only_that(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = data_dir / "pusht_images_v30", tmp_path / "out"
    command = ["materialize", str(source), str(output), "--no-progress", "--image-size=16", "--image-codec=png"]
    verify = ["verify", str(output), "--source", str(source)]
    right = resize
    with monkeypatch.context() as planted:
        calls = iter(range(10**6))

        def wrong(image: NDArray[np.uint8], size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
            return right(image, size, mode) ^ (next(calls) == 500)

        planted.setattr(samples, "resize", wrong)
        assert main(command) == 0
    written = {path: path.stat().st_mtime_ns for path in output.rglob("shard-*.tar")}
    assert main([*verify, "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["certificate"]["num_differences"] == 1
    (shard,) = told["damaged_shards"]
    assert main([*verify, "--repair"]) == 1
    shown = capsys.readouterr()
    assert f"({shard})" in shown.out
    assert "Now run the same `predecode materialize` as before: it writes 1 shard anew" in shown.err
    assert main(command) == 0
    assert [path for path, time in written.items() if path.stat().st_mtime_ns != time] == [output / f"{shard}.tar"]
    capsys.readouterr()
    assert main(verify) == 0
    assert f"Every window is what {source} says: 6 episodes, 941 windows." in capsys.readouterr().out


def test_damaged_files_come_first(
    materialized: Materialized, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(materialized("zoo_v30", "far", 7), tmp_path / "out"))
    (output / "train/shard-00000.tar").unlink()
    assert main(["verify", str(output), "--source", str(data_dir / "zoo_v30")]) == 1
    assert "Its windows were not compared with the source" in capsys.readouterr().out


def test_what_cannot_be_a_source(materialized: Materialized, data_dir: Path, tmp_path: Path) -> None:
    output = materialized("zoo_v30", "far", 7)
    with pytest.raises(UsageError, match="is no LeRobot dataset"):
        certify_output(str(output), str(tmp_path))
    broken = Path(shutil.copytree(data_dir / "zoo_v30", tmp_path / "zoo"))
    (broken / "meta/tasks.parquet").unlink()
    with pytest.raises(SourceError, match=r"tasks.parquet: expected this file"):
        certify_output(str(output), str(broken))


def test_an_episode_that_cannot_be_read_any_more(materialized: Materialized, data_dir: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(data_dir / "pusht_v21", tmp_path / "pusht"))
    next(broken.glob("videos/**/episode_000001.mp4")).write_bytes(b"no video")
    differences = certify_output(str(materialized("pusht_v21", "diffusion")), str(broken)).differences
    assert [(each.episode_index, each.shards) for each in differences] == [(1, ())]
    assert "cannot be compared" in str(differences[0])


def test_only_the_first_differences_are_kept(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "MAX_KEPT", 5)
    run(data_dir / "pusht_images_v30", tmp_path / "out", image_codec="png", drop_last_frames=30, episodes="0:3")
    claim(tmp_path / "out", drop_last_frames=0)
    certificate = certify(tmp_path / "out", data_dir / "pusht_images_v30")
    assert certificate.num_differences == 90
    assert [each.episode_index for each in certificate.differences] == [0] * 5
    assert str(certificate).endswith("and 85 more")


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(224, 224), (64, 100), (31, 17), (300, 90), (480, 640), (8, 8)])
def test_the_two_resizers_differ_by_one_level_at_most(mode: str, size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for height, width, channels in ((96, 96, 3), (240, 320, 1), (120, 75, 4)):
        image = generator.integers(0, 256, (height, width, channels), np.uint8)
        expected = StoredSize(size, mode).resized(image)
        assert image_problem(resize(image, size, mode), expected, jpeg_quality=None, was_resized=True) == ""


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_the_two_jpeg_encoders_lose_the_same(quality: int) -> None:
    codec, generator = image_codec("jpeg", jpeg_quality=quality), np.random.default_rng(1)
    noise = generator.integers(0, 256, (40, 64, 3), np.uint8)
    smooth = np.linspace(0, 255, 40 * 64 * 3).reshape(noise.shape).astype(np.uint8)
    for image in (noise, smooth, smooth // 2 + noise // 8, smooth[..., :1].copy(), np.full_like(noise, 200)):
        assert image_problem(codec.decode(codec.encode(image)), image, jpeg_quality=quality, was_resized=False) == ""


def claim(output: Path, **options: Any) -> None:
    """Makes an output say that it was asked for something else."""
    plan = json.loads((output / "plan.json").read_text())
    del plan["digest"]
    plan["options"].update(options)
    (output / "plan.json").write_text(json.dumps({**plan, "digest": digest(plan)}))
    with_manifest(output, lambda manifest: manifest.update(plan=digest(plan)))


def with_manifest(output: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = manifest(output)
    del content["digest"]
    change(content)
    (output / "manifest.json").write_bytes(manifest_bytes(content))


def described(content: bytes) -> dict[str, Any]:
    from hashlib import sha256

    return {"size_bytes": len(content), "sha256": sha256(content).hexdigest()}


def episode_lengths(source: Path) -> list[int]:
    lengths: list[int] = pq.read_table(source / dirty.EPISODES_FILE).column("length").to_pylist()
    return lengths


def test_nothing_is_written(materialized: Materialized, data_dir: Path) -> None:
    output = materialized("zoo_v30", "far", 7)
    before = tree(output)
    assert main(["verify", str(output), "--source", str(data_dir / "zoo_v30"), "--repair"]) == 0
    assert tree(output) == before
