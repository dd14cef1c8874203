"""`predecode report`: an output on one page, for whoever has to decide whether to trust it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tqdm import tqdm

from predecode.reader.choosing import Choice
from predecode.reader.preview import draw_preview
from predecode.reader.report_data import gather_report
from predecode.reader.report_fidelity import MAX_FRAMES, compare_frames
from predecode.reader.report_page import report_page
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import FormatError, OutputError, PredecodeError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.staging import described_files
from predecode.transforms.storage import Folder

_SHEET_WINDOWS = 4


def write_report(
    url: str,
    page_path: str,
    *,
    source: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> None:
    """Writes a report of an output as one self-contained HTML page.

    Args:
        url: The output: a folder or an fsspec URL.
        page_path: The local file to write.
        source: The dataset that it was made from; None to leave out what needs it.
        storage_options: For fsspec, for both.
        show_progress: Whether to draw a bar on standard error.

    Raises:
        FormatError: the output is incomplete or damaged.
        UsageError: the source is of another kind.
        OutputError: the page cannot be written.
        OSError: storage fails.
    """
    folder = Folder.of(url, storage_options)
    try:
        page = _page(folder, url, source, storage_options, show_progress=show_progress)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        if isinstance(error, PredecodeError):
            raise
        raise FormatError(f"{folder} is damaged: {error!r:.200}. `predecode verify` says what is.") from error
    try:
        Path(page_path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write {page_path}: {error.strerror or error}. Name another file.") from error


def _page(
    folder: Folder,
    url: str,
    source: str | None,
    storage_options: Mapping[str, Any] | None,
    *,
    show_progress: bool,
) -> str:
    manifest = read_manifest(folder)
    folder = described_files(folder, manifest)
    splits = {name: SplitIndex(folder, manifest, name) for name in manifest["splits"]}
    total = sum(split.num_items for split in splits.values())
    fidelity = None
    with tqdm(total=total, unit=" windows", file=sys.stderr, disable=not show_progress) as bar:
        data = gather_report(folder, splits, bar.update)
    if source is not None:
        total = min(MAX_FRAMES, len(data.samples))
        with tqdm(total=total, unit=" samples", file=sys.stderr, disable=not show_progress) as bar:
            fidelity = compare_frames(data, splits, Folder.of(source, storage_options), bar.update)
    return report_page(data, fidelity, _contact_sheet(url, splits, storage_options), source)


def _contact_sheet(
    url: str, splits: Mapping[str, SplitIndex], storage_options: Mapping[str, Any] | None
) -> bytes | None:
    """A picture of some windows of the first split that has any."""
    for name, split in splits.items():
        if split.num_items:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "sheet.png"
                draw_preview(
                    url,
                    str(path),
                    split=name,
                    choice=Choice(num_windows=_SHEET_WINDOWS),
                    storage_options=storage_options,
                )
                return path.read_bytes()
    return None
