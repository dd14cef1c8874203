"""Every fault known from the wild, through the whole job: a clear error, or a quarantine that adds up."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from predecode.transforms.errors import DataError, SourceError
from tests import dirty
from tests.pipeline.running import manifest, quarantine, run, tree

CopyDataset = Callable[[str], Path]

CAM, WRIST, IMAGE = "observation.images.cam", "observation.images.wrist", "observation.img"
OPTIONS: dict[str, Any] = {"delta_indices": (("action", (0, 1, 2)),), "validation_fraction": 0.4, "image_codec": "png"}
ONE_THREAD = ("--direct_num_workers=1",)
REMEDY = r"[\s\S]*--on-error=quarantine"
AUDIT_REMEDY = r"[\s\S]*Mend the source, leave them out with --episodes, or give --on-error=quarantine"


@dataclass(frozen=True, kw_only=True)
class Trap:
    """A fault, and what comes of it.

    Attributes:
        spoil: Makes the fault in a copy of the dataset.
        says: What the error and the reason in quarantine.jsonl say: where, what was got, what was expected.
        lost: Anchors that are left out, by episode.
        dataset: Which one is spoiled.
    """

    spoil: Callable[[Path], None]
    says: str
    lost: dict[int, int]
    dataset: str = "zoo_v30"


FILE_0 = rf"videos/{CAM}/chunk-000/file-000\.mp4"
ENTRY_1 = rf"Episode 1: meta/episodes/chunk-000/file-000\.parquet: episode 1: {CAM}: "
V21_EPISODE = "data/chunk-000/episode_000002.parquet"

TRAPS = {
    "truncated video": Trap(
        spoil=partial(dirty.truncate_video, camera=CAM),
        says=rf"episode \d, frame \d+, camera '{CAM}': {FILE_0}: the video cannot be decoded",
        lost={0: 7, 1: 12, 2: 5},
    ),
    "video shorter than its rows": Trap(
        spoil=partial(dirty.shorten_video, camera=CAM, num_frames=20),
        says=rf"episode 2, frame 1, camera '{CAM}': {FILE_0}: no frame at 2\.0",
        lost={2: 5},
    ),
    "video shorter than its rows says the metadata": Trap(
        spoil=partial(dirty.short_span, camera=CAM, episode=1, num_frames=3, fps=10),
        says=ENTRY_1 + "the video has 3 frames for 12 rows",
        lost={1: 12},
    ),
    "missing video file": Trap(
        spoil=partial(dirty.remove_video, camera=CAM),
        says=rf"episode \d(, frame 0)?, camera '{CAM}': {FILE_0}: there is no such file\. Is the download complete",
        lost={0: 7, 1: 12, 2: 5},
    ),
    "offsets off the grid": Trap(
        spoil=partial(dirty.wrong_offsets, camera=CAM, episode=1, seconds=0.05),
        says=rf"episode 1, frame 0, camera '{CAM}': {FILE_0}: no frame at 0\.75",
        lost={1: 12},
    ),
    "offsets by whole frames": Trap(
        spoil=partial(dirty.wrong_offsets, camera=CAM, episode=1, seconds=-0.3),
        says="[Ee]pisode [01]: .*the video times overlap those of episode [01]",
        lost={0: 7, 1: 12},
    ),
    "offsets behind the end": Trap(
        spoil=partial(dirty.wrong_offsets, camera=CAM, episode=6, seconds=1e6),
        says=rf"episode 6, frame 0, camera '{CAM}': .*: no frame at 1000000\.",
        lost={6: 8},
    ),
    "jittered timestamps": Trap(
        spoil=partial(dirty.jitter_timestamps, row=9),
        says=rf"episode 1, frame 2, camera '{CAM}': {FILE_0}: no frame at 0\.93.*--tolerance-s",
        lost={1: 12},
    ),
    "NaN video columns": Trap(
        spoil=partial(dirty.null_video_columns, camera=CAM, episode=1),
        says=ENTRY_1 + "expected a video file_index of 0 or more, got nan",
        lost={1: 12},
    ),
    "null video columns": Trap(
        spoil=partial(dirty.null_video_columns, camera=CAM, episode=1, value=None),
        says=ENTRY_1 + "expected a video file_index of 0 or more, got nan",
        lost={1: 12},
    ),
    "undecodable image": Trap(
        spoil=partial(dirty.break_image, camera=IMAGE, row=26),
        says=rf"episode 3, frame 2 \(data/.*, row 26\), camera '{IMAGE}': expected an image",
        lost={3: 9},
    ),
    "null in a number": Trap(
        spoil=partial(dirty.set_values, column="next.reward", values={8: None}),
        says=r"episode 1, frame 1 \(data/.*, row 8\): feature 'next.reward' is null",
        lost={1: 12},
    ),
    "null in a vector": Trap(
        spoil=partial(dirty.set_values, column="action", values={8: [1.0, None]}),
        says=r"episode 1, frame 1 \(data/.*, row 8\): feature 'action' is null",
        lost={1: 12},
    ),
    "null text": Trap(
        spoil=partial(dirty.set_values, column="note", values={8: None}),
        says=r"episode 1, frame 1 \(data/.*, row 8\): feature 'note' is null",
        lost={1: 12},
    ),
    "null image": Trap(
        spoil=partial(dirty.set_values, column=IMAGE, values={26: None}),
        says=rf"episode 3, frame 2 \(data/.*, row 26\), camera '{IMAGE}': expected an image, got null",
        lost={3: 9},
    ),
    "null frame number": Trap(
        spoil=partial(dirty.set_values, column="frame_index", values={8: None}),
        says=r"Episode 1: data/.*: row 8: expected a frame_index, got null",
        lost={1: 12},
    ),
    "null time": Trap(
        spoil=partial(dirty.set_values, column="timestamp", values={8: None}),
        says=r"episode 1, frame 1 \(data/.*, row 8\): feature 'timestamp' is null",
        lost={1: 12},
    ),
    "vector of another length": Trap(
        spoil=partial(dirty.set_values, column="action", values={7: [1.0, 2.0, 3.0]}),
        says=r"episode 1, frame 0 \(data/.*, row 7\): feature 'action': expected shape \(2,\), got a list of 3",
        lost={1: 12},
    ),
    "task_index out of range": Trap(
        spoil=partial(dirty.set_values, column="task_index", values={8: 7}),
        says=r"Episode 1: data/.*: row 8: task_index is 7, for which there is no string: the dataset lists 3",
        lost={1: 12},
    ),
    "negative task_index": Trap(
        spoil=partial(dirty.set_values, column="task_index", values={8: -1}),
        says=r"Episode 1: data/.*: row 8: task_index is -1, for which there is no string",
        lost={1: 12},
    ),
    "frame number repeated": Trap(
        spoil=partial(dirty.set_values, column="frame_index", values={8: 0}),
        says=r"Episode 1: frame_index must count up from 0, each once; frame 0 comes again \(data/.*, row 8\)",
        lost={1: 12},
    ),
    "one video file an episode, shorter": Trap(
        spoil=partial(dirty.shorten_video, camera="observation.image", num_frames=200),
        says=r"episode 0, frame (200|203), camera 'observation.image': videos/.*_000000\.mp4: no frame at 2[01]\.",
        lost={0: 42},
        dataset="pusht_v21",
    ),
    "one video file an episode, truncated": Trap(
        spoil=partial(dirty.truncate_video, camera="observation.image"),
        says=r"episode 0(, frame \d+)?, camera 'observation.image': videos/.*episode_000000\.mp4: the video cannot be",
        lost={0: 216},
        dataset="pusht_v21",
    ),
    "one data file an episode, jittered": Trap(
        spoil=partial(dirty.jitter_timestamps, row=3, path=V21_EPISODE),
        says=r"episode 2, frame 3, camera 'observation.image': videos/.*episode_000002\.mp4: no frame at 0\.33",
        lost={2: 4},
        dataset="pusht_v21",
    ),
}
LESS_TELLING = {
    "null video columns",
    "null in a vector",
    "null text",
    "null image",
    "negative task_index",
    "one video file an episode, truncated",
    "one data file an episode, jittered",
}
"""Their like runs every time."""


def _parameters(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in LESS_TELLING else []) for name in names]


@pytest.fixture(scope="module")
def clean(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the output of a dataset without faults, made once."""
    folder = tmp_path_factory.mktemp("clean")

    def make(name: str) -> Path:
        if not (folder / name).exists():
            run(data_dir / name, folder / name, **OPTIONS)
        return folder / name

    return make


def members(output: Path) -> dict[tuple[str, str], bytes]:
    """Every file in every tar: the split and its name, which begins with the key of its sample."""
    found = {}
    for path in sorted(output.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                found[path.parent.name, member.name] = content.read()
    return found


def without(content: dict[tuple[str, str], bytes], left_out: list[dict[str, Any]]) -> dict[tuple[str, str], bytes]:
    """What should be left of an output when some anchors are left out."""
    gone = {
        f"{part['episode_index']:06d}-{frame:06d}"
        for part in left_out
        for frame in range(part["first_frame"], part["first_frame"] + part["num_anchors"])
    }
    return {name: value for name, value in content.items() if name[1].split(".")[0] not in gone}


def tars(output: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in tree(output).items() if name.endswith(".tar")}


@pytest.mark.parametrize("name", _parameters(TRAPS))
def test_fails_and_says_why(name: str, copy_dataset: CopyDataset, tmp_path: Path) -> None:
    trap = TRAPS[name]
    root = copy_dataset(trap.dataset)
    trap.spoil(root)
    with pytest.raises(DataError, match=trap.says + REMEDY) as error:
        run(root, tmp_path / "out", **OPTIONS)
    assert "Traceback" not in str(error.value)
    assert "[while running" not in str(error.value)
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("name", _parameters(TRAPS))
def test_quarantines_what_is_bad_and_nothing_else(
    name: str, copy_dataset: CopyDataset, clean: Callable[[str], Path], tmp_path: Path
) -> None:
    trap = TRAPS[name]
    root = copy_dataset(trap.dataset)
    trap.spoil(root)
    output, again, whole = tmp_path / "out", tmp_path / "again", clean(trap.dataset)
    run(root, output, on_error="quarantine", **OPTIONS)

    left_out = quarantine(output)
    lost: Counter[int] = Counter()
    for part in left_out:
        lost[part["episode_index"]] += part["num_anchors"]
    assert lost == trap.lost
    assert any(re.search(trap.says, part["reason"]) for part in left_out), left_out
    assert not any("--on-error" in part["reason"] for part in left_out), "advice that was already taken"

    assert members(output) == without(members(whole), left_out)
    splits, whole_splits = manifest(output)["splits"], manifest(whole)["splits"]
    assert {split: counts["anchors"] + counts["anchors_quarantined"] for split, counts in splits.items()} == {
        split: counts["anchors"] for split, counts in whole_splits.items()
    }
    assert sum(counts["anchors_quarantined"] for counts in splits.values()) == sum(trap.lost.values())

    run(root, again, flags=ONE_THREAD, on_error="quarantine", **OPTIONS)
    assert tree(again) == tree(output)


@pytest.mark.parametrize(
    "name", ["truncated video", "missing video file", "undecodable image", "null in a number", "NaN video columns"]
)
def test_goes_on_when_the_source_is_mended(
    name: str, copy_dataset: CopyDataset, clean: Callable[[str], Path], data_dir: Path, tmp_path: Path
) -> None:
    root = copy_dataset("zoo_v30")
    TRAPS[name].spoil(root)
    with pytest.raises(DataError):
        run(root, tmp_path / "out", **OPTIONS)
    shutil.rmtree(root)
    shutil.copytree(data_dir / "zoo_v30", root)
    run(root, tmp_path / "out", **OPTIONS)
    assert tree(tmp_path / "out") == tree(clean("zoo_v30"))


NO_FAULTS: dict[str, Callable[[Path], None]] = {
    "stale file_index": dirty.stale_file_index,
    "codec is not what info.json says": partial(
        dirty.edit_feature,
        name=CAM,
        spec={"dtype": "video", "shape": [48, 64, 3], "names": None, "info": {"video.codec": "theora", "video.fps": 1}},
    ),
    "video of another codec": partial(dirty.reencode_video, camera=CAM),
    "folder is not the usual one": dirty.rename_video_files,
    "interleaved episodes": partial(dirty.interleave_episodes, one=0, other=1),
    "episodes over many data files": partial(dirty.split_data_file, rows=[3, 5, 20]),
    "counts that are wrong": partial(dirty.edit_info, total_episodes=3, total_frames=-5, total_tasks="many"),
}


@pytest.mark.parametrize("name", NO_FAULTS)
def test_what_can_be_found_out_is_no_fault(
    name: str, copy_dataset: CopyDataset, clean: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copy_dataset("zoo_v30")
    NO_FAULTS[name](root)
    run(root, tmp_path / "out", **OPTIONS)
    assert tars(tmp_path / "out") == tars(clean("zoo_v30"))


def test_duplicate_numbers(copy_dataset: CopyDataset, clean: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.renumber_episodes(root, {1: 0})
    with pytest.raises(DataError, match=r"Episode 0: expected one entry .*, found 2 \(19 rows" + AUDIT_REMEDY):
        run(root, tmp_path / "out", **OPTIONS)
    run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
    parts = quarantine(tmp_path / "out")
    assert [(part["episode_index"], part["num_anchors"]) for part in parts] == [(0, 19), (1, 0)]
    assert "1 is neither in the data files nor in the metadata" in parts[1]["reason"]
    whole = members(clean("zoo_v30"))
    assert members(tmp_path / "out") == {
        name: content for name, content in whole.items() if not name[1].startswith(("000000-", "000001-"))
    }
    splits = manifest(tmp_path / "out")["splits"].values()
    assert sum(split["anchors"] + split["anchors_quarantined"] for split in splits) == 58


def test_numbers_with_a_gap(copy_dataset: CopyDataset, clean: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.renumber_episodes(root, {6: 9})
    with pytest.raises(DataError, match="numbers must count up without gaps: 6 to 8 are neither" + AUDIT_REMEDY):
        run(root, tmp_path / "out", **OPTIONS)
    run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
    assert [(part["episode_index"], part["num_anchors"]) for part in quarantine(tmp_path / "out")] == [(6, 0)]
    got, whole = members(tmp_path / "out"), members(clean("zoo_v30"))
    kept = {name: content for name, content in whole.items() if not name[1].startswith("000006-")}
    assert {name: content for name, content in got.items() if not name[1].startswith("000009-")} == kept
    pictures = {name[1][6:]: content for name, content in got.items() if name[1].endswith(".png")}
    assert {name[1][6:] for name in got if name[1].startswith("000009-")} == {
        name[1][6:] for name in whole if name[1].startswith("000006-")
    }
    assert all(pictures[name[1][6:]] for name in got if name[1].endswith(".png"))


class TestNothingIsLeft:
    """Where everything would be quarantined, the job fails and says why."""

    def test_no_frame_can_be_read(self, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        root = copy_dataset("zoo_v30")
        dirty.remove_video(root, WRIST)
        message = rf"None of the first 7 episodes can be read[\s\S]*: episode 0, camera '{WRIST}': .*no such file"
        with pytest.raises(DataError, match=message):
            run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
        assert not (tmp_path / "out/manifest.json").exists()

    def test_no_row_can_be_read(self, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        root = copy_dataset("zoo_v30")
        for number, rows in enumerate((33, 25)):
            path = f"data/chunk-000/file-{number:03d}.parquet"
            dirty.set_values(root, "next.reward", dict.fromkeys(range(rows)), path=path)
        with pytest.raises(DataError, match=r"Nothing is left: every anchor was quarantined\.[\s\S]*reward' is null"):
            run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
        assert not (tmp_path / "out/manifest.json").exists()

    def test_no_episode_is_sound(self, copy_dataset: CopyDataset, tmp_path: Path) -> None:
        root = copy_dataset("zoo_v30")
        for number, rows in enumerate((33, 25)):
            path = f"data/chunk-000/file-{number:03d}.parquet"
            dirty.set_values(root, "frame_index", dict.fromkeys(range(rows)), path=path)
        with pytest.raises(DataError, match=r"none of 7 episodes has an anchor[\s\S]*expected a frame_index"):
            run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
        assert not (tmp_path / "out").exists()


def test_a_whole_split_can_be_lost(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    for row in (0, 19):  # of episodes 0 and 2, which with 5 are the split val
        dirty.set_values(root, "next.reward", {row: None})
    dirty.set_values(root, "next.reward", {11: None}, path="data/chunk-000/file-001.parquet")
    run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
    assert {
        split: (counts["anchors"], counts["anchors_quarantined"])
        for split, counts in manifest(tmp_path / "out")["splits"].items()
    } == {"train": (40, 0), "val": (0, 18)}


def test_losses_do_not_satisfy_a_job_that_fails_on_errors(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    TRAPS["null in a number"].spoil(root)
    output = tmp_path / "out"
    run(root, output, on_error="quarantine", **OPTIONS)
    before = tree(output)
    message = r"committed by a run with --on-error=quarantine and lacks:\s+episode 1, 12 anchors: .* is null"
    with pytest.raises(DataError, match=message):
        run(root, output, **OPTIONS)
    assert tree(output) == before
    run(root, output, on_error="quarantine", **OPTIONS)
    assert tree(output) == before


def test_faults_that_only_the_audit_sees_do_not_either(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    TRAPS["null frame number"].spoil(root)
    run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
    with pytest.raises(DataError, match=TRAPS["null frame number"].says):
        run(root, tmp_path / "out", **OPTIONS)


def test_what_was_lost_comes_back_with_a_mended_source(
    copy_dataset: CopyDataset, clean: Callable[[str], Path], data_dir: Path, tmp_path: Path
) -> None:
    root = copy_dataset("zoo_v30")
    TRAPS["null in a number"].spoil(root)
    run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
    shutil.rmtree(root)
    shutil.copytree(data_dir / "zoo_v30", root)
    run(root, tmp_path / "out", overwrite=True, **OPTIONS)
    assert tree(tmp_path / "out") == tree(clean("zoo_v30"))


def test_rows_of_no_episode_cannot_be_quarantined(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.set_values(root, "episode_index", {8: None})
    with pytest.raises(SourceError, match=r"data/.*: row 8: expected an episode_index, got null"):
        run(root, tmp_path / "out", on_error="quarantine", **OPTIONS)
    assert not (tmp_path / "out").exists()
