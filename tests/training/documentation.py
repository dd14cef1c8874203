"""The examples of docs/training.md, taken out of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "training.md"

_BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """One block of Python.

    Attributes:
        runs_with: What follows "python" on the block's first line: "" for the next part of the program that all such
            blocks are together; "torchrun", "accelerate" or "lerobot" for a program of its own.
        code: Its content.
    """

    runs_with: str
    code: str


def examples(runs_with: str) -> list[str]:
    """The code of all blocks of a kind, in the page's order."""
    return [example.code for example in all_examples() if example.runs_with == runs_with]


def all_examples() -> list[Example]:
    """Every block of Python."""
    blocks = _BLOCK.finditer(PAGE.read_text())
    words = [(block["info"].split(), block["content"]) for block in blocks]
    return [Example(" ".join(info[1:]), content) for info, content in words if info[:1] == ["python"]]


def program(name: str) -> str:
    """The block that begins with a comment of its file name."""
    (code,) = [code for code in examples("lerobot") if code.startswith(f"# {name}\n")]
    return code


def arguments(name: str) -> list[str]:
    """Those that the page starts a program with."""
    (command,) = re.findall(rf"^python {re.escape(name)} ((?:.*\\\n)*.*)$", PAGE.read_text(), re.MULTILINE)
    return shlex.split(command.replace("\\\n", ""))
