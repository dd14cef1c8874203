"""Whether an output is all there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from predecode.pipeline.cli import main
from predecode.reader.verification import Verification, verify_output
from predecode.transforms.errors import FormatError
from predecode.transforms.manifest import manifest_bytes
from tests.pipeline.running import tree
from tests.reader.conftest import Materialized
from tests.reader.mutations import KINDS, damage

NUM_TRIALS = 200
IN_SHARDS = ("train/shard-00001.tar", "train/shard-00001.index.arrow", "train/shard-00001.json")
ELSEWHERE = ("plan.json", "README.md", "meta/info.json", "train/order.arrow", "train/shards.arrow")


@pytest.fixture
def output(materialized: Materialized, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(materialized("zoo_v30", "far", 7), tmp_path / "out")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damaged(found: Verification) -> list[str]:
    return [problem.path for problem in found.problems]


def test_all_is_well(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_output(str(output))
    assert found.is_sound
    assert found.num_files == len(tree(output))
    assert main(["verify", str(output)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{output} is as it was written: {found.num_files} files, ")
    assert shown.err == ""


@pytest.mark.parametrize("name", [*IN_SHARDS, *ELSEWHERE])
@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["flipped", "missing"])
def test_each_file_is_looked_at(output: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(output / name)
    found = verify_output(str(output))
    assert name in damaged(found)
    assert found.damaged_shards == (("train/shard-00001",) if name in IN_SHARDS else ())


def test_files_that_should_not_be_there(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / "train/shard-00099.tar").write_bytes(b"")
    (output / "notes.txt").write_text("mine")
    assert main(["verify", str(output)]) == 1
    shown = capsys.readouterr().out
    assert "  notes.txt: nothing says that it should be here\n" in shown
    assert "  train/shard-00099.tar: nothing says that it should be here\n" in shown


def test_what_is_wrong_is_said(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar, index, record = (output / name for name in IN_SHARDS)
    size_bytes = tar.stat().st_size
    tar.write_bytes(tar.read_bytes()[:-512])
    flip(index)
    record.write_bytes((output / "train/shard-00000.json").read_bytes())
    assert main(["verify", str(output), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["sound"]
    assert found["damaged_shards"] == ["train/shard-00001"]
    assert {problem["path"]: problem["what"] for problem in found["problems"]} == {
        IN_SHARDS[0]: f"expected {size_bytes} bytes, got {size_bytes - 512}",
        IN_SHARDS[1]: "its checksum does not fit: it is not what was written",
        IN_SHARDS[2]: "its checksum does not fit: it is not what was written",
    }


def test_a_repair_writes_what_is_damaged_and_only_that(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["materialize", str(data_dir / "pusht_images_v30"), str(output), "--no-progress", "--image-size=16"]
    assert main(command) == 0
    before, written = tree(output), {path: path.stat().st_mtime_ns for path in output.rglob("shard-*.tar")}
    flip(output / "train/shard-00003.tar")
    (output / "train/shard-00005.index.arrow").unlink()
    flip(output / "meta/stats.json")
    assert main(["verify", str(output), "--repair"]) == 1
    assert "Now run the same `predecode materialize` as before: it writes 2 shards anew" in capsys.readouterr().err
    assert main(["verify", str(output)]) == 1
    assert "the job that writes it is not finished" in capsys.readouterr().err
    assert main(command) == 0
    assert tree(output) == before
    again = {path.name for path, time in written.items() if path.stat().st_mtime_ns != time}
    assert again == {"shard-00003.tar", "shard-00005.tar"}
    assert main(["verify", str(output)]) == 0


def test_nothing_is_repaired_where_nothing_is_damaged(output: Path) -> None:
    before = tree(output)
    assert main(["verify", str(output), "--repair"]) == 0
    assert tree(output) == before


def test_without_a_manifest_there_is_nothing_to_compare_with(output: Path) -> None:
    (output / "manifest.json").unlink()
    with pytest.raises(FormatError, match="the job that writes it is not finished"):
        verify_output(str(output))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_no_other_file_is_read(output: Path, name: str) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["digest"]
    manifest["files"][name] = {"size_bytes": 1, "sha256": "0"}
    (output / "manifest.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(FormatError, match="expected a path inside the dataset"):
        verify_output(str(output))


def test_any_damage_is_found(output: Path) -> None:
    generator = np.random.default_rng(0)
    kinds: set[str] = set()
    before = tree(output)
    for _ in range(NUM_TRIALS):
        undo, what = damage(output, generator)
        changed = {name for name, checksum in tree(output).items() if before.get(name) != checksum}
        changed |= before.keys() - tree(output).keys()
        try:
            found = verify_output(str(output))
        except FormatError:
            assert changed == {"manifest.json"}, what
        else:
            assert changed <= set(damaged(found)), what
            kinds.update(kind for kind in KINDS if kind in what)
        undo()
    assert len(kinds) > 5
    assert tree(output) == before
