"""Every command of the README, of docs/ and of the help pages is run, and every example in Python."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from predecode.pipeline.arguments import build_parser
from predecode.pipeline.cli import main, options_of
from predecode.pipeline.runner import pipeline_options
from predecode.reader import WindowDataset
from tests.documents import OUTPUT, PAGES, ROOT, blocks, commands, help_pages
from tests.pipeline.running import run
from tests.sources.reading import open_at
from tests.sources.replay_buffers import arrays_of, write_buffer
from tests.training import documentation

DATASET = "pusht_images_v30"
DATASETS = {"README.md": "aloha_v30"}
"""What stands in for the datasets of a page that says nothing else of them; the README names a camera of Aloha's."""

SOURCES = ("path/to/dataset", "data/pusht", "data/aloha", "SOURCE")
BUFFERS = ("pusht.zarr", "pusht_cchi_v7_replay.zarr")

COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
HELP = help_pages()

PYTHON = {
    "README.md": "here",
    "docs/getting-started.md": "here",
    "docs/storage.md": "here",
    "docs/sources.md": "tests/sources/test_contract.py",
    "docs/training.md": "tests/training/test_documentation.py",
}
"""Who runs a page's examples in Python."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Path]:
    """The current folder: what a checkout has, and what pages have of one's own."""
    for name in ("tests", "scripts", "constraints.txt", "Containerfile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "windows.json").write_text('{"action": [0.0, 0.1]}')
    checkpoint = tmp_path / "outputs/train/checkpoints/last/pretrained_model"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps({"type": "act", "chunk_size": 10}))
    monkeypatch.chdir(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(f"{data_dir / DATASET}/", "/robots/pusht/", recursive=True)
    yield tmp_path
    memory.rm("/", recursive=True)


def stand_in(folder: Path, page: str, words: list[str]) -> list[str]:
    """Words of a command with what stands in for the user's own; makes that."""
    for word in words:
        if word in SOURCES and not (folder / word).exists():
            (folder / word).parent.mkdir(parents=True, exist_ok=True)
            (folder / word).symlink_to(folder / "tests/data" / DATASETS.get(page, DATASET))
        if word in BUFFERS and not (folder / word).exists():
            arrays, ends = arrays_of(open_at(folder / "tests/data" / DATASET))
            write_buffer(
                folder / word, {name.split(".")[-1].replace("image", "img"): arrays[name] for name in arrays}, ends
            )
    return [word.replace("s3://", "memory://") for word in words]


def run_predecode(folder: Path, page: str, words: list[str]) -> None:
    """Runs the command as it stands, where no cluster is needed for it; else what is said to it is checked."""
    command, *arguments = stand_in(folder, page, words)
    if "--help" in arguments:
        with pytest.raises(SystemExit, match=r"^0$"):
            main([command, *arguments])
        return
    if any(word.startswith("--runner") for word in arguments):
        parsed, rest = build_parser().parse_known_args([command, *arguments])
        assert options_of(parsed)
        assert pipeline_options(rest), "an unknown option is an error"
        return
    parsed, _ = build_parser().parse_known_args([command, *arguments])
    output = parsed.output
    if command == "materialize" and not parsed.extend:
        shutil.rmtree(folder / output, ignore_errors=True)  # Each of these begins anew.
    elif command not in ("materialize", "plan") and not fsspec.url_to_fs(output)[0].exists(output):
        run(folder / "tests/data" / DATASET, output)
    assert main([command, *arguments]) == 0, shlex.join(words)


def run_pip(folder: Path, _: str, words: list[str]) -> None:
    """What is installed is there: files, extras, dependencies. Nothing is installed."""
    assert words[0] == "install"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    extras, dependencies = project["optional-dependencies"], " ".join(project["dependencies"])
    for word in (word for word in words[1:] if word not in ("-c", "--no-deps", "path/to/predecode")):
        extra = re.fullmatch(r"predecode\[(\w+)\]", word)
        assert extra[1] in extras if extra else (ROOT / word).exists() or word in dependencies, word


def run_python(folder: Path, page: str, words: list[str]) -> None:
    """A module is run for as short as it goes; programs of a page are run by that page's own tests."""
    if words[:2] == ["-m", "timeit"]:
        words = ["-m", "timeit", "-n1", "-r1", *words[2:]]
    elif words[:2] == ["-m", "tests.reader.fuzzing"]:
        output = folder / "out"
        run(folder / "tests/data" / DATASET, output, episodes="0")
        values = {"MODE": "verified", "FIRST": "0", "STOP": "2", "OUTPUT...": str(output)}
        words = [values.get(word, word) for word in words]
    elif words[:2] in (["-m", "json.tool"], ["-m", "venv"]):
        assert importlib.util.find_spec(words[1])
        return
    else:
        assert page == "docs/training.md"
        assert words[1:] == documentation.arguments(words[0]), "tests/training/test_lerobot_train.py runs it"
        return
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, timeout=120)


def run_script(folder: Path, _: str, words: list[str]) -> None:
    """It is there, and takes these options; what it measures takes minutes."""
    program, *arguments = words
    assert os.access(folder / program, os.X_OK), program
    if (folder / program).read_text().startswith("#!/usr/bin/env bash"):
        subprocess.run(["bash", "-n", program], check=True)
        assert all(word in (folder / program).read_text() for word in arguments)
    else:  # Arguments are read in turn, so that wrong ones end it before the help is shown.
        shown = subprocess.run([*words, "--help"], check=True, capture_output=True, text=True, env=with_python()).stdout
        assert all(word in shown for word in arguments if word.startswith("--"))


def with_python() -> dict[str, str]:
    """Where `python3` is the one that runs the tests."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run_docker(folder: Path, _: str, words: list[str]) -> None:
    """tests/test_container.py looks into the file."""
    files = [word for word, flag in zip(words[1:], words, strict=False) if flag == "--file"]
    assert words[0] in ("build", "push")
    assert all((folder / file).is_file() for file in files)


def run_nothing(*_: object) -> None:
    """It concerns the shell alone."""


RULES: list[tuple[str, Callable[[Path, str, list[str]], None]]] = [
    (r"predecode", run_predecode),
    (r"pip", run_pip),
    (r"(\.venv/bin/)?python3?", run_python),
    (r"scripts/\S+", run_script),
    (r"docker", run_docker),
    (r"[A-Z]+=\S+|source", run_nothing),
]
"""By the first word of a command, how it is run; a command that none is for is an error."""


def run_command(folder: Path, page: str, command: list[str]) -> None:
    """Runs a command of a page by its rule."""
    rules = [rule for pattern, rule in RULES if re.fullmatch(pattern, command[0])]
    assert rules, f"{page}: no rule runs {shlex.join(command)!r:.200}: add one, or call the block ```{OUTPUT}"
    assert len(rules) == 1
    arguments = command if rules[0] is run_script else command[1:]
    rules[0](folder, page, arguments)


def is_slow(page: str) -> bool:
    """Whether a page's commands take more than three seconds."""
    return any(command[0] != "pip" for command in commands(page))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if is_slow(page) else []) for page in PAGES]
)
def test_every_command_of_a_page_runs(folder: Path, page: str) -> None:
    for command in commands(page):
        run_command(folder, page, command)


@pytest.mark.slow
@pytest.mark.parametrize("page", HELP)
def test_every_command_of_a_help_page_runs(folder: Path, page: str) -> None:
    assert HELP[page]
    for command in HELP[page]:
        run_command(folder, page, command)


def test_there_is_a_rule_for_every_command() -> None:
    firsts = {command[0] for page in PAGES for command in commands(page)}
    assert {"predecode", "pip", "scripts/quickstart"} <= firsts
    assert {word for word in firsts if not any(re.fullmatch(pattern, word) for pattern, _ in RULES)} == set()


def test_a_command_without_a_rule_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no rule runs 'rm -r out'"):
        run_command(tmp_path, "docs/made-up.md", ["rm", "-r", "out"])


def test_a_command_that_fails_is_an_error(folder: Path) -> None:
    with pytest.raises(AssertionError, match="--polcy"):
        run_command(folder, "docs/made-up.md", shlex.split("predecode plan data/pusht --polcy act"))
    with pytest.raises(AssertionError, match="preview out/pusht --index 99999"):
        run_command(folder, "docs/made-up.md", shlex.split("predecode preview out/pusht --index 99999"))
    with pytest.raises(AssertionError, match=r"predecode\[gpu\]"):
        run_command(folder, "docs/made-up.md", ["pip", "install", "predecode[gpu]"])
    with pytest.raises(subprocess.CalledProcessError):
        run_command(folder, "docs/made-up.md", shlex.split("scripts/make_dataset out --format v9"))


def test_every_block_is_commands_python_or_output() -> None:
    infos = {(page, *block.info[:1]) for page in PAGES for block in blocks(page)}
    assert {info[1] for info in infos if len(info) > 1} == {"python", OUTPUT}
    assert {info[0] for info in infos if "python" in info} == set(PYTHON)
    for page, test in PYTHON.items():
        assert test == "here" or Path(page).name in (ROOT / test).read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves the last shard open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", [page for page, test in PYTHON.items() if test == "here"])
def test_every_example_in_python_runs(folder: Path, page: str) -> None:
    stand_in(folder, page, ["path/to/dataset"])
    dataset = folder / "tests/data" / DATASET
    run(dataset, folder / "out/windows", episodes="0")
    run(dataset, folder / "out/pusht", delta_indices=(("observation.image", (-1, 0)), ("action", (0, 1, 2, 3))))
    run(dataset, "memory://robots/windows/pusht", episodes="0")
    names: dict[str, Any] = {"WindowDataset": WindowDataset}
    for block in blocks(page):
        if block.info:
            if "MaterializeOptions" in block.content:
                shutil.rmtree(folder / "out/windows")
            exec(block.content.replace("s3://", "memory://"), names)  # noqa: S102 - They are the project's own.
    assert len(names["dataset"])
