"""Many readers at once, and readers while a job writes: the old windows, the new ones or an error; never a mixture."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from predecode.pipeline import MaterializeOptions, materialize
from predecode.reader import WindowDataset, WindowLoader
from predecode.reader import expand as expand_module
from predecode.transforms import storage
from predecode.transforms.errors import FormatError
from tests.reader.damage import expanded
from tests.reader.fuzzing import fingerprint

Run = Callable[..., None]

# Two plans that differ in nothing but the pixels: every file of one has the size of the other's.
OLD: dict[str, Any] = {"resize_mode": "stretch"}
NEW: dict[str, Any] = {"resize_mode": "pad"}
# And one with other windows, in fewer shards.
OTHER: dict[str, Any] = {"resize_mode": "stretch", "episodes": "0:2", "delta_indices": (("action", (0, 1)),)}


@pytest.fixture(scope="module")
def run(data_dir: Path) -> Run:
    def materialized(output: Path, **options: Any) -> None:
        asked = {"episodes": "0:4", **options}
        fixed: dict[str, Any] = {
            "source": str(data_dir / "zoo_v30"),
            "exclude_features": ("observation.images.wrist", "u8mat", "i32", "f64s"),
            "image_size": (8, 8),
            "image_codec": "raw",
            "min_shards": 2,
            "overwrite": True,
        }
        materialize(MaterializeOptions(output=str(output), **fixed, **asked), ["--direct_num_workers=2"])

    return materialized


@pytest.fixture(scope="module")
def made(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An output of each plan."""
    outputs = {name: tmp_path_factory.mktemp(name) / "output" for name in ("old", "new", "other")}
    for output, plan in zip(outputs.values(), (OLD, NEW, OTHER), strict=True):
        run(output, **plan)
    return outputs


@pytest.fixture
def output(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the old one, to be overwritten."""
    return Path(shutil.copytree(made["old"], tmp_path / "output"))


def windows(dataset: WindowDataset) -> list[str]:
    return [fingerprint(item) for item in dataset]


def windows_of(output: Path) -> list[str]:
    return windows(WindowDataset(str(output)))


def what_they_get(readers: list[Callable[[], list[str]]]) -> list[list[str] | None]:
    """What each of some readers gets; None where it is refused."""
    found: list[list[str] | None] = []
    for read in readers:
        try:
            found.append(read())
        except FormatError:
            found.append(None)
    return found


def watched(monkeypatch: pytest.MonkeyPatch, look: Callable[[], None]) -> None:
    """Looks whenever a job has published or removed a file."""
    lock = threading.Lock()
    replace, remove = os.replace, storage.Folder.remove

    def watched_replace(source: Any, target: Any) -> None:
        with lock:
            replace(source, target)
            look()

    def watched_remove(folder: storage.Folder, name: str) -> None:
        with lock:
            remove(folder, name)
            look()

    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(storage.Folder, "remove", watched_remove)


@pytest.mark.parametrize(("name", "plan"), [("new", NEW), pytest.param("other", OTHER, marks=pytest.mark.slow)])
def test_at_every_step_of_a_job_that_overwrites(
    made: dict[str, Path],
    output: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    plan: dict[str, Any],
) -> None:
    old, new = windows_of(made["old"]), windows_of(made[name])
    assert not set(old) & set(new)
    warm, cold = WindowDataset(str(output)), [WindowDataset(str(output)) for _ in range(60)]
    assert windows(warm) == old
    steps: list[list[list[str] | None]] = []

    def look() -> None:
        readers = (lambda: windows(warm), lambda: windows(cold.pop()), lambda: windows_of(output))
        steps.append([*what_they_get(list(readers)), expanded(output)])

    watched(monkeypatch, look)
    run(output, **plan)
    assert len(steps) > 10
    of_warm, of_cold, of_newcomers, of_pipelines = (list(column) for column in zip(*steps, strict=True))
    assert of_warm == [old] * len(steps), "who has opened all files keeps them"
    assert all(found in (old, None) for found in of_cold)
    assert of_cold[0] == old
    assert of_cold[-1] is None
    assert of_newcomers[0] is None, "the manifest goes first"
    assert of_newcomers[-1] == new, "and comes last"
    assert all(found in (new, None) for found in of_newcomers)
    assert all(found is None or sorted(found) == sorted(new) for found in of_pipelines)
    assert windows_of(output) == new


def test_at_every_step_of_a_job_that_runs_again(
    made: dict[str, Path], output: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = windows_of(made["old"])
    warm, cold = WindowDataset(str(output)), [WindowDataset(str(output)) for _ in range(60)]
    steps: list[list[list[str] | None]] = []
    watched(
        monkeypatch,
        lambda: steps.append([windows(warm), windows(cold.pop()), windows_of(output), sorted(expanded(output) or [])]),
    )
    run(output, **OLD)
    assert len(steps) > 5
    assert all(step == [old, old, old, sorted(old)] for step in steps)


@pytest.mark.slow
def test_readers_that_never_stop_see_one_or_the_other(made: dict[str, Path], output: Path, run: Run) -> None:
    whole = [windows_of(made["old"]), windows_of(made["new"])]
    over = threading.Event()

    def read_on(_: int) -> list[list[str] | None]:
        found = []
        while not over.is_set():
            found += what_they_get([lambda: windows_of(output)])
        return found

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read_on, number) for number in range(3)]
        try:
            for plan in (NEW, OLD, NEW):
                run(output, **plan)
        finally:
            over.set()
        found = [seen for task in reading for seen in task.result()]
    assert all(seen is None or seen in whole for seen in found)
    assert {id(seen) for seen in found if seen is not None}, "some were not refused"
    assert windows_of(output) == whole[1]


def test_loaders_that_share_a_dataset_do_not_disturb_each_other(made: dict[str, Path]) -> None:
    dataset = WindowDataset(str(made["old"]))
    whole = windows(dataset)

    def read(seed: int) -> bool:
        for batch in WindowLoader(dataset, 4, seed=seed, num_threads=2):
            for place, number in enumerate(batch["index"].tolist()):
                if fingerprint({key: value[place] for key, value in batch.items()}) != whole[number]:
                    return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(24)))


def test_a_long_lived_pipeline_refuses_what_took_the_place_of_its_output(
    made: dict[str, Path], output: Path, run: Run
) -> None:
    """It has read the old manifest and indices once, and does not look at them again."""
    assert sorted(expanded(output) or []) == sorted(windows_of(made["old"]))
    run(output, **NEW)
    assert expanded(output, forget=False) is None
    assert expand_module._open_splits.cache_info().currsize == 1
    assert sorted(expanded(output) or []) == sorted(windows_of(made["new"]))
