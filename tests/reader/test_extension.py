"""Readers while a job extends their output: the old windows, then the new; somebody who opens it always can."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from predecode.pipeline import MaterializeOptions, materialize
from predecode.reader import WindowDataset
from predecode.reader.inspection import inspect_output
from predecode.reader.verification import verify_output
from predecode.transforms.errors import FormatError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder
from tests.pipeline.running import run, tree
from tests.reader.test_rerun import watched, windows, windows_of

FIXED: dict[str, Any] = {
    "exclude_features": ("observation.images.wrist", "u8mat", "i32", "f64s"),
    "image_size": (8, 8),
    "image_codec": "raw",
    "min_shards": 2,
}
OLD, GROWN = "0:4", "0:8"


@pytest.fixture(scope="module")
def made(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The old output, and what a fresh run makes of the grown source."""
    outputs = {spec: tmp_path_factory.mktemp("made") / "output" for spec in (OLD, GROWN)}
    for spec, output in outputs.items():
        run(data_dir / "zoo_v30", output, episodes=spec, **FIXED)
    return outputs


def test_at_every_step_of_an_extension(
    data_dir: Path, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last group is the only one here: every file that the old manifest names is replaced."""
    output = Path(shutil.copytree(made[OLD], tmp_path / "output"))
    old, new = windows_of(made[OLD]), windows_of(made[GROWN])
    warm, cold = WindowDataset(str(output)), [WindowDataset(str(output)) for _ in range(60)]
    assert windows(warm) == old
    steps: list[tuple[list[str], list[str] | None, list[str], bool, str]] = []

    def look() -> None:
        try:
            of_cold = windows(cold.pop())
        except FormatError:
            of_cold = None
        text = str(inspect_output(str(output)))
        steps.append((windows(warm), of_cold, windows_of(output), verify_output(str(output)).is_sound, text))

    watched(monkeypatch, look)
    run(data_dir / "zoo_v30", output, episodes=GROWN, extend=True, **FIXED)
    of_warm, of_cold, of_newcomers, _, texts = (list(column) for column in zip(*steps, strict=True))
    assert of_warm == [old] * len(steps)
    turn = of_newcomers.index(new)
    assert of_newcomers == [old] * turn + [new] * (len(steps) - turn), "one manifest, then the other"
    assert of_cold[:turn] == [old] * turn, "the old output can be read until the new manifest is there"
    assert all(found in (old, None) for found in of_cold)
    assert 10 < turn < len(steps) - 10
    assert all(sound for *_, sound, _ in steps[:turn]), "what is staged is no stray"
    assert len(set(texts[:turn])) == len(set(texts[turn:])) == 1
    assert tree(output) == tree(made[GROWN])


def test_opening_between_two_manifests(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest that was read is no longer that of the files when they are read."""
    output = Path(shutil.copytree(made[OLD], tmp_path / "output"))
    seen: list[dict[str, Any]] = []

    def reading(folder: Folder) -> dict[str, Any]:
        manifest = read_manifest(folder)
        if not seen:
            shutil.rmtree(output)
            shutil.copytree(made[GROWN], output)
        seen.append(manifest)
        return manifest

    monkeypatch.setattr("predecode.reader.opening.read_manifest", reading)
    assert windows_of(output) == windows_of(made[GROWN])
    assert len(seen) > 1


def test_far_away(data_dir: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can have two names: files are copied, and removed one by one."""
    url = "memory://extended"
    options: dict[str, Any] = {"source": str(data_dir / "zoo_v30"), "output": url, **FIXED}
    materialize(MaterializeOptions(episodes=OLD, **options))
    steps: list[list[str]] = []
    reader: list[WindowDataset] = []
    copy = Folder.copy

    def watched_copy(folder: Folder, name: str, target: str) -> None:
        copy(folder, name, target)
        reader.append(WindowDataset(url))
        steps.append(windows(reader[-1]))

    monkeypatch.setattr(Folder, "copy", watched_copy)
    materialize(MaterializeOptions(episodes=GROWN, extend=True, **options))
    new = windows_of(made[GROWN])
    assert len(steps) > 5
    assert steps == [new] * len(steps)
    assert windows(reader[0]) == new, "what was staged has moved since it was opened"
    memory = fsspec.filesystem("memory")
    found = {name.removeprefix("/extended/"): memory.cat(name) for name in memory.find("/extended")}
    assert found == {name: (made[GROWN] / name).read_bytes() for name in tree(made[GROWN])}
    memory.rm("/extended", recursive=True)
