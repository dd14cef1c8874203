"""Where an extended output is written, and how it takes the place of the old one while both may be read.

The result has the names that a fresh run gives, and some of them are taken by files that the old manifest names: the
last group's shards, the tables, the metadata. So what is new waits in a folder of its own, under the same names:

1. Everything new is staged, the plan first. Until here the output is the old one, untouched.
2. The manifest is replaced by the new one with the field `extending`: from now on readers take a file from the staging
   folder where it is there, and from the output otherwise.
3. Staged files get their names in the output, and what is no longer part of it is removed.
4. The manifest is replaced once more, without that field; then the staging folder is removed.

A run that is killed in step 1 goes on by its commit records. Killed later, the output is complete and can be read, and
the next run of whatever kind does the rest. Nothing here imports Beam: readers share it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from predecode.transforms.errors import FormatError, OutputError
from predecode.transforms.format import (
    EXTENDING,
    MANIFEST_FILE,
    META_FOLDER,
    QUARANTINE_FILE,
    SPLITS,
    STAGING_FOLDER,
)
from predecode.transforms.layout import Layout
from predecode.transforms.manifest import manifest_bytes, read_manifest
from predecode.transforms.remote import FileRange
from predecode.transforms.storage import TEMPORARY_MARK, Folder

_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})/(shard-(\d+)\.(tar|index\.arrow|json)|(order|shards)\.arrow)")


@dataclass(frozen=True, slots=True)
class _OverlaidFolder(Folder):
    """An output, some of whose files still lie in its staging folder: those there are the ones that count.

    A file leaves that folder only after it has its place in the output, so that it is always found: there first.
    """

    def open(self, name: str) -> IO[bytes]:
        try:
            return staging_of(self).open(name)
        except FileNotFoundError:
            return Folder.open(self, name)

    def fetch(self, ranges: Sequence[FileRange]) -> list[bytes]:
        staging = staging_of(self)
        staged = {name for name in {name for name, _, _ in ranges} if staging.size(name) is not None}
        try:
            found = iter(staging.fetch([wanted for wanted in ranges if wanted[0] in staged]))
        except FileNotFoundError:  # Meanwhile all have come to their places: none goes before.
            return Folder.fetch(self, ranges)
        rest = iter(Folder.fetch(self, [wanted for wanted in ranges if wanted[0] not in staged]))
        return [next(found if name in staged else rest) for name, _, _ in ranges]

    def size(self, name: str) -> int | None:
        size_bytes = staging_of(self).size(name)
        return Folder.size(self, name) if size_bytes is None else size_bytes

    def path(self, name: str) -> str:
        is_staged = name and staging_of(self).size(name) is not None
        return staging_of(self).path(name) if is_staged else Folder.path(self, name)


def staging_of(output: Folder) -> Folder:
    """The staging folder of an output."""
    return Folder(Folder.path(output, STAGING_FOLDER), output.options_json)


def target_of(output: Folder, layout: Layout) -> Folder:
    """Where a job writes."""
    return staging_of(output) if layout.is_extension else output


def shard_places(output: Folder, layout: Layout) -> tuple[Folder, ...]:
    """Where a job looks for committed shards; what is staged goes before what it replaces."""
    return (staging_of(output), output) if layout.is_extension else (output,)


def described_files(output: Folder, manifest: Mapping[str, Any]) -> Folder:
    """Where the files that a manifest describes are found."""
    return _OverlaidFolder(output.url, output.options_json) if manifest.get(EXTENDING) is True else output


def publish_extension(output: Folder, content: dict[str, Any], staged: Collection[str]) -> None:
    """Makes the staged files the output's, its readers never without one.

    Args:
        output: What is extended.
        content: Of the new manifest.
        staged: Names of the files that were staged for it; others are left from a run that was killed.

    Raises:
        OutputError: storage fails.
    """
    staging = staging_of(output)
    for name in staging.names():
        if name not in staged:
            staging.remove(name)
    output.publish(MANIFEST_FILE, manifest_bytes({**content, EXTENDING: True}))
    finish_extension(output)


def finish_extension(output: Folder) -> None:
    """Does what is left of an extension whose manifest is published; nothing where there is none.

    Raises:
        OutputError: storage fails.
    """
    try:
        content = read_manifest(output)
    except FormatError:
        return
    except OSError as error:
        raise OutputError(
            f"Cannot read {output.path(MANIFEST_FILE)}: {error.strerror or error}. Is the output's address right? "
            "What is committed is kept: mend the cause and run the same command again."
        ) from error
    if content.pop(EXTENDING, None) is not True:
        return
    staging = staging_of(output)
    for name in staging.names():
        if TEMPORARY_MARK not in name:
            output.copy(f"{STAGING_FOLDER}/{name}", name)
    remove_strays(output, content, but_staged=True)
    output.publish(MANIFEST_FILE, manifest_bytes(content))
    staging.clear()


def remove_strays(output: Folder, manifest: Mapping[str, Any], *, but_staged: bool = False) -> None:
    """Removes what an output has besides what its manifest names: unfinished files, shards of another plan.

    Touches nothing that a job did not write.

    Args:
        output: Where.
        manifest: Its content.
        but_staged: Whether the staging folder is left.

    Raises:
        OutputError: storage refuses.
    """
    if not but_staged:
        staging_of(output).clear()
    for name in output.names():
        if not name.startswith(f"{STAGING_FOLDER}/") and _is_stray(name, manifest):
            output.remove(name)


def _is_stray(name: str, manifest: Mapping[str, Any]) -> bool:
    match = _SHARD_FILE.fullmatch(name)
    if match and match[3]:
        split = manifest["splits"].get(match[1])
        return split is None or int(match[3]) >= split["shards"]
    is_ours = bool(match) or name == QUARANTINE_FILE or name.startswith(f"{META_FOLDER}/")
    return (is_ours and name not in manifest["files"]) or TEMPORARY_MARK in name
