"""Keeping credentials out of a job that is sent elsewhere: whoever sees the engine's page of it reads its options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from predecode.transforms.errors import UsageError
from predecode.transforms.options import MaterializeOptions

_SECRET_NAME = re.compile(
    r"secret|passw|passphrase|token|credential|signature|connection_string|cookie|authorization|(^|_|access)key(_id)?$",
    re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"://[^/@\s]+@")
_NO_SECRETS = ("", "anon", "cache", "cloud", "google_default")
"""Values of gcsfs's `token` that only say where to look."""

_BEAM_SECRETS = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token", "azure_connection_string")

_REMEDY = (
    "Give it to this command and to the workers by their environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, or for any storage FSSPEC_<PROTOCOL>_<OPTION>, such as FSSPEC_S3_SECRET."
)


def refuse_credentials(options: MaterializeOptions, beam_options: PipelineOptions) -> None:
    """Refuses to send a job away that has credentials in it.

    Args:
        options: Of the job; they travel in its graph.
        beam_options: Of the engine; they travel beside it.

    Raises:
        UsageError: there are some; the message names the option and not its value.
    """
    for name in _secrets(json.loads(options.storage_options_json), ""):
        raise UsageError(f"--storage-options: {name} would travel with the job, for all to see. {_REMEDY}")
    for name, url in (("SOURCE", options.source), ("OUTPUT", options.output)):
        if _USER_IN_URL.search(url):
            raise UsageError(f"{name}: the user in its address would travel with the job, for all to see. {_REMEDY}")
    given = beam_options.get_all_options(drop_default=True)
    for name in _BEAM_SECRETS:
        if given.get(name):
            raise UsageError(f"--{name} would travel with the job, for all to see. {_REMEDY}")


def _secrets(value: Any, name: str) -> Iterator[str]:
    """Names of the options, nested ones with dots, that look like credentials."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets(inner, name)
    elif isinstance(value, str):
        is_secret = _SECRET_NAME.search(name.rpartition(".")[2]) and value not in _NO_SECRETS
        if is_secret or _USER_IN_URL.search(value):
            yield name
