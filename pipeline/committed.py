"""Which shards of an output are committed: for progress, and for what a run says that it found."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from predecode.transforms.errors import FormatError
from predecode.transforms.format import SPLITS, shard_table_file
from predecode.transforms.manifest import read_manifest
from predecode.transforms.plan_file import read_plan
from predecode.transforms.staging import described_files
from predecode.transforms.storage import Folder

_COMMIT_FILE = re.compile(rf"({'|'.join(SPLITS)})/shard-\d+\.json")


def commit_files(folder: Folder) -> set[str]:
    """Names of the commit records in a folder.

    Raises:
        OSError: storage fails.
    """
    return {name for name in folder.names() if _COMMIT_FILE.fullmatch(name)}


def count_planned(plan: Mapping[str, Any], *, kept: Mapping[str, Any]) -> int:
    """Shards of a plan, but for the groups that another plan has, too; both may be empty.

    >>> count_planned({"splits": {"train": {"groups": [[0, 9, 4], [10, 12, 2]]}}}, kept={})
    6
    """
    known = {name: split["groups"] for name, split in kept.get("splits", {}).items()}
    groups = [(name, group) for name, split in plan.get("splits", {}).items() for group in split["groups"]]
    return sum(int(group[-1]) for name, group in groups if group not in known.get(name, []))


def count_shards(output: Folder) -> tuple[int, int]:
    """How many shards of an output are committed, and how many are planned; (0, 0) where there is no plan.

    Raises:
        OSError: storage fails.
    """
    return len(commit_files(output)), count_planned(read_plan(output) or {}, kept={})


def find_committed(output: Folder, *, extends: bool) -> set[tuple[object, str]]:
    """The shards that are committed, each with what tells it from another of the same name; none where storage fails.

    It only serves a report: what is wrong with an output, the job finds out and says.

    Args:
        output: Where a job has written, or will.
        extends: Whether the job extends a complete output: then the plan changes, and its shards are told apart by
            their commit records.
    """
    with contextlib.suppress(OSError):
        if extends:
            return set(_record_checksums(output).items())
        digest = str((read_plan(output) or {}).get("digest"))
        return {(name, digest) for name in commit_files(output)}
    return set()


def _record_checksums(output: Folder) -> dict[tuple[str, int], str]:
    """The checksum of each shard's commit record, by split and number; none where the output is not complete."""
    checksums: dict[tuple[str, int], str] = {}
    try:
        manifest = read_manifest(output)
        files = described_files(output, manifest)
        for split in manifest["splits"]:
            table = pa.ipc.open_file(pa.BufferReader(files.read(shard_table_file(split)))).read_all()
            checksums |= {(split, number): text for number, text in enumerate(table["record_sha256"].to_pylist())}
    except (FormatError, pa.ArrowInvalid, KeyError):
        return {}
    return checksums
