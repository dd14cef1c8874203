"""Finding the cause in what a runner raises: only the exception's text comes back from a worker."""

from __future__ import annotations

import re

import grpc

from predecode.transforms import errors
from predecode.transforms.errors import JobError, PredecodeError

# Beam ends the message of what a step raised with "[while running 'STEP']". A text may hold several tracebacks, of the
# error's own causes and of the error before Beam added its part: the last is the one to believe.
_RAISED = re.compile(
    rf"{re.escape(errors.__name__)}\.(?P<name>\w+): (?P<message>.*?)"
    r"(?: \[while running '[^']*'\]|\n\n(?:During handling of|The above exception was)|\Z)",
    re.DOTALL,
)
_JAVA_STATE = re.compile(r"^Pipeline \S+ failed in state \w+: ")
_JAVA_CAUSE = re.compile(r"^Caused by: (.*)$", re.MULTILINE)
_NO_WORKER = re.compile(
    r"Process died with exit code|Cannot run program|error=\d+, |Received exit code \d+ for command"
)
_DEAD_WORKER = re.compile(r"CANCELLED: (?:call already|client) cancelled")
_HINTS = {
    _NO_WORKER: "A worker could not be started: --environment_type and --environment_config must name a way that works "
    "on every host.",
    _DEAD_WORKER: "A worker died, and again each time: was there too little memory?",
}
_STEP = re.compile(r"(?P<message>[^\n]*(?:\n(?!\s*File )[^\n]*)*?) \[while running '(?P<step>[^']*)'\]")


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
    message = _last_words(error)
    hint = next((f" {hint}" for pattern, hint in _HINTS.items() if pattern.search(message)), "")
    return JobError(
        f"The job failed: {message.rstrip('.')}.{hint} What is committed is kept: mend the cause and run the same "
        "command again; --debug shows where it happened."
    )


def _last_words(error: BaseException) -> str:
    """What a person needs of an error that is not predecode's own: one line, no trace, nothing of the runner's."""
    if isinstance(error, grpc.FutureTimeoutError):
        return "nobody answers at --job_endpoint"
    if isinstance(error, grpc.RpcError):
        return str(error.details())
    text = _JAVA_STATE.sub("", str(error).strip())
    if causes := _JAVA_CAUSE.findall(text):
        return str(causes[-1])
    step = _STEP.search(text)
    lines = [line for line in (step["message"] if step else text).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else ""
    if isinstance(error, RuntimeError):
        return last.removeprefix("RuntimeError: ")
    return f"{type(error).__name__}: {last}"


def _without_step(error: PredecodeError) -> PredecodeError:
    """In memory Beam appends the step to the message itself; a user has no use for it."""
    text = re.sub(r" \[while running '[^']*'\]", "", str(error))
    return type(error)(text)
