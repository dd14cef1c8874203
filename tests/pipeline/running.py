"""Running the job in tests: in this process, or in one that is killed at a given moment."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predecode.pipeline import MaterializeOptions, Summary, materialize

TWO_THREADS = ("--direct_num_workers=2",)


def run(source: Path | str, output: Path | str, *, flags: Sequence[str] = TWO_THREADS, **options: Any) -> Summary:
    """Materializes with the command line's defaults but for what is given."""
    return materialize(MaterializeOptions(source=str(source), output=str(output), **options), list(flags))


def tree(folder: Path) -> dict[str, str]:
    """Every file of an output by its relative path, as a checksum."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest as JSON."""
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def quarantine(folder: Path) -> list[dict[str, Any]]:
    """The lines of quarantine.jsonl."""
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def run_killed(moment: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own that SIGKILLs itself at a moment; see `killing.py`."""
    program = Path(__file__).with_name("killing.py")
    return subprocess.run(
        [sys.executable, str(program), moment, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
