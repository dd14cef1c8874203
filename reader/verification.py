"""Whether an output is all there: every file against the manifest, byte by byte.

The manifest checks itself and describes every table; the tables describe every shard. So an output that passes is what
the job wrote, wherever it was copied to since.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from predecode.reader.item_format import ItemFormat
from predecode.reader.split_tables import SegmentTable, ShardTable, SplitCounts
from predecode.reader.tables import map_described, read_columns
from predecode.transforms.errors import FormatError, OutputError, SourceError
from predecode.transforms.format import (
    MANIFEST_FILE,
    PLAN_FILE,
    SHARD_COLUMNS,
    STAGING_FOLDER,
    commit_file,
    index_file,
    shard_table_file,
    tar_file,
)
from predecode.transforms.manifest import MANIFEST_REMEDY, read_manifest
from predecode.transforms.plan_file import is_sound_plan, read_plan
from predecode.transforms.sizes import size_text
from predecode.transforms.staging import described_files
from predecode.transforms.storage import Folder, check_relative
from predecode.transforms.wording import counted

_PIECE_BYTES = 1 << 22
_MAX_RECORD_BYTES = 1 << 30
_MIN_THREADS = 8
"""Checksums need a core each; storage that is far away answers several requests at once."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not as it should be.

    Attributes:
        path: Relative to the output.
        what: Is wrong with it.
    """

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a look at every byte of an output has found.

    Attributes:
        output: Its folder.
        num_files: Looked at.
        size_bytes: Of the files as the output describes them.
        problems: Of files that should be there; none where all is well.
        strays: Files that nothing says should be there.
    """

    output: str
    num_files: int
    size_bytes: int
    problems: tuple[Problem, ...]
    strays: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether the output is as it was written, and nothing else is with it."""
        return not self.problems and not self.strays

    @property
    def damaged_shards(self) -> tuple[str, ...]:
        """Shards that have to be written again, such as "train/shard-00003"."""
        return tuple(sorted({problem.path.split(".")[0] for problem in self.problems if "/shard-" in problem.path}))

    def content(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "damaged_shards": self.damaged_shards, "sound": self.is_sound}

    def __str__(self) -> str:
        """For a person."""
        seen = f"{counted(self.num_files, 'file')}, {size_text(self.size_bytes)}"
        if self.is_sound:
            return f"{self.output} is as it was written: {seen}."
        lines = [f"{self.output} is not as it was written: {seen}."]
        lines += [f"  {problem.path}: {problem.what}" for problem in self.problems]
        lines += [f"  {name}: nothing says that it should be here" for name in self.strays]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Expected:
    """A file that should be there.

    Attributes:
        name: Relative path.
        size_bytes: What it should have; None where nothing says.
        sha256: Of its content, hexadecimal.
    """

    name: str
    size_bytes: int | None
    sha256: str


def verify_output(
    url: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    num_threads: int | None = None,
    show_progress: bool = False,
) -> Verification:
    """Reads every byte of an output and compares it with the manifest.

    Args:
        url: The output: a folder or an fsspec URL.
        storage_options: For fsspec.
        num_threads: Files that are read at once; the cores, or 8 where they are fewer, if not given.
        show_progress: Whether to draw a bar on standard error.

    Raises:
        FormatError: there is no manifest to compare with, or it is damaged.
        OSError: storage fails.
    """
    output = Folder.of(url, storage_options)
    manifest = read_manifest(output)
    folder = described_files(output, manifest)
    expected = list(_described(folder, manifest))
    problems = list(_plan_problems(folder, manifest))
    for split in manifest["splits"]:
        try:
            expected += _shards(folder, manifest, split)
        except FormatError as error:
            problems.append(Problem(split, f"its shards cannot be compared: {error}"))
    knows_all = not any(problem.path in manifest["splits"] for problem in problems)
    total = sum(file.size_bytes or 0 for file in expected)
    threads = num_threads or max(_MIN_THREADS, os.cpu_count() or 1)
    bar = tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, disable=not show_progress)
    with bar, ThreadPoolExecutor(threads) as pool:
        for file, problem in zip(expected, pool.map(partial(_problem_of, folder), expected), strict=True):
            bar.update(file.size_bytes or 0)
            if problem:
                problems.append(Problem(file.name, problem))
    described = {file.name for file in expected} | {PLAN_FILE, MANIFEST_FILE}
    # What an extension has staged is no stray: it waits for the run to go on.
    found = [name for name in folder.names() if not name.startswith(f"{STAGING_FOLDER}/")]
    strays = [name for name in found if name not in described] if knows_all else []
    return Verification(str(folder), len(described), total, tuple(problems), tuple(strays))


def repair_output(url: str, storage_options: Mapping[str, Any] | None, damaged_shards: Iterable[str]) -> None:
    """Takes the claim to be complete from an output and from its damaged shards; the job then writes just these anew.

    Args:
        url: The output that was verified.
        storage_options: For fsspec.
        damaged_shards: Such as "train/shard-00003".

    Raises:
        OutputError: storage refuses.
    """
    folder = Folder.of(url, storage_options)
    folder.remove(MANIFEST_FILE)
    for shard in damaged_shards:
        folder.remove(f"{shard}.json")


def _plan_problems(folder: Folder, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        plan = read_plan(folder)
    except OutputError as error:
        yield Problem(PLAN_FILE, str(error))
        return
    if plan is None:
        yield Problem(PLAN_FILE, "missing")
    elif not is_sound_plan(plan) or plan["digest"] != manifest["plan"]:
        yield Problem(PLAN_FILE, "it is not the plan that the manifest was written for")


def _described(folder: Folder, manifest: Mapping[str, Any]) -> Iterator[_Expected]:
    """The files that the manifest itself describes."""
    try:
        for name, entry in manifest["files"].items():
            path = check_relative(name, folder.path(MANIFEST_FILE))
            yield _Expected(path, int(entry["size_bytes"]), str(entry["sha256"]))
    except (KeyError, TypeError, ValueError, AttributeError, SourceError) as error:
        where = folder.path(MANIFEST_FILE)
        raise FormatError(f"{where}: expected sizes and checksums in `files`: {error!r}. {MANIFEST_REMEDY}") from error


def _shards(folder: Folder, manifest: Mapping[str, Any], split: str) -> Iterator[_Expected]:
    """The files that the table of shards describes, once it agrees with what else is said of the split."""
    counts = SplitCounts.of(folder, manifest, split)
    shards = ShardTable.open(folder, manifest, split, counts, verify=True)
    per_sample = ItemFormat.of(manifest).anchors_per_sample
    SegmentTable.open(folder, manifest, split, counts, shards, anchors_per_sample=per_sample, verify=True)
    name = shard_table_file(split)
    content = map_described(folder, manifest, name, verify=False)  # It was, just now.
    columns = read_columns(content, SHARD_COLUMNS, where=folder.path(name))
    for number in range(counts.shards):
        row = {key: column[number].as_py() for key, column in columns.items()}
        yield _Expected(tar_file(split, number), row["tar_bytes"], row["tar_sha256"])
        yield _Expected(index_file(split, number), row["index_bytes"], row["index_sha256"])
        yield _Expected(commit_file(split, number), None, row["record_sha256"])


def _problem_of(folder: Folder, file: _Expected) -> str | None:
    """What is wrong with a file, if anything is."""
    found, size_bytes = hashlib.sha256(), 0
    limit = _MAX_RECORD_BYTES if file.size_bytes is None else file.size_bytes
    try:
        with folder.open(file.name) as content:
            while size_bytes <= limit and (piece := content.read(_PIECE_BYTES)):
                found.update(piece)
                size_bytes += len(piece)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if file.size_bytes is not None and size_bytes != file.size_bytes:
        return f"expected {file.size_bytes} bytes, got {size_bytes}" + (" or more" if size_bytes > limit else "")
    return None if found.hexdigest() == file.sha256 else "its checksum does not fit: it is not what was written"
