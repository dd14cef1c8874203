"""Disk full, no permission, nobody there: one clear message, no manifest, and the same command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, main
from predecode.transforms import materialize_shards
from predecode.transforms.commits import CommitRecord
from tests.pipeline.running import run, tree

CopyDataset = Callable[[str], Path]

DATASET = "pusht_images_v30"
FLAGS = ("--image-codec", "png", "--no-progress", "--direct_num_workers=2")
GO_ON = "What is committed is kept: mend the cause and run the same command again."
FEW_BYTES = 1 << 20  # Of the 6 MB that the output takes.


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reference") / "out"
    run(data_dir / DATASET, output, image_codec="png")
    return output


def fails(source: Path | str, output: Path | str, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """The command must fail with one message that holds these parts."""
    assert main(["materialize", str(source), str(output), *FLAGS]) == EXIT_FAILED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("predecode: ")
    assert shown.err.count("predecode: ") == 1
    assert "Traceback" not in shown.err
    assert "[while running" not in shown.err
    for part in parts:
        assert part in shown.err


def done(source: Path, output: Path, reference: Path) -> None:
    """The same command must finish, with the bytes of a job that was never disturbed."""
    assert main(["materialize", str(source), str(output), *FLAGS]) == EXIT_DONE
    assert tree(output) == tree(reference)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Gives a function that calls `mount` for a folder; it skips where that is not allowed."""
    folders: list[Path] = []

    def mount(*arguments: str) -> Path:
        folder = tmp_path / "mounted"
        folder.mkdir(exist_ok=True)
        called = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
        if called.returncode:
            pytest.skip(f"needs the right to mount: {called.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in reversed(folders):
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_full(
    mounted: Callable[..., Path], data_dir: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = mounted("-t", "tmpfs", "-o", f"size={FEW_BYTES}", "none")
    output = disk / "out"
    fails(data_dir / DATASET, output, capsys, f"Cannot write {output}/", "No space left on device", GO_ON)
    assert not (output / "manifest.json").exists()
    assert list(output.glob("train/shard-*.json")), "nothing was committed, so that nothing can be kept"
    assert not list(output.rglob("*.tmp-*"))
    committed = {path: path.stat().st_ino for path in output.glob("train/shard-*.json")}
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    done(data_dir / DATASET, output, reference)
    assert {path: path.stat().st_ino for path in committed} == committed


def test_disk_full_from_the_start(
    mounted: Callable[..., Path], data_dir: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=4096", "none")
    (disk / "filler").write_bytes(bytes(4096))
    message = f"Cannot write {disk}/out/plan.json: No space left on device"
    fails(data_dir / DATASET, disk / "out", capsys, message, GO_ON)
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    done(data_dir / DATASET, disk / "out", reference)


def test_file_too_large(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    """A quota, nearly: the system refuses to write on, in a process of its own."""
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "from predecode.pipeline.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    output = tmp_path / "out"
    command = [sys.executable, "-c", program, "materialize", str(data_dir / DATASET), str(output), *FLAGS]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert failed.returncode == EXIT_FAILED, failed.stderr
    assert failed.stderr.count("predecode: ") == 1
    assert "Traceback" not in failed.stderr
    assert f"Cannot write {output}/train/shard-" in failed.stderr
    assert "File too large" in failed.stderr
    assert not (output / "manifest.json").exists()
    assert not list(output.rglob("*.tmp-*"))
    done(data_dir / DATASET, output, reference)


def test_read_only(
    mounted: Callable[..., Path], data_dir: Path, tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted("--bind", str(folder))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    output = folder / "out"
    fails(data_dir / DATASET, output, capsys, f"Cannot write {output}/plan.json: Read-only file system", GO_ON)
    subprocess.run(["mount", "-o", "remount,rw,bind", str(folder)], check=True)
    done(data_dir / DATASET, output, reference)


def test_permission_denied(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # It is root who asks: some places refuse even root.
        folder = Path("/sys")
        if _can_make(folder / "out"):
            pytest.skip("needs a user other than root, or /sys, where not even root may make a folder")
    fails(data_dir / DATASET, folder / "out", capsys, f"{folder}/out", "ermi", GO_ON)
    assert not (folder / "out").exists()


def _can_make(folder: Path) -> bool:
    """Whether a folder can be made, which is then removed."""
    try:
        folder.mkdir()
    except OSError:
        return False
    folder.rmdir()
    return True


def test_nobody_answers(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(data_dir / DATASET, "ftp://127.0.0.1:1/out", capsys, "ftp://127.0.0.1:1/out", "Connection refused", GO_ON)
    fails("ftp://127.0.0.1:1/in", "memory://out", capsys, "ftp://127.0.0.1:1/in", "Connection refused")


def test_the_output_is_a_file(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    fails(data_dir / DATASET, tmp_path / "out", capsys, str(tmp_path / "out"), "is a file, expected a folder")
    message = f"Cannot write {tmp_path}/out/below/plan.json"
    fails(data_dir / DATASET, tmp_path / "out/below", capsys, message, "directory")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_output_is_somebody_elses(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out/photos").mkdir(parents=True)
    (tmp_path / "out/photos/holiday.jpg").write_text("mine")
    message = "is not empty and holds no plan.json (found photos/holiday.jpg)"
    fails(data_dir / DATASET, tmp_path / "out", capsys, message, "Choose an empty or new folder")
    assert tree(tmp_path / "out").keys() == {"photos/holiday.jpg"}


def test_the_output_is_the_source(copy_dataset: CopyDataset, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy_dataset(DATASET)
    before = tree(root)
    fails(root, root, capsys, "is not empty and holds no plan.json", "Choose an empty or new folder")
    assert tree(root) == before


def test_a_damaged_plan(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/plan.json").write_text("[" * 100_000)
    fails(data_dir / DATASET, tmp_path / "out", capsys, f"{tmp_path}/out/plan.json is damaged", "choose another output")


def test_the_source_vanishes(
    copy_dataset: CopyDataset,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, output, undisturbed = copy_dataset("pusht_v21"), tmp_path / "out", tmp_path / "undisturbed"
    run(root, undisturbed, image_codec="png")
    write = materialize_shards.materialize_shard

    def write_and_remove_the_source(*arguments: Any) -> CommitRecord:
        record = write(*arguments)
        shutil.rmtree(root, ignore_errors=True)
        return record

    with monkeypatch.context() as patched:
        patched.setattr(materialize_shards, "materialize_shard", write_and_remove_the_source)
        fails(root, output, capsys, "o such file")
    assert not (output / "manifest.json").exists()
    assert list(output.glob("train/shard-*.json"))
    fails(root, output, capsys, f"{root}: there is no such folder")
    shutil.copytree(data_dir / "pusht_v21", root)
    done(root, output, undisturbed)
