"""Keeping credentials out of a job that is sent elsewhere: whoever sees the engine's page of it reads its options."""

from __future__ import annotations

import json

from apache_beam.options.pipeline_options import PipelineOptions

from predecode.transforms.credentials import has_user, secret_options
from predecode.transforms.errors import UsageError
from predecode.transforms.options import MaterializeOptions

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
    for name, _ in secret_options(json.loads(options.storage_options_json)):
        raise UsageError(f"--storage-options: {name} would travel with the job, for all to see. {_REMEDY}")
    for name, url in (("SOURCE", options.source), ("OUTPUT", options.output)):
        if has_user(url):
            raise UsageError(f"{name}: the user in its address would travel with the job, for all to see. {_REMEDY}")
    given = beam_options.get_all_options(drop_default=True)
    for name in _BEAM_SECRETS:
        if given.get(name):
            raise UsageError(f"--{name} would travel with the job, for all to see. {_REMEDY}")
