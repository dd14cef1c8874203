"""Every kind of error that a user can meet, as it is printed; and the page that explains them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from predecode.pipeline import cli
from predecode.pipeline.cli import EXIT_FAILED, EXIT_USAGE, main
from predecode.transforms.errors import PredecodeError, UsageError
from tests.pipeline.mistakes import DATA_DIR, MISTAKES, Mistake, page

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def kinds(kind: type[PredecodeError]) -> Iterator[type[PredecodeError]]:
    """All classes below one."""
    for below in kind.__subclasses__():
        if below.__module__ == PredecodeError.__module__:
            yield below
            yield from kinds(below)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.title for mistake in MISTAKES])
def test_messages_say_what_was_got_and_expected_and_what_to_do(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = mistake.provoke(tmp_path, monkeypatch)
    capsys.readouterr()
    raised: list[BaseException] = []
    report = cli._report

    def noting(error: BaseException, *, debug: bool) -> int:
        raised.append(error)
        return report(error, debug=debug)

    monkeypatch.setattr(cli, "_report", noting)
    assert main(arguments) == (EXIT_USAGE if mistake.error is UsageError else EXIT_FAILED)
    assert [type(error) for error in raised] == [mistake.error]
    shown = (
        capsys.readouterr()
        .err.removeprefix("predecode: ")
        .rstrip("\n")
        .replace(str(tmp_path), "HERE")
        .replace(str(DATA_DIR), "DATA")
    )
    assert shown == mistake.message
    for part in (mistake.got, mistake.expected, mistake.remedy):
        assert part
        assert part in shown


def test_every_kind_of_error_is_on_the_list() -> None:
    assert {mistake.error for mistake in MISTAKES} == set(kinds(PredecodeError))


def test_the_page_is_made_from_the_list() -> None:
    assert PAGE.read_text() == page(), "python -m tests.pipeline.mistakes > docs/troubleshooting.md"
