"""Opening an output, also while a job publishes another manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from predecode.transforms.errors import FormatError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.staging import described_files
from predecode.transforms.storage import Folder

_Opened = TypeVar("_Opened")


def open_output(folder: Folder, open_files: Callable[[Folder, dict[str, Any]], _Opened]) -> _Opened:
    """Opens what a manifest describes.

    Between reading the manifest and reading what it describes, a job may publish another: then that one is opened.

    Args:
        folder: The output.
        open_files: Opens files, from where they lie and the content of the manifest.

    Raises:
        FormatError: the output is incomplete, damaged, or of another format version.
        OSError: storage fails.
    """
    manifest = read_manifest(folder)
    while True:
        try:
            return open_files(described_files(folder, manifest), manifest)
        except FormatError:
            newer = read_manifest(folder)
            if newer == manifest:
                raise
            manifest = newer
