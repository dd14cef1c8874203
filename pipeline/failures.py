"""Finding the cause in what a runner raises: only the exception's text comes back from a worker."""

from __future__ import annotations

import re

from predecode.transforms import errors
from predecode.transforms.errors import PredecodeError

# Beam ends the message of what a step raised with "[while running 'STEP']". A text may hold several tracebacks, of the
# error's own causes and of the error before Beam added its part: the last is the one to believe.
_RAISED = re.compile(
    rf"{re.escape(errors.__name__)}\.(?P<name>\w+): (?P<message>.*?)"
    r"(?: \[while running '[^']*'\]|\n\n(?:During handling of|The above exception was)|\Z)",
    re.DOTALL,
)
_STEP = re.compile(r"(?P<message>[^\n]*(?:\n(?!\s*File )[^\n]*)*?) \[while running '(?P<step>[^']*)'\]")


class JobError(PredecodeError, RuntimeError):
    """The job failed for a reason that predecode does not know."""


def find_cause(error: BaseException) -> PredecodeError:
    """The error that a step raised, whatever the runner wrapped it in.

    Args:
        error: As raised by the runner.

    Returns:
        A `PredecodeError` of the original class where a step raised one, else a `JobError` with the last line.
    """
    if isinstance(error, PredecodeError):
        return _without_step(error)
    text = str(error)
    if raised := list(_RAISED.finditer(text)):
        kind = getattr(errors, raised[-1]["name"], PredecodeError)
        return kind(raised[-1]["message"].strip())
    lines = [line for line in text.strip().splitlines() if line.strip()]
    last = _STEP.search(text)
    message = last["message"].strip().splitlines()[-1] if last else (lines[-1] if lines else "")
    if not isinstance(error, RuntimeError):
        message = f"{type(error).__name__}: {message}"
    return JobError(
        f"The job failed: {message.rstrip('.')}. What is committed is kept: mend the cause and run the same command "
        "again; --debug shows where it happened."
    )


def _without_step(error: PredecodeError) -> PredecodeError:
    """In memory Beam appends the step to the message itself; a user has no use for it."""
    text = re.sub(r" \[while running '[^']*'\]", "", str(error))
    return type(error)(text)
