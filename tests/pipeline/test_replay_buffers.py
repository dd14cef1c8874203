"""Replay buffers through the whole job: the same items, semantics and guarantees as for LeRobot's datasets."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from predecode.pipeline.cli import main
from predecode.reader import WindowDataset
from predecode.transforms.errors import DataError, PlanMismatchError
from tests.pipeline.running import manifest, quarantine, run, run_killed, tree
from tests.readback import read_items
from tests.reader.test_readback import as_item
from tests.sources.reading import open_at, read_golden, same
from tests.sources.replay_buffers import CHUNK_ROWS, arrays_of, write_buffer

NAMES = {"observation.image": "img", "observation.state": "state"}
"""What Diffusion Policy calls the arrays of its PushT buffer."""

RENAME = tuple((new, old) for old, new in NAMES.items())

CHECKOUT = "PREDECODE_DIFFUSION_POLICY"
"""Names a checkout of real-stanford/diffusion_policy, if its own sampler is to be compared with, too."""

Oracle = Callable[[dict[str, NDArray[Any]], list[int]], Iterator[dict[str, NDArray[Any]]]]

HORIZON, OBSERVED, ACTED = 16, 2, 8
"""Diffusion Policy's own settings for PushT."""

BUFFER: dict[str, Any] = {"fps": 10.0, "rename": RENAME, "task": "Push the T."}
WINDOWS: dict[str, Any] = {"delta_indices": (("observation.image", (-1, 0)), ("action", (0, 1, 2, 3)))}


@pytest.fixture(scope="module")
def pusht(data_dir: Path) -> tuple[dict[str, NDArray[Any]], list[int]]:
    """The arrays of the bundled dataset under Diffusion Policy's names, and where its episodes end."""
    arrays, ends = arrays_of(open_at(data_dir / "pusht_images_v30"))
    return {NAMES.get(name, name): values for name, values in arrays.items()}, ends


@pytest.fixture(scope="module")
def buffer(pusht: tuple[dict[str, NDArray[Any]], list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay buffer as Diffusion Policy writes them."""
    return write_buffer(tmp_path_factory.mktemp("buffer") / "pusht.zarr", *pusht)


@pytest.fixture(scope="module")
def reference(buffer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one thread makes of it."""
    output = tmp_path_factory.mktemp("reference") / "out"
    run(buffer, output, flags=["--direct_num_workers=1"], image_codec="png", **BUFFER, **WINDOWS)
    return output


@pytest.mark.parametrize("name", ["v2.zarr", "v3.zarr", "v2.zarr.zip"])
def test_items_are_those_of_lerobot(
    data_dir: Path, tmp_path: Path, pusht: tuple[dict[str, NDArray[Any]], list[int]], name: str
) -> None:
    values, asked = read_golden(data_dir / "goldens" / "pusht_images_v30.diffusion.safetensors.gz")
    source = write_buffer(tmp_path / name, *pusht, version=int(name[1]))
    deltas = tuple((key, tuple(found)) for key, found in asked["delta_indices"].items())
    run(source, tmp_path / "out", image_codec="png", delta_indices=deltas, **BUFFER)
    items = sorted(read_items(tmp_path / "out"), key=lambda item: int(item["index"]))
    assert len(items) == 941
    assert {key.split("/", 1)[1] for key in values} == set(items[0])
    wrong = []
    for path, value in values.items():
        number, key = path.split("/", 1)
        # the bundled dataset has two tasks, a replay buffer one
        if key not in ("task", "task_index") and not same(items[int(number)][key], as_item(value)):
            wrong.append(path)
    assert wrong == []
    assert {item["task"] for item in items} == {"Push the T."}


def sampled(arrays: dict[str, NDArray[Any]], ends: list[int]) -> Iterator[dict[str, NDArray[Any]]]:
    """The windows of Diffusion Policy's SequenceSampler, written anew from what it does.

    A window of `horizon` rows begins up to n_obs_steps - 1 rows before its episode and ends up to n_action_steps - 1
    rows behind it; rows that are not there are the episode's first or last.
    """
    for start, stop in zip([0, *ends], ends, strict=False):
        for first in range(start - (OBSERVED - 1), stop - HORIZON + (ACTED - 1) + 1):
            rows = [min(max(row, start), stop - 1) for row in range(first, first + HORIZON)]
            yield {name: values[rows] for name, values in arrays.items()}


class InMemory(dict[str, NDArray[Any]]):
    """What Diffusion Policy's sampler needs of its ReplayBuffer."""

    episode_ends: NDArray[np.int64]


def sampled_by_itself(arrays: dict[str, NDArray[Any]], ends: list[int]) -> Iterator[dict[str, NDArray[Any]]]:
    """The windows that Diffusion Policy's SequenceSampler gives, out of a checkout of its repository.

    numba, which only compiles it, and its ReplayBuffer, which it only names, are left out.
    """
    package = "diffusion_policy"
    modules = {
        name: ModuleType(name) for name in ("numba", package, f"{package}.common", f"{package}.common.replay_buffer")
    }
    vars(modules["numba"])["jit"] = lambda **_: lambda function: function
    vars(modules[f"{package}.common.replay_buffer"])["ReplayBuffer"] = InMemory
    with patch.dict(sys.modules, modules):
        code = runpy.run_path(f"{os.environ[CHECKOUT]}/{package}/common/sampler.py")
    buffer = InMemory(arrays)
    buffer.episode_ends = np.array(ends)
    sampler = code["SequenceSampler"](buffer, HORIZON, pad_before=OBSERVED - 1, pad_after=ACTED - 1)
    yield from map(sampler.sample_sequence, range(len(sampler)))


@pytest.mark.parametrize("oracle", [sampled, *([sampled_by_itself] if CHECKOUT in os.environ else [])])
def test_windows_are_those_of_diffusion_policy(
    pusht: tuple[dict[str, NDArray[Any]], list[int]], tmp_path: Path, oracle: Oracle
) -> None:
    """Of two whole episodes, one with a single window, and one that is too short for any."""
    arrays = {name: pusht[0][name][-136:] for name in ("img", "state", "action")}
    ends = [7, 15, 86, 136]
    source = write_buffer(tmp_path / "some.zarr", arrays, ends)
    steps = tuple(range(1 - OBSERVED, 1 - OBSERVED + HORIZON))
    run(
        source,
        tmp_path / "out",
        image_codec="png",
        delta_indices=tuple((name, steps) for name in ("observation.image", "observation.state", "action")),
        drop_last_frames=HORIZON - OBSERVED - ACTED + 1,
        **BUFFER,
    )
    dataset = WindowDataset(str(tmp_path / "out"), return_uint8=True)
    expected = list(oracle(arrays, ends))
    assert len(dataset) == len(expected) == 0 + 1 + (71 - 7) + (50 - 7)
    for number in range(len(dataset)):
        item = dataset[number]
        images = (item["observation.image"].numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        assert np.array_equal(images, expected[number]["img"])
        assert np.array_equal(item["observation.state"].numpy(), expected[number]["state"])
        assert np.array_equal(item["action"].numpy(), expected[number]["action"])


def test_two_threads_write_the_same_bytes(buffer: Path, tmp_path: Path, reference: Path) -> None:
    flags = ["--direct_num_workers=2", "--direct_runner_bundle_repeat=1"]
    run(buffer, tmp_path / "out", flags=flags, image_codec="png", **BUFFER, **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)


@pytest.mark.slow
def test_a_killed_job_goes_on(buffer: Path, tmp_path: Path, reference: Path) -> None:
    windows = json.dumps(dict(WINDOWS["delta_indices"]))
    renames = [f"--rename={old}={new}" for old, new in RENAME]
    arguments = ["materialize", str(buffer), str(tmp_path / "out"), "--fps=10", "--task=Push the T.", *renames]
    done = run_killed("after:.tar:5", [*arguments, "--delta-indices", windows, "--image-codec=png"])
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    run(buffer, tmp_path / "out", image_codec="png", **BUFFER, **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)


def test_a_copy_elsewhere_gives_the_same_bytes(buffer: Path, tmp_path: Path, reference: Path) -> None:
    shutil.copytree(buffer, tmp_path / "moved.zarr")
    run(tmp_path / "moved.zarr", tmp_path / "out", image_codec="png", **BUFFER, **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_bad_chunk_is_found_and_quarantined(buffer: Path, tmp_path: Path, reference: Path, damage: str) -> None:
    source = tmp_path / "bad.zarr"
    shutil.copytree(buffer, source)
    row = 216 + 100  # of episode 1
    chunk = source / "data" / "img" / f"{row // CHUNK_ROWS}.0.0.0"
    content = chunk.read_bytes()
    chunk.unlink()
    if damage == "truncated":
        chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"episode 1, frame \d+ \(data/img, row 31\d\) or behind it: .*45\.0\.0\.0"):
        run(source, tmp_path / "failing", **BUFFER, **WINDOWS)
    run(source, tmp_path / "out", image_codec="png", on_error="quarantine", **BUFFER, **WINDOWS)
    lost = quarantine(tmp_path / "out")
    assert [part["episode_index"] for part in lost] == [1]
    assert str(tmp_path) not in lost[0]["reason"]
    assert manifest(tmp_path / "out")["splits"]["train"]["anchors"] == 941 - lost[0]["num_anchors"]
    chunk.write_bytes(content)
    run(source, tmp_path / "out", image_codec="png", **BUFFER, **WINDOWS)
    assert tree(tmp_path / "out") == tree(reference)


@pytest.mark.parametrize("change", [{"fps": 20.0}, {"task": "Other."}])
def test_what_the_buffer_does_not_say_is_part_of_the_plan(
    buffer: Path, tmp_path: Path, reference: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(reference, tmp_path / "out")
    with pytest.raises(PlanMismatchError):
        run(buffer, tmp_path / "out", image_codec="png", **{**BUFFER, **change}, **WINDOWS)
    run(buffer, tmp_path / "out", image_codec="png", overwrite=True, **{**BUFFER, **change}, **WINDOWS)
    items = list(read_items(tmp_path / "out"))
    assert {item["task"] for item in items} == {change.get("task", "Push the T.")}
    assert max(float(np.asarray(item["timestamp"])) for item in items) == pytest.approx(230 / change.get("fps", 10.0))


def test_renamed_otherwise_nothing_is_kept(tmp_path: Path) -> None:
    """Two arrays of one dtype and shape that change names: every shard is another."""
    arrays = {"one": np.arange(40, dtype=np.float32), "two": -np.arange(40, dtype=np.float32)}
    source = write_buffer(tmp_path / "two.zarr", arrays, [15, 40])
    run(source, tmp_path / "out", fps=10.0, rename=(("one", "action"),))
    run(source, tmp_path / "out", fps=10.0, rename=(("two", "action"),), overwrite=True)
    assert sorted(float(np.asarray(item["action"])) for item in read_items(tmp_path / "out")) == list(range(-39, 1))


def test_command_line(buffer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "out")
    assert main(["materialize", str(buffer), output]) == 2
    assert "give --fps" in capsys.readouterr().err
    command = ["materialize", str(buffer), output, "--fps=10", "--rename", "img=observation.image", "--no-progress"]
    assert main([*command, "--exclude-features", "state", "--delta-indices", '{"observation.image": [-1, 0]}']) == 0
    assert "941 train" in capsys.readouterr().out
    assert main(["inspect", output]) == 0
    assert "Zarr replay buffer, 6 episodes, 941 frames, 10 fps" in capsys.readouterr().out
    assert main(["preview", output, str(tmp_path / "sheet.png")]) == 0
