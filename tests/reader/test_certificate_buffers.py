"""Outputs that were made from Zarr replay buffers, compared with these; and whether what is wrong is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from predecode.pipeline.cli import main
from predecode.reader.certificate import certify_output
from predecode.transforms import samples
from predecode.transforms.errors import SourceError, SourceNotFoundError, UsageError
from predecode.transforms.sources.zarr_reader import ZarrReader
from predecode.transforms.windows import window
from tests.pipeline.running import run
from tests.reader.certifying import certify, found
from tests.sources.replay_buffers import write_buffer

ENDS = [5, 14, 15, 27]
Arrays = dict[str, NDArray[Any]]

BUFFER: dict[str, Any] = {
    "fps": 12.5,
    "task": "Stir.",
    "rename": (("img", "observation.image"), ("state", "observation.state")),
    "delta_indices": (("observation.image", (-1, 0)), ("observation.state", (0,)), ("action", (-2, 0, 3))),
    "image_codec": "png",
    "anchors_per_sample": 1,
}


def arrays() -> Arrays:
    """One of each kind: cameras of bytes and of floats, a matrix, vectors, scalars with and without an axis."""
    generator = np.random.default_rng(0)
    rows = ENDS[-1]
    return {
        "action": generator.normal(size=(rows, 2)).astype(np.float32),
        "count": generator.integers(0, 200, (rows, 1), np.uint8),
        "done": generator.integers(0, 2, rows).astype(bool),
        "far": np.full((rows, 3), 1e300),
        "gray": generator.integers(0, 256, (rows, 20, 24, 1)).astype(np.float32),
        "img": generator.integers(0, 256, (rows, 16, 24, 3), np.uint8),
        "matrix": generator.normal(size=(rows, 4, 4, 3)).astype(np.float32),
        "state": generator.normal(size=(rows, 3)),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_buffer(tmp_path_factory.mktemp("source") / "stir.zarr", arrays(), ENDS)


def other(path: Path, name: str, row: int, value: Any) -> Path:
    """The same buffer but for one row of one array."""
    changed = arrays()
    changed[name][row] = value
    return write_buffer(path, changed, ENDS)


@pytest.mark.parametrize(
    ("name", "version"), [("stir.zarr", 2), ("stir.zarr", 3), ("stir.zarr.zip", 2), ("stir.zarr.zip", 3)]
)
def test_an_output_is_what_its_buffer_says(tmp_path: Path, name: str, version: int) -> None:
    source = write_buffer(tmp_path / name, arrays(), ENDS, version=version)
    run(source, tmp_path / "out", **BUFFER)
    certificate = certify(tmp_path / "out", source)
    assert certificate.differences == []
    assert (certificate.num_episodes, certificate.num_windows) == (4, 27)
    assert {camera: sums.num_frames for camera, sums in certificate.cameras.items()} == {
        "gray": 27,
        "observation.image": 2 * 27 - 4,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"image_codec": "jpeg", "anchors_per_sample": 4, "min_psnr_db": 0.0},
        {"image_codec": "zstd", "image_size": (12, 12), "resize_mode": "crop"},
        {"anchor_stride": 2, "drop_last_frames": 3, "episodes": "0,3", "exclude_features": ("far", "count")},
        {"rename": (), "delta_indices": (("img", (-2, 0)),), "validation_fraction": 0.5, "task": None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_whatever_was_asked_for(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run(source, tmp_path / "out", **(BUFFER | options))
    certificate = certify(tmp_path / "out", source)
    assert certificate.differences == []
    assert certificate.num_windows > 0


def test_chunks_that_are_images(tmp_path: Path) -> None:
    """As UMI writes them; written by hand, since zarr-python 3 does not know the codec."""
    source = write_buffer(tmp_path / "umi.zarr", arrays(), ENDS, chunk_rows=1)
    folder = source / "data/img"
    described = json.loads((folder / ".zarray").read_text())
    described |= {"compressor": {"id": "imagecodecs_jpegxl"}, "filters": None, "chunks": [1, 16, 24, 3]}
    (folder / ".zarray").write_text(json.dumps(described))
    for row, image in enumerate(arrays()["img"]):
        (folder / f"{row}.0.0.0").write_bytes(imagecodecs.jpegxl_encode(image, level=100, lossless=True))
    run(source, tmp_path / "out", **BUFFER)
    assert certify(tmp_path / "out", source).differences == []
    (folder / "7.0.0.0").write_bytes(b"no image")
    (difference,) = certify(tmp_path / "out", source).differences
    assert (difference.episode_index, difference.shards) == (1, ())
    assert "data/img/7.0.0.0: expected an image" in str(difference)


class TestPlanted:
    """Outputs whose checksums fit, made from another buffer, or by a job that makes a mistake."""

    def test_a_value(self, source: Path, tmp_path: Path) -> None:
        changed = other(tmp_path / "other.zarr", "action", 8, [7.25, 1.0])
        run(changed, tmp_path / "out", **BUFFER)
        certificate = certify(tmp_path / "out", source)
        assert found(certificate) == [(1, frame, "action", delta) for frame, delta in ((0, 3), (3, 0), (5, -2))]
        assert "got 7.25 at [0]" in str(certificate)
        assert all(difference.shards for difference in certificate.differences)

    def test_the_last_bit_of_a_value(self, source: Path, tmp_path: Path) -> None:
        value = arrays()["matrix"][20]
        value[1, 2, 0] = np.nextafter(value[1, 2, 0], np.float32(9))
        run(other(tmp_path / "other.zarr", "matrix", 20, value), tmp_path / "out", **BUFFER)
        assert found(certify(tmp_path / "out", source)) == [(3, 5, "matrix", None)]

    @pytest.mark.parametrize(
        ("name", "feature", "deltas"), [("img", "observation.image", (0, -1)), ("gray", "gray", (None,))]
    )
    def test_an_image(
        self, source: Path, tmp_path: Path, name: str, feature: str, deltas: tuple[int | None, ...]
    ) -> None:
        image = arrays()[name][10]
        image[3, 4] += 1
        run(other(tmp_path / "other.zarr", name, 10, image), tmp_path / "out", **BUFFER)
        assert found(certify(tmp_path / "out", source)) == [(1, 5 - (delta or 0), feature, delta) for delta in deltas]

    def test_the_frame_beside_the_right_one(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = ZarrReader.frames

        def shifted(self: ZarrReader, episode: Any, camera: str, frames: Sequence[int]) -> Iterator[Any]:
            for frame in frames:
                yield from read(self, episode, camera, [max(0, frame - 1)])

        monkeypatch.setattr(ZarrReader, "frames", shifted)
        run(source, tmp_path / "out", **BUFFER)
        differences = found(certify(tmp_path / "out", source))
        assert {feature for *_, feature, _ in differences} == {"observation.image", "gray"}
        assert len(differences) == 2 * (27 - len(ENDS)), "all but each episode's first frame"

    def test_a_mask(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        right = window

        def wrong(anchors: NDArray[np.int64], deltas: tuple[int, ...], num_frames: int) -> samples.Window:
            frames, is_pad = right(anchors, deltas, num_frames)
            return frames, is_pad & (anchors != 0)[:, None]

        monkeypatch.setattr(samples, "window", wrong)
        run(source, tmp_path / "out", **(BUFFER | {"episodes": "3"}))
        assert found(certify(tmp_path / "out", source)) == [
            (3, 0, "observation.image_is_pad", -1),
            (3, 0, "action_is_pad", -2),
        ]

    def test_episodes_that_end_elsewhere(self, source: Path, tmp_path: Path) -> None:
        run(write_buffer(tmp_path / "other.zarr", arrays(), [5, 13, 15, 27]), tmp_path / "out", **BUFFER)
        differences = found(certify(tmp_path / "out", source))
        assert (1, 8, "", None) in differences, "a window is missing"
        assert (2, 1, "", None) in differences, "a window is too much"

    def test_another_buffer(self, source: Path, tmp_path: Path) -> None:
        changed = arrays()
        del changed["done"]
        run(write_buffer(tmp_path / "other.zarr", changed, ENDS), tmp_path / "out", **BUFFER)
        assert "the source has the features action, count, done" in str(certify(tmp_path / "out", source))


def test_what_cannot_be_read_any_more(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", **BUFFER)
    broken = Path(shutil.copytree(source, tmp_path / "broken.zarr"))
    (broken / "data/action/3.0").unlink()
    differences = certify(tmp_path / "out", broken).differences
    assert [each.episode_index for each in differences] == [3]
    assert "cannot be compared: episode 3, action, rows 15 to 27" in str(differences[0])


def test_what_cannot_be_a_source(source: Path, tmp_path: Path, data_dir: Path) -> None:
    run(source, tmp_path / "out", **BUFFER)
    with pytest.raises(SourceNotFoundError, match="no such file or folder"):
        certify_output(str(tmp_path / "out"), str(tmp_path / "nothing.zarr"))
    with pytest.raises(SourceNotFoundError, match="no Zarr group here"):
        certify_output(str(tmp_path / "out"), str(data_dir / "pusht_v30"))
    short = write_buffer(tmp_path / "short.zarr", arrays(), [5, 14])
    with pytest.raises(SourceError, match=r"episode_ends: expected ends .* got the last end 14"):
        certify_output(str(tmp_path / "out"), str(short))
    run(data_dir / "pusht_v30", tmp_path / "lerobot", image_codec="png", episodes="0")
    with pytest.raises(UsageError, match="is no LeRobot dataset, as the one that the output was made from"):
        certify_output(str(tmp_path / "lerobot"), str(source))


def test_from_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(source, tmp_path / "out", **(BUFFER | {"image_codec": "jpeg", "min_psnr_db": 0.0}))
    assert main(["verify", str(tmp_path / "out"), "--source", str(source)]) == 0
    assert f"Every window is what {source} says: 4 episodes, 27 windows." in capsys.readouterr().out
    assert main(["report", str(tmp_path / "out"), str(tmp_path / "page.html"), "--source", str(source)]) == 0
    assert f"<code>{source}</code>" in (tmp_path / "page.html").read_text(), "what frames were compared with"
