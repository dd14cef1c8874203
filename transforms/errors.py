"""The one family of errors that predecode raises on purpose.

A message says what was got, what was expected, where, and what to do about it.
The concrete classes also derive from the built-in error that callers would expect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

SOURCE_REMEDY = "Is the dataset complete? Get it again, or mend this file."
"""What to do about metadata that cannot be used."""


class PredecodeError(Exception):
    """Base of every error that predecode raises on purpose."""

    retry_helps: ClassVar[bool] = False
    """Whether the same step, run again, may succeed, so that an engine should try."""


class UsageError(PredecodeError, ValueError):
    """What was asked for makes no sense: an option, a feature name, a delta."""


class SourceError(PredecodeError, ValueError):
    """The source as a whole cannot be used: its metadata, its version, a feature of a kind not supported."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no dataset where one was expected."""


class DataError(PredecodeError, ValueError):
    """A piece of the source is bad: with `on_error="quarantine"` its episode or segment is left out and listed.

    Never raised for what may go away by itself (I/O errors, time-outs, memory): a flaky read must not change output.
    """


class FidelityError(PredecodeError, ValueError):
    """The encoded frames are further from the originals than `min_psnr_db` allows."""


class OutputError(PredecodeError, OSError):
    """The output cannot be written, or is not what this job may write to."""

    retry_helps: ClassVar[bool] = True


class StorageError(PredecodeError, OSError):
    """An object store or a server refuses, or has not answered well for as long as it is waited for."""

    retry_helps: ClassVar[bool] = True


class PlanMismatchError(OutputError):
    """The output holds the shards of another plan."""

    retry_helps: ClassVar[bool] = False


class JobError(PredecodeError, RuntimeError):
    """The job failed for a reason that predecode does not know."""


class FormatError(PredecodeError, ValueError):
    """A materialized output is incomplete, damaged, or of another format version."""


class MissingDependencyError(PredecodeError, ImportError):
    """A library, or a version of it, that the job needs is not installed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the name that was meant, to end a message with; empty where none is close.

    >>> did_you_mean("actoin", ["action", "observation.state"])
    ' Did you mean action?'
    >>> did_you_mean("depth", ["action", "observation.state"])
    ''
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f" Did you mean {close[0]}?" if close else ""


def with_remedy(error: DataError) -> DataError:
    """The error as it ends a job that fails on errors: with what else the user could do."""
    text = str(error) if str(error).endswith((".", "?")) else f"{error}."
    return DataError(
        f"{text} Mend the source, leave the episode out with --episodes, or give --on-error=quarantine to go on "
        "without what is bad."
    )
