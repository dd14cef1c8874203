"""How long storage is waited for, and what is tried again: the one policy for every call over a network.

A call that fails in a way that may pass is made again, after pauses that double, until it goes well, or `total_seconds`
are over and it was made `min_calls` times. The libraries below fsspec retry by themselves, too; whatever they do ends
with the time-out of the call.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from predecode.transforms.credentials import without_secrets
from predecode.transforms.errors import MissingDependencyError, PredecodeError, StorageError
from predecode.transforms.wording import counted

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Patience:
    """Time-outs.

    Attributes:
        call_seconds: How long one call may take, besides what its bytes need.
        bytes_per_second: What moves more slowly than this is deemed to hang.
        total_seconds: When a call has failed for so long, it is not begun again.
        min_calls: But it is made so many times: one that moves a large file may take longer than that before it fails.
        first_pause_seconds: Before the second call; each further pause is twice as long.
        max_pause_seconds: But no longer than this.
    """

    call_seconds: float = 30.0
    bytes_per_second: float = 1 << 20
    total_seconds: float = 120.0
    min_calls: int = 3
    first_pause_seconds: float = 0.5
    max_pause_seconds: float = 15.0

    def limit_seconds(self, num_bytes: int) -> float:
        """How long a call that moves so many bytes may take."""
        return self.call_seconds + num_bytes / self.bytes_per_second


PATIENCE = Patience()

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_LOGGER = logging.getLogger("predecode.storage")
_CUT_OFF = (json.JSONDecodeError, UnicodeError)
_HOPELESS = (PermissionError, FileExistsError, ValueError, TypeError, AttributeError, NotImplementedError, MemoryError)
_ABSENT_STATUSES = (404, 410)
_PASSING_STATUSES = (408, 425, 429)
"""Of the answers that blame the client, those that may be another one later."""

_REMEDY = "mend the cause and run the same again."
_JITTER = random.SystemRandom()


def patiently(
    what: str, call: Callable[[], Value], *, options: Mapping[str, Any], patience: Patience | None = None
) -> Value:
    """Makes a call until it goes well.

    Args:
        what: What is done and to which file, for the message: "Cannot read s3://bucket/file".
        call: Is to end within the time-out of a call.
        options: Of the storage: credentials in them are kept out of the message.
        patience: Time-outs; `PATIENCE` if not given.

    Raises:
        OSError: what storage says where there is no such file; a sub-class of it.
        StorageError: storage refuses, or has failed for `total_seconds`.
        MissingDependencyError: the library for this storage is not installed.
    """
    patience = patience or PATIENCE
    started, calls = time.monotonic(), 0
    while True:
        calls += 1
        try:
            return call()
        except PredecodeError:
            raise
        except Exception as error:
            reason = without_secrets(_words(error), options)
            if _says_absent(error):
                if isinstance(error, _ABSENT):
                    raise
                raise FileNotFoundError(f"{what}: {reason}") from None
            if not _may_pass(error):
                # Without the cause: its text may hold credentials.
                raise StorageError(f"{what}: {reason}. Storage refuses: {_REMEDY}") from None
            pause = min(patience.first_pause_seconds * 2 ** (calls - 1), patience.max_pause_seconds)
            waited = time.monotonic() - started
            if waited + pause > patience.total_seconds and calls >= patience.min_calls:
                raise StorageError(
                    f"{what}: tried {counted(calls, 'time')} within {waited:.0f} s, at last: {reason}. "
                    "What is there is kept: " + _REMEDY
                ) from None
            if calls == 1:
                _LOGGER.warning("%s: %s; trying again for %.0f s.", what, reason, patience.total_seconds)
        time.sleep(pause * _JITTER.uniform(0.5, 1))


def within(seconds: float, call: Callable[[], Value]) -> Value:
    """Makes a call in a thread of its own, which is left to itself when the time is over.

    So an interruption (Ctrl-C) does not reach the call either: of some file systems it would publish half a file.

    Raises:
        TimeoutError: the call takes longer.
    """
    outcome: list[Value] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - Raised again by who waits.
            failure.append(error)

    thread = Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return outcome[0]


def missing_library(url: str, error: ImportError) -> MissingDependencyError:
    """The error where fsspec lacks the library for an address."""
    extra = _EXTRAS.get(url.split("://", 1)[0])
    remedy = f"pip install 'predecode[{extra}]'" if extra else "Install what fsspec asks for"
    return MissingDependencyError(f"{url}: {str(error).rstrip('.')}: {remedy}.")


_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf", "http": "http", "https": "http"}


def _says_absent(error: BaseException) -> bool:
    """Whether there is no such file: fsspec's file system for HTTP says so, too, when the server fails or is away."""
    if (status := _status(error)) is not None:
        return status in _ABSENT_STATUSES
    return isinstance(error, _ABSENT) and (error.__cause__ is None or _says_absent(error.__cause__))


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUSES
    if isinstance(error, _CUT_OFF):
        return True
    # gcsfs has no other word for it.
    return not isinstance(error, _HOPELESS) and not str(error).startswith("Forbidden")


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error stands for: each library has its own name for it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif response is not None:  # huggingface_hub
        found = getattr(response, "status_code", None)
    elif hasattr(error, "status"):  # aiohttp
        found = error.status
    else:  # gcsfs
        found = getattr(error, "code", None)
    if str(found).isdigit() and 400 <= int(str(found)) < 600:
        return int(str(found))
    # s3fs, and fsspec for HTTP, raise an OSError from it. aiohttp calls its own errors of a broken answer a 400.
    return _status(error.__cause__) if isinstance(error, OSError) and error.__cause__ is not None else None


def _words(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, _ABSENT) and isinstance(error.__cause__, Exception):
        return _words(error.__cause__)  # fsspec's file system for HTTP says no more than the address.
    text = " ".join(str(error.strerror if isinstance(error, OSError) and error.strerror else error).split())
    if isinstance(error, TimeoutError):
        return text or "no answer in time"
    return f"{text:.300}".rstrip(". ") or type(error).__name__
