"""What is tried again and what is not, for how long, and what is said of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import pytest

from predecode.transforms.errors import MissingDependencyError, StorageError
from predecode.transforms.patience import Patience, patiently, within
from predecode.transforms.storage import Folder

SHORT = Patience(total_seconds=0.05, first_pause_seconds=0.001, max_pause_seconds=0.01)


class AnswerError(Exception):
    """As gcsfs raises them."""

    def __init__(self, code: int) -> None:
        super().__init__(f"answer {code}")
        self.code = code


def http_error(cause: Exception) -> FileNotFoundError:
    """As fsspec's file system for HTTP raises whatever goes wrong."""
    error = FileNotFoundError("http://host/file")
    error.__cause__ = cause
    return error


def refused() -> OSError:
    error = OSError("s3 says so")
    error.__cause__ = type("ClientError", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": 400}}})()
    return error


PASSING = [
    AnswerError(429),
    AnswerError(503),
    TimeoutError(),
    ConnectionResetError(),
    aiohttp.ClientPayloadError(),
    http_error(AnswerError(500)),
    http_error(aiohttp.ServerDisconnectedError()),
    json.JSONDecodeError("cut off", "{", 1),
]
REFUSING = [
    PermissionError("no"),
    AnswerError(403),
    AnswerError(400),
    refused(),
    ValueError("Bad Request"),
    OSError("Forbidden: x"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    outcomes: list[Exception | int] = [error, error, 7]

    def call() -> int:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    assert patiently("Cannot do", call, options={}, patience=SHORT) == 7
    with pytest.raises(StorageError, match=r"Cannot do: tried \d+ times? within 0 s, at last: "):
        patiently("Cannot do", lambda: raising(error), options={}, patience=SHORT)


@pytest.mark.parametrize("error", REFUSING, ids=repr)
def test_what_storage_refuses_is_not(error: Exception) -> None:
    outcomes = [error]
    with pytest.raises(StorageError, match="Storage refuses"):
        patiently("Cannot do", lambda: raising(outcomes.pop()), options={}, patience=SHORT)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), NotADirectoryError(), AnswerError(404), http_error(AnswerError(404))]
)
def test_absence_is_an_answer(error: Exception) -> None:
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        patiently("Cannot do", lambda: raising(error), options={}, patience=SHORT)


@pytest.mark.parametrize("min_calls", [1, 3])
def test_a_call_that_takes_longer_than_all_the_time_is_made_again(min_calls: int) -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.02)
        raise ConnectionResetError

    patience = Patience(total_seconds=0.01, min_calls=min_calls, first_pause_seconds=0.001)
    with pytest.raises(StorageError, match=rf"tried {min_calls} times? within"):
        patiently("Cannot do", call, options={}, patience=patience)
    assert len(calls) == min_calls


def test_what_hangs_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="no answer within"):
        within(0.05, lambda: time.sleep(0.5))
    with pytest.raises(NotADirectoryError):
        within(5, lambda: raising(NotADirectoryError()))
    assert within(5, tmp_path.exists)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: raising(ImportError("Install s3fs to access S3")))
    with pytest.raises(MissingDependencyError, match=r"Install s3fs to access S3: pip install 'predecode\[s3\]'\."):
        Folder.of("s3://bucket/of-another-test").size("x")


def raising(error: Exception) -> Any:
    raise error
