"""Datasets made to harm: refused with a clear message, quickly, and nothing but OUTPUT is touched."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from predecode.transforms.errors import DataError, PredecodeError, SourceError
from predecode.transforms.images import MAX_PIXELS
from tests import dirty
from tests.pipeline.running import manifest, quarantine, run, tree

CopyDataset = Callable[[str], Path]

CAM, IMAGE = "observation.images.cam", "observation.img"
BOMB = rf"episode 3, frame 2 .*(at most {MAX_PIXELS} pixels|could be decompression bomb)"
MAX_MEMORY_GROWTH = 200_000_000


@pytest.fixture(scope="module", autouse=True)
def warm(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a job needs for its libraries is not counted."""
    run(data_dir / "zoo_v30", tmp_path_factory.mktemp("warm") / "out")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Path]:
    """The output's place, in a folder where nothing else may change, by a job that may not need much memory."""
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc/passwd").write_text("secret")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield outside / "out"
    assert {name for name in tree(outside) if not name.startswith("out/")} == {"etc/passwd"}
    assert (outside / "etc/passwd").read_text() == "secret"
    assert not (outside / "out/manifest.json").exists()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MAX_MEMORY_GROWTH


def refuse(root: Path, output: Path, message: str, *, on_error: str = "fail", kind: type = SourceError) -> None:
    """Runs the job, which must say no: at all events, or only where it fails on bad data."""
    with pytest.raises(kind, match=message) as error:
        run(root, output, on_error=on_error)
    assert isinstance(error.value, PredecodeError)
    assert len(str(error.value)) < 2500
    assert "Traceback" not in str(error.value)


UNSAFE_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/../b",
    "a/b",
    "a\\b",
    ".hidden",
    "__private",
    "nul\0byte",
    "line\nbreak",
    "half\ud800character",
    "x" * 77,
    "ü" * 39,
    "",
    " \u202etxt",
]


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_feature_names(name: str, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.edit_feature(root, name, {"dtype": "float32", "shape": [1]})
    refuse(root, guarded, "feature name|half a character|surrogates not allowed")


TEMPLATES = [
    "../{video_key}/{file_index}.mp4",
    "videos/../../{video_key}/{file_index}.mp4",
    "/etc/passwd",
    "file:///etc/passwd",
    "~/x",
    "videos\\{video_key}",
    "videos/\0{video_key}",
    "videos/{video_key.__class__.__mro__}/{file_index}.mp4",
    "videos/{video_key[0]}/{file_index}.mp4",
    "videos/{0}/{file_index}.mp4",
    "videos/{}/{file_index}.mp4",
    "videos/{video_key!r}/{file_index}.mp4",
    "videos/{file_index:999999999d}/{video_key}.mp4",
    "videos/{file_index:>{chunk_index}}/{video_key}.mp4",
    "videos/{folder}/{video_key}.mp4",
    "videos/{video_key",
    "v" * 5000,
    "{video_key}" * 1000,
    "",
    None,
    7,
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates(template: object, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "video_path": template}))
    refuse(root, guarded, "video_path: expected a path")


def test_image_paths_that_leave_the_dataset(copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    paths = ["../outside/etc/passwd", str(guarded.parent / "etc/passwd"), "a\0b", "x" * 5000, "file:///etc/passwd"]
    dirty.set_values(root, IMAGE, {row: {"bytes": None, "path": path} for row, path in enumerate(paths)})
    refuse(root, guarded, "episode 0, frame 0 .*expected the bytes of an image, got only the path", kind=DataError)


INFO_CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "fps zero": ({"fps": 0}, "expected fps"),
    "fps negative": ({"fps": -10}, "expected fps"),
    "fps NaN": ({"fps": float("nan")}, "expected fps"),
    "fps infinite": ({"fps": float("inf")}, "expected fps"),
    "fps huge": ({"fps": 1e300}, "expected fps"),
    "fps beyond floats": ({"fps": 10**400}, "expected fps"),
    "fps true": ({"fps": True}, "expected fps"),
    "fps text": ({"fps": "10"}, "expected fps"),
    "version long": ({"codebase_version": "v" + "9" * 100_000}, "expected a codebase_version"),
    "version list": ({"codebase_version": ["v3.0"]}, "expected a codebase_version"),
    "features list": ({"features": [1]}, "expected `features`"),
    "half a character": ({"robot_type": "\ud800"}, "surrogates not allowed"),
}


@pytest.mark.parametrize("name", INFO_CHANGES)
def test_info(name: str, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    changes, message = INFO_CHANGES[name]
    dirty.edit_info(root, **changes)
    refuse(root, guarded, rf"info\.json: {message}|{message}")


@pytest.mark.parametrize(
    "shape", [[10**9], [1 << 13, 1 << 13], [10**3000] * 3000, [1] * 100_000, [0], [-1], [True], [2.0], "2", None, []]
)
def test_shapes(shape: object, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.edit_feature(root, "action", {"dtype": "float32", "shape": shape})
    refuse(root, guarded, "feature 'action': expected a shape of 1 to 8 positive sizes")


@pytest.mark.parametrize("size", [0, -1, 2.5, "1", True, 10**30])
def test_chunks_size(size: object, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("pusht_v21")
    dirty.edit_info(root, chunks_size=size)
    refuse(root, guarded, "expected chunks_size to be 1 or more")


@pytest.mark.parametrize("path", ["meta/info.json", "meta/stats.json"])
def test_nesting(path: str, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    for text in ("[" * 2_000_000, '{"a":' * 100_000 + "1" + "}" * 100_000):
        (root / path).write_text(text)
        refuse(root, guarded, rf"{path}: expected JSON, got what cannot be parsed")


def test_nesting_of_lines(copy_dataset: CopyDataset, guarded: Path) -> None:
    for path in ("meta/tasks.jsonl", "meta/episodes.jsonl"):
        root = copy_dataset("pusht_v21")
        (root / path).write_text("[" * 2_000_000)
        refuse(root, guarded, rf"{path}: line 1: expected a JSON object")
        root.rename(root.with_name(path.replace("/", "-")))


def test_a_huge_info_is_only_read_once(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.edit_info(root, notes="x" * 100_000_000, total_frames=10**18, total_episodes=10**18, total_chunks=-1)
    run(root, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.*")) < 2_000_000


LINES: dict[str, tuple[str, str]] = {
    "not finished": ('{"episode_index": 0, "x": "' + "x" * 20_000_000, r"line 1: expected a JSON object"),
    "number huge": ('{"episode_index": 1000000000000000, "length": 1}', "line 1: expected an episode_index"),
    "number negative": ('{"episode_index": -1, "length": 1}', "line 1: expected an episode_index"),
    "number true": ('{"episode_index": true, "length": 1}', "line 1: expected an episode_index"),
    "half a character": ('{"episode_index": 0, "length": 216, "tasks": ["\\ud800"]}', "surrogates not allowed"),
    "digits": ('{"episode_index": ' + "9" * 100_000 + "}", "line 1: expected a JSON object"),
}


@pytest.mark.parametrize("name", LINES)
def test_lists_of_episodes(name: str, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("pusht_v21")
    line, message = LINES[name]
    (root / "meta/episodes.jsonl").write_text(line)
    refuse(root, guarded, rf"episodes\.jsonl: {message}|{message}", on_error="quarantine")


@pytest.mark.parametrize("index", [10**6 + 1, 10**18, -1])
def test_task_numbers(index: int, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("pusht_v21")
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": index, "task": "push"}))
    refuse(root, guarded, r"tasks\.jsonl: line 1: expected a task_index")


def set_episodes(root: Path, changes: dict[str, Any]) -> None:
    """Values of episode 1 in the metadata."""
    dirty._set_episode_values(root, {column: {1: value} for column, value in changes.items()})


def huge_jpeg() -> bytes:
    """A JPEG whose frame header claims 65,500 x 65,500 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65_500, 65_500)
    return bytes(data)


def huge_tiff() -> bytes:
    """A TIFF whose directory claims 1,000,000 x 1,000,000 pixels."""
    entries = [(256, 4, 10**6), (257, 4, 10**6), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, 10**6), (279, 4, 1)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


SPAN = f"videos/{CAM}"
BAD_EPISODES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "length huge": (partial(set_episodes, changes={"length": 10**18}), 1, "expected a length of 1 or more, got 1e"),
    "length negative": (partial(set_episodes, changes={"length": -5}), 1, "expected a length of 1 or more, got -5"),
    "length large": (partial(set_episodes, changes={"length": 10**12}), 1, "the video has 12 frames for 10000000000"),
    "file number huge": (
        partial(set_episodes, changes={f"{SPAN}/file_index": 10**18}),
        1,
        "expected a video file_index of 0 or more, got 1e",
    ),
    "file number negative": (
        partial(set_episodes, changes={f"{SPAN}/chunk_index": -3}),
        1,
        "expected a video chunk_index of 0 or more, got -3",
    ),
    "video times huge": (
        partial(set_episodes, changes={f"{SPAN}/from_timestamp": 1e307, f"{SPAN}/to_timestamp": 1e308}),
        1,
        "expected video times 0 <= from < to, got from 1e",
    ),
    "video times backwards": (
        partial(set_episodes, changes={f"{SPAN}/to_timestamp": -1.0}),
        1,
        "expected video times 0 <= from < to, got from 0.7 to -1.0",
    ),
    "time of a row huge": (
        partial(dirty.set_values, column="timestamp", values={8: 3e38}),
        1,
        "episode 1, frame 1, .*expected a time before 1.9 s",
    ),
    "time of a row infinite": (
        partial(dirty.set_values, column="timestamp", values={8: float("-inf")}),
        1,
        "episode 1, frame 1: expected a timestamp in seconds, got -inf",
    ),
    "frame number huge": (
        partial(dirty.set_values, column="frame_index", values={8: 2**63 - 1}),
        1,
        "frame_index must count up from 0",
    ),
    "huge PNG": (partial(dirty.image_bomb, camera=IMAGE, row=26, size=2**31 - 1), 3, BOMB),
    "huge JPEG": (
        partial(dirty.set_values, column=IMAGE, values={26: {"bytes": huge_jpeg(), "path": None}}),
        3,
        BOMB,
    ),
    "huge TIFF": (
        partial(dirty.set_values, column=IMAGE, values={26: {"bytes": huge_tiff(), "path": None}}),
        3,
        BOMB,
    ),
}


@pytest.mark.parametrize("name", BAD_EPISODES)
def test_one_absurd_episode_spoils_only_itself(name: str, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    spoil, episode, message = BAD_EPISODES[name]
    spoil(root)
    refuse(root, guarded, message, kind=DataError)
    output = guarded.parent.with_name("kept")
    run(root, output, on_error="quarantine")
    assert {part["episode_index"] for part in quarantine(output)} == {episode}
    (split,) = manifest(output)["splits"].values()
    assert split["anchors"] + split["anchors_quarantined"] == 58


@pytest.mark.parametrize("number", [10**15, 2**53 - 1])
def test_episode_numbers_that_are_huge(number: int, copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.renumber_episodes(root, {6: number})
    refuse(root, guarded, rf"must count up without gaps: 6 to {number - 1} are neither", kind=DataError)


def test_episode_numbers_that_are_negative(copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.renumber_episodes(root, {6: -4})
    refuse(root, guarded, "expected episode_index to be 0 or more, got -4", kind=DataError)


def test_a_video_of_huge_frames(copy_dataset: CopyDataset, guarded: Path) -> None:
    root = copy_dataset("zoo_v30")
    path = root / f"videos/{CAM}/chunk-000/file-002.mp4"
    size = ["-f", "lavfi", "-i", "color=s=8208x8208:r=10", "-frames:v", "1", "-c:v", "libx264", "-preset", "ultrafast"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *size, str(path)], check=True)
    refuse(root, guarded, rf"episode 6, frame 0, camera '{CAM}': .*declares 8208 x 8208 pixels", kind=DataError)
