"""What comes out: readable by others' tools, described truly, and the same whatever the source's version is."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from PIL import Image

from predecode.transforms.errors import FidelityError
from predecode.transforms.fidelity import METER_STRIDE_FRAMES
from predecode.transforms.layout import split_of
from tests.pipeline.running import manifest, run, tree

LOAD_METADATA = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
meta = LeRobotDatasetMetadata("some/name", root=sys.argv[1])
print(json.dumps({
    "shapes": meta.shapes, "cameras": meta.camera_keys, "frames": meta.total_frames, "fps": meta.fps,
    "tasks": list(meta.tasks.index), "to": list(meta.episodes["dataset_to_index"]), "video_path": meta.video_path,
    "mean": meta.stats["observation.images.cam"]["mean"].shape,
}))
"""

LOAD_DATASET = """
import datasets, json, sys
splits = datasets.load_dataset(sys.argv[1])
row = splits["train"][0]
print(json.dumps({
    "rows": {name: split.num_rows for name, split in splits.items()}, "json": row["json"],
    "size": row["observation.images.cam.png"].size, "key": row["__key__"],
}))
"""


def table(path: Path) -> pa.Table:
    return pa.ipc.open_file(path).read_all()


def tars(folder: Path, split: str = "train") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / split).glob("*.tar"))}


@pytest.fixture(scope="module")
def zoo(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with every kind of feature, at 40 x 50 pixels."""
    output = tmp_path_factory.mktemp("zoo") / "out"
    run(data_dir / "zoo_v30", output, image_size=(40, 50), image_codec="png")
    return output


def test_copies_of_a_dataset_in_two_versions_give_equal_tars(
    data_dir: Path, tmp_path: Path, copy_dataset: Callable[[str], Path]
) -> None:
    old, new = data_dir / "pusht_v21", copy_dataset("pusht_v30")
    videos = sorted((old / "videos").rglob("*.mp4"))
    clips = tmp_path / "clips.txt"
    clips.write_text("".join(f"file '{video}'\n" for video in videos))
    (joined,) = (new / "videos").rglob("*.mp4")
    command: list[str | Path] = [
        "ffmpeg",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "concat",
        "-safe",
        "0",
        "-i",
        clips,
        "-c",
        "copy",
        joined,
    ]
    subprocess.run(command, check=True)
    run(old, tmp_path / "old", image_size=(64, 64))
    run(new, tmp_path / "new", image_size=(64, 64))
    assert len(tars(tmp_path / "old")) == 16
    assert tars(tmp_path / "old") == tars(tmp_path / "new")


def test_numbers_of_two_versions_give_equal_tars(data_dir: Path, tmp_path: Path) -> None:
    for version in ("v21", "v30"):
        run(
            data_dir / f"aloha_{version}",
            tmp_path / version,
            exclude_features=("observation.images.top", "observation.images.angle"),
            delta_indices=(("action", tuple(range(50))),),
        )
    assert tars(tmp_path / "v21") == tars(tmp_path / "v30")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves the last tar to the collector
def test_plain_webdataset_iterates_the_shards(zoo: Path) -> None:
    urls = [str(path) for path in sorted(zoo.glob("train/*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    gc.collect()
    assert len({sample["__key__"] for sample in samples}) == len(samples) == 58
    assert {frozenset(sample) for sample in samples} == {
        frozenset(
            {
                "__key__",
                "__url__",
                "__local_path__",
                "json",
                "data.safetensors",
                "observation.images.cam.png",
                "observation.images.wrist.png",
                "observation.img.png",
            }
        )
    }


def test_hf_datasets_finds_the_tars_and_only_them(zoo: Path, tmp_path: Path) -> None:
    # In a process of its own: it leaves tars open until they are collected, which is a warning here.
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command: list[str | Path] = [sys.executable, "-c", LOAD_DATASET, zoo]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["rows"] == {"train": 58}
    assert loaded["size"] == [50, 40]
    assert loaded["key"] == f"{loaded['json']['episode_index']:06d}-{loaded['json']['frame_index']:06d}"


@pytest.mark.needs_lerobot
def test_lerobots_own_class_loads_the_metadata(zoo: Path, lerobot_python: Path) -> None:
    command: list[str | Path] = [lerobot_python, "-c", LOAD_METADATA, zoo]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["shapes"]["observation.images.cam"] == [40, 50, 3]
    assert loaded["shapes"]["observation.images.wrist"] == [3, 40, 50]
    assert loaded["cameras"] == ["observation.images.cam", "observation.images.wrist", "observation.img"]
    assert (loaded["frames"], loaded["fps"], loaded["video_path"]) == (58, 10, None)
    assert loaded["tasks"] == ["task0", "task1", "task2"]
    assert loaded["to"][-1] == 58
    assert loaded["mean"] == [3, 1, 1]


def test_statistics_of_numbers_are_the_sources_and_those_of_resized_images_their_own(data_dir: Path, zoo: Path) -> None:
    source = json.loads((data_dir / "zoo_v30/meta/stats.json").read_text())
    stats = json.loads((zoo / "meta/stats.json").read_text())
    assert stats.keys() == source.keys()
    cameras = {"observation.images.cam", "observation.images.wrist", "observation.img"}
    assert {name for name in stats if stats[name] != source[name]} == cameras
    for name in cameras:
        assert np.shape(stats[name]["mean"]) == (3, 1, 1)
        assert np.all(np.array(stats[name]["mean"]) <= np.array(source[name]["mean"]) + 0.05), "padding is black"


def test_statistics_of_a_part_are_those_of_its_rows(data_dir: Path, tmp_path: Path) -> None:
    run(data_dir / "pusht_images_v30", tmp_path / "out", episodes="0:3", exclude_features=("observation.image",))
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    parquet = pa.parquet.read_table(data_dir / "pusht_images_v30/data").to_pydict()
    chosen = [action for action, index in zip(parquet["action"], parquet["episode_index"], strict=True) if index < 3]
    actions = np.array(chosen, np.float64)
    assert stats["action"]["count"] == [len(actions)]
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0), rtol=1e-9)
    assert stats["action"]["min"] == actions.min(axis=0).tolist()
    assert stats["action"]["max"] == actions.max(axis=0).tolist()


def test_fidelity_is_reported_and_gated_without_encoding_again(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options: dict[str, Any] = {"jpeg_quality": 20}
    with pytest.raises(
        FidelityError, match=r"observation\.image: encoding as jpeg leaves \d\d\.\d dB, expected at least 60"
    ):
        run(data_dir / "pusht_images_v30", output, min_psnr_db=60, **options)
    assert not (output / "manifest.json").exists()
    written = {path: path.stat().st_mtime_ns for path in output.glob("train/shard-*")}
    summary = run(data_dir / "pusht_images_v30", output, min_psnr_db=10, **options)
    assert {path: path.stat().st_mtime_ns for path in output.glob("train/shard-*")} == written
    reported = summary.psnr_db["observation.image"]
    assert reported is not None
    assert reported == pytest.approx(_psnr_of_metered_frames(data_dir, output), abs=0.01)


def _psnr_of_metered_frames(data_dir: Path, output: Path) -> float:
    """The same figure, from the tars and the source's own images."""
    rows = pa.parquet.read_table(data_dir / "pusht_images_v30/data")
    originals = {
        (row["episode_index"], row["frame_index"]): row["observation.image"]["bytes"]
        for row in rows.select(["episode_index", "frame_index", "observation.image"]).to_pylist()
    }
    errors = []
    for path in sorted(output.glob("train/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".jpg"):
                    continue
                episode, frame = (int(part) for part in member.name.split(".")[0].split("-"))
                if frame % METER_STRIDE_FRAMES == 0:
                    original = np.asarray(Image.open(pa.BufferReader(originals[episode, frame])), np.float64)
                    content = tar.extractfile(member)
                    assert content is not None
                    stored = np.asarray(Image.open(content), np.float64)
                    errors.append(((original - stored) ** 2).mean())
    return float(10 * np.log10(255**2 / np.mean(errors)))


def test_a_lossless_codec_is_reported_as_such(zoo: Path) -> None:
    frames = manifest(zoo)["frames"]
    assert {(camera["psnr_db"], camera["squared_error"]) for camera in frames.values()} == {(None, 0)}
    assert all(camera["compared"] > 0 for camera in frames.values())


def test_validation_episodes_are_apart_and_numbered_from_zero(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = run(
        data_dir / "pusht_images_v30", output, validation_fraction=0.4, seed=1, exclude_features=("observation.image",)
    )
    for split in ("train", "val"):
        expected = [i for i in range(6) if split_of(i, validation_fraction=0.4, seed=1) == split]
        assert expected, "this seed must give both splits an episode"
        order = table(output / split / "order.arrow")
        assert sorted(set(order["episode_index"].to_pylist())) == expected
        assert sum(order["anchors"].to_pylist()) == summary.anchors[split]
        assert (output / split / "shard-00000.tar").exists()
    assert sum(summary.anchors.values()) == 941


def test_a_history_of_sixteen_frames_is_stored_nearly_once(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = run(data_dir / "pusht_images_v30", output, delta_indices=(("observation.image", tuple(range(-15, 1))),))
    assert summary.anchors == {"train": 941}
    assert summary.frames / 941 <= 1.05


def test_the_index_says_where_every_byte_lies(data_dir: Path, tmp_path: Path) -> None:
    import xxhash

    output = tmp_path / "out"
    run(data_dir / "zoo_v30", output, delta_indices=(("observation.images.cam", (-1, 0)), ("action", (0, 1))))
    for path in sorted(output.glob("train/*.tar")):
        content = path.read_bytes()
        rows = table(path.with_suffix(".index.arrow")).to_pylist()
        with tarfile.open(path) as tar:
            members = {member.name: content[member.offset_data :][: member.size] for member in tar}
        found = {}
        for row in rows:
            for column, offset in row.items():
                if not column.endswith("/offset"):
                    continue
                extension = column.removesuffix("/offset")
                part = content[offset : offset + row[f"{extension}/size"]]
                found[f"{row['key']}.{extension}"] = part
                assert xxhash.xxh3_64_intdigest(part) == row[f"{extension}/xxh3"]
                bounds = row.get(f"{extension}/frame_offset")
                for start, stop, checksum in zip(
                    bounds or [], (bounds or [])[1:], row.get(f"{extension}/frame_xxh3") or [], strict=False
                ):
                    assert xxhash.xxh3_64_intdigest(part[start:stop]) == checksum
        assert found == members


def test_no_stray_file_and_every_file_is_accounted_for(zoo: Path) -> None:
    described = set(manifest(zoo)["files"]) | {"plan.json", "manifest.json"}
    shards = {name for name in tree(zoo) if name.startswith("train/shard-")}
    assert set(tree(zoo)) == described | shards
    assert len(shards) == 3 * manifest(zoo)["splits"]["train"]["shards"]
