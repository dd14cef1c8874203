"""Outputs that are damaged in known places, and attempts to read them."""

from __future__ import annotations

import resource
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from webdataset import tariterators

from predecode.reader import WindowDataset, WindowLoader, expand_windows
from predecode.reader import expand as expand_module
from predecode.transforms.errors import FormatError
from predecode.transforms.manifest import manifest_bytes, read_manifest
from predecode.transforms.storage import Folder
from tests.reader.fuzzing import fingerprint

BYTES_AT_MOST = 2 << 30


def index_rows(output: Path, shard: int, split: str = "train") -> list[dict[str, Any]]:
    """The index of a shard, a dict per sample."""
    content = (output / f"{split}/shard-{shard:05d}.index.arrow").read_bytes()
    rows: list[dict[str, Any]] = pa.ipc.open_file(content).read_all().to_pylist()
    return rows


def flip_bit(path: Path, place: int, bit: int = 2) -> None:
    """Changes one bit of a file under the same name, in a new file, as a bad copy would."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    aside = path.with_name("flipped")
    aside.write_bytes(content)
    aside.replace(path)


def damage_member(output: Path, shard: int, row: int, member: str, within: int = 20) -> None:
    """Flips a bit in the member of a sample."""
    start = index_rows(output, shard)[row][f"{member}/offset"]
    flip_bit(output / f"train/shard-{shard:05d}.tar", start + within)


def unreadable(dataset: WindowDataset) -> dict[int, str]:
    """The windows that cannot be read one by one, and why."""
    found = {}
    for number in range(len(dataset)):
        try:
            dataset[number]
        except FormatError as error:
            found[number] = str(error)
    return found


@contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """Another file under the name, as a job would put it there, or none; the old one again in the end."""
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        aside.replace(path)


@contextmanager
def little_memory() -> Iterator[None]:
    """What is read within may not ask for much memory, touched or not: it would be a MemoryError."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + BYTES_AT_MOST, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(output: Path, message: str) -> None:
    """Every reader must refuse the first window, or the output, with this message."""
    with little_memory():
        with pytest.raises(FormatError, match=message):
            WindowDataset(str(output))[0]
        with pytest.raises(FormatError, match=message):
            next(iter(WindowLoader(WindowDataset(str(output)), 1, shuffle=False)))


def put_manifest(output: Path, changes: Mapping[str, Any]) -> None:
    manifest = {**read_manifest(Folder.of(str(output))), **changes}
    (output / "manifest.json").write_bytes(manifest_bytes(manifest))


def expanded(output: Path, *, forget: bool = True) -> list[str] | None:
    """The windows of a plain pipeline; None where it, or webdataset itself, refuses the tars."""
    if forget:
        expand_module._open_splits.cache_clear()
        expand_module._read_format.cache_clear()
    found: list[str] = []
    try:
        for tar in sorted((output / "train").glob("*.tar")):
            with tar.open("rb") as stream:  # webdataset would leave it to the collector.
                members = tariterators.tar_file_expander([{"url": str(tar), "stream": stream}])
                for sample in tariterators.group_by_keys(members):
                    found += [fingerprint(item) for item in expand_windows(sample)]
    except (FormatError, tarfile.TarError, ValueError):
        return None
    return found
