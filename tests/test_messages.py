"""Every message of an error that the user has to mend says what to do: read from the code, as not all are provoked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from predecode.transforms import errors
from tests.test_imports import MODULES

MENDED_BY_THE_USER = {
    kind.__name__
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PredecodeError)
} - {"PredecodeError", "UsageError", "DataError"}
"""A UsageError says what would have been right. What to do about a piece of bad data is added where it stops the job
(`with_remedy`), and known nowhere else: tests/pipeline/mistakes.py has both."""

REMEDY = re.compile(
    r"(?i:remedy)|_NO_FFMPEG|_PAIRS|\?|\b(Add|Ask|Call|Choose|Convert|Copy|Get|Give|Install|Leave|Make|Materialize|Mend|Name|Raise|Record|Remove|"
    r"Rename|Restore|Run|Wait|Write|copy|mend|leave|give|run|restore)\b|`predecode verify`",
)
"""What to do: an order, a question that has one in it, or what a name that says remedy stands for."""

WRAPPED = re.compile(r"^FormatError\(.*: \{error\}\"\)$")
"""A message that only says where: what it ends with is another error of the family, with its own remedy."""


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and source of each error made in a file, as far as its message is given there."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MENDED_BY_THE_USER:
            source = ast.get_source_segment(text, node) or ""
            if WRAPPED.search(source):
                continue
            if any(isinstance(part, ast.Constant | ast.JoinedStr) for part in ast.walk(node)):
                yield node.lineno, " ".join(source.split())


@pytest.mark.parametrize("name", MODULES)
def test_messages_say_what_to_do(name: str) -> None:
    found = list(messages(MODULES[name]))
    assert [f"{line}: {source}" for line, source in found if not REMEDY.search(re.sub(r"\w+Error\(", "", source))] == []


def test_a_message_without_a_remedy_is_found(tmp_path: Path) -> None:
    file = tmp_path / "made_up.py"
    file.write_text('raise SourceError(f"{where}: expected JSON, got {text!r}.")\nraise UsageError("Expected 3.")\n')
    ((line, source),) = messages(file)
    assert line == 1
    assert not REMEDY.search(source)


def test_there_are_messages() -> None:
    assert sum(len(list(messages(path))) for path in MODULES.values()) > 100
