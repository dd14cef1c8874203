"""Telling credentials from other options, and keeping them out of what people read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

_SECRET_NAME = re.compile(
    r"secret|passw|passphrase|token|credential|signature|connection_string|cookie|authorization|(^|_|access)key(_id)?$",
    re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"://[^/@\s]+@")
_QUERY_OF_URL = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\")]+")
_NO_SECRETS = ("", "anon", "cache", "cloud", "google_default")
"""Values of gcsfs's `token` that only say where to look."""

_MIN_LETTERS = 6
"""What is shorter stands in any text by chance, and is no secret worth the name."""

_HIDDEN = "[hidden]"


def has_user(url: str) -> bool:
    """Whether an address names a user, as in `https://user:password@host/`."""
    return bool(_USER_IN_URL.search(url))


def secret_options(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names, nested ones with dots, and values of the options that look like credentials.

    >>> list(secret_options({"key": "me", "client_kwargs": {"region_name": "x", "aws_session_token": "t"}}))
    [('key', 'me'), ('client_kwargs.aws_session_token', 't')]
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from secret_options(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from secret_options(inner, name)
    elif isinstance(value, str):
        is_secret = _SECRET_NAME.search(name.rpartition(".")[2]) and value not in _NO_SECRETS
        if is_secret or has_user(value):
            yield name, value


def without_secrets(text: str, options: Any) -> str:
    """What a library says, without the credentials in the options and in the environment, and without signed queries.

    >>> without_secrets("403 for https://me:pw@host/a?Signature=abc: key hush-hush", {"secret": "hush-hush"})
    '403 for https://[hidden]@host/a?[hidden] key [hidden]'
    """
    given = [value for _, value in secret_options(options)]
    given += [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    for value in sorted(given, key=len, reverse=True):
        if len(value) >= _MIN_LETTERS:
            text = text.replace(value, _HIDDEN)
    text = _QUERY_OF_URL.sub(rf"\1?{_HIDDEN}", text)
    return _USER_IN_URL.sub(f"://{_HIDDEN}@", text)
