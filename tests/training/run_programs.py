"""Run by lerobot's interpreter: several programs in one process, since importing lerobot takes most of their time.

python -m tests.training.run_programs '[["PROGRAM", "--argument=...", ...], ...]'
"""

from __future__ import annotations

import json
import runpy
import sys

import lerobot.datasets.factory


def main(programs: list[list[str]]) -> None:
    """Runs each with its arguments; what they replace in lerobot is put back."""
    original = vars(lerobot.datasets.factory).copy()
    for arguments in programs:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
        vars(lerobot.datasets.factory).update(original)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
