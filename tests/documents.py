"""The code blocks of the documentation, taken out of it: commands as a shell would split them, and Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from predecode.pipeline import examples

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
OUTPUT = "text"
"""What a block is called that shows what is printed, or a picture. One without a name holds commands."""

_BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(?:predecode|pip|scripts/\S+) \S+ \S.*")
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\.\.\.")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code.

    Attributes:
        info: What stands behind the three ticks, as words.
        content: Its lines.
    """

    info: tuple[str, ...]
    content: str


def blocks(page: str) -> list[Block]:
    """All blocks of a page, by its path in the checkout."""
    found = _BLOCK.finditer((ROOT / page).read_text())
    return [Block(tuple(block["info"].split()), block["content"]) for block in found]


def commands(page: str) -> list[list[str]]:
    """The commands of a page: those of its blocks, then those within its text that name no placeholder."""
    shell = [command for block in blocks(page) if not block.info for command in split_commands(block.content)]
    text = _BLOCK.sub("", (ROOT / page).read_text())
    found = [code for code in _INLINE.findall(text) if _COMMAND.fullmatch(code) and not _PLACEHOLDER.search(code)]
    inline = [shlex.split(code) for code in found]
    return [*shell, *(command for command in inline if command not in shell)]


def split_commands(script: str) -> Iterator[list[str]]:
    r"""The commands of a script, as lists of words; pipes and conjunctions are taken apart.

    >>> list(split_commands("a 'b\nc' && d  # why\ne | f"))
    [['a', 'b\nc'], ['d'], ['e'], ['f']]
    """
    pending = ""
    for line in script.replace("\\\n", " ").splitlines():
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # A quotation goes on in the next line.
            pending += "\n"
            continue
        pending, command = "", list[str]()
        for word in [*words, "&&"]:
            if word not in ("&&", "|", ";"):
                command.append(word)
            elif command:
                yield command
                command = []
    assert not pending, f"a quotation that does not end: {pending}"


def help_pages() -> dict[str, list[list[str]]]:
    """The commands that `--help` shows as examples, per page."""
    texts = {name: text for name, text in vars(examples).items() if name.isupper()}
    return {name: list(split_commands(_without_remarks(text))) for name, text in texts.items()}


def _without_remarks(text: str) -> str:
    """Only the commands: lines that begin with one, without what stands behind it in a column of its own."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    whole = [re.sub(r"(?<=\S)\s+(?=--)", " ", line) for line in lines if line.startswith("predecode ")]
    return "\n".join(re.split(r"\s{2,}", line)[0] for line in whole)
