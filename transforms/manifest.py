"""manifest.json: the last file of an output. Who can read it can read everything; who cannot find it must not try."""

from __future__ import annotations

import json
from typing import Any

from predecode.transforms.errors import FormatError
from predecode.transforms.format import FORMAT_VERSION, MANIFEST_FILE, PLAN_FILE
from predecode.transforms.hashing import digest
from predecode.transforms.storage import Folder

_MAX_BYTES = 64 << 20


def manifest_bytes(content: dict[str, Any]) -> bytes:
    """The manifest as written, with its own checksum."""
    return json.dumps({**content, "digest": digest(content)}, indent=1, allow_nan=False).encode() + b"\n"


def read_manifest(folder: Folder) -> dict[str, Any]:
    """Reads and checks the manifest of an output.

    Raises:
        FormatError: there is none, it is damaged, or of another format version.
        OSError: storage fails.
    """
    size_bytes = folder.size(MANIFEST_FILE)
    if size_bytes is None:
        raise _missing(folder)
    if size_bytes > _MAX_BYTES:
        raise FormatError(
            f"{folder.path(MANIFEST_FILE)} has {size_bytes} bytes, expected at most {_MAX_BYTES}. {MANIFEST_REMEDY}"
        )
    try:
        content = json.loads(folder.read(MANIFEST_FILE))
        found = content.pop("digest")
        sound = found == digest(content)
    except FileNotFoundError:  # A job has just removed it, to overwrite the output.
        raise _missing(folder) from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise FormatError(f"{folder.path(MANIFEST_FILE)} is damaged: {error!r:.200}. {MANIFEST_REMEDY}") from None
    if content.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{folder} has format version {content.get('format_version')!r:.40}, this predecode reads "
            f"{FORMAT_VERSION}. Install the version of predecode that wrote it."
        )
    if not sound:
        raise FormatError(f"{folder.path(MANIFEST_FILE)} is damaged: its checksum does not fit. {MANIFEST_REMEDY}")
    if not isinstance(content.get("plan"), str) or not isinstance(content.get("splits"), dict):
        raise FormatError(f"{folder.path(MANIFEST_FILE)} lacks its plan or its splits. {MANIFEST_REMEDY}")
    return dict(content)


def _missing(folder: Folder) -> FormatError:
    started = folder.size(PLAN_FILE) is not None
    return FormatError(
        f"{folder} has no {MANIFEST_FILE}: "
        + (
            "the job that writes it is not finished. Wait for it, or run the same command again to go on."
            if started
            else "it is no output of predecode. Expected the folder given as OUTPUT to `predecode materialize`."
        )
    )


MANIFEST_REMEDY = "Run the same `predecode materialize` again: it keeps the shards and writes the manifest anew."
"""What to do about a manifest that cannot be used."""

PLAN_REMEDY = "Copy the output again, or materialize into a new folder."
"""What to do where plan.json is gone, without which nothing can be added to an output."""
