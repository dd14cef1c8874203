"""The examples of docs/training.md, taken out of it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.documents import blocks, commands

PAGE = "docs/training.md"


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
    return [Example(" ".join(block.info[1:]), block.content) for block in blocks(PAGE) if block.info[:1] == ("python",)]


def program(name: str) -> str:
    """The block that begins with a comment of its file name."""
    (code,) = [code for code in examples("lerobot") if code.startswith(f"# {name}\n")]
    return code


def arguments(name: str) -> list[str]:
    """Those that the page starts a program with."""
    (command,) = [words for words in commands(PAGE) if words[:2] == ["python", name]]
    return command[2:]
