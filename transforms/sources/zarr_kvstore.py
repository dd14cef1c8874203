"""Where tensorstore finds a Zarr group: its own drivers, told what the storage options say.

The options are fsspec's, so that one set serves source and output. tensorstore has no place for most of them: what it
cannot follow is refused, since a group that is read otherwise than asked for might be another one.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import fsspec
import tensorstore as ts

from predecode.transforms.errors import SourceError, UsageError
from predecode.transforms.storage import Folder

Spec: TypeAlias = dict[str, Any]

_KNOWN: Mapping[str, tuple[str, ...]] = {
    "s3": (
        "endpoint_url",
        "key",
        "secret",
        "token",
        "anon",
        "profile",
        "requester_pays",
        "client_kwargs.region_name",
        "client_kwargs.endpoint_url",
    ),
    "gs": ("endpoint_url", "token", "project", "requester_pays"),
    "http": ("headers", "client_kwargs.headers"),
}
"""By scheme, the options that are followed."""

_SCHEMES = {"s3a": "s3", "gcs": "gs", "https": "http"}
_TOKENS = (None, "", "anon", "cache", "cloud", "google_default")
"""Of gcsfs, those that name no file: where to look is tensorstore's own concern."""

_GCS_URL = "TENSORSTORE_GCS_HTTP_URL"

_RETRIES = {"max_retries": 2, "initial_delay": "100ms", "max_delay": "1s"}
"""Few, since `ZarrStore.attempt` begins anew what has failed, by the policy of all storages."""

_SILENT_SECONDS = 30

CONTEXT: Mapping[str, Any] = {f"{driver}_request_retries": _RETRIES for driver in ("s3", "gcs", "http")}
"""What every remote call of tensorstore is made with."""


def kvstore_spec(folder: Folder) -> Spec:
    """tensorstore's specification of what an address names.

    Raises:
        SourceError: tensorstore has no driver for it.
        UsageError: a storage option that tensorstore cannot follow.
    """
    if folder.is_local:
        return {"driver": "file", "path": folder.url}
    scheme, rest = folder.url.split("://", 1)
    scheme = _SCHEMES.get(scheme, scheme)
    if scheme not in _KNOWN:
        raise SourceError(
            f"{folder}: Zarr is read from local disks, s3://, gs:// and http(s)://. Copy it to one of these; of the "
            "Hugging Face Hub a .zarr.zip can be read by its https address."
        )
    options = _options(folder, scheme)
    # A transfer that is silent would stay with tensorstore for ever, and later reads of the chunk would join it.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(_SILENT_SECONDS))
    if scheme == "http":
        return _http(folder, options)
    bucket, _, path = rest.partition("/")
    return {**(_s3 if scheme == "s3" else _gcs)(folder, options), "bucket": bucket, "path": path}


def _options(folder: Folder, scheme: str) -> dict[str, Any]:
    """The options by name, nested ones with a dot; those of fsspec's configuration as far as they are known."""
    known = _KNOWN[scheme]
    configured = _flat(fsspec.config.conf.get(scheme, {}))
    given = _flat(json.loads(folder.options_json))
    if unknown := sorted(set(given).difference(known)):
        raise UsageError(
            f"{folder}: tensorstore, which reads Zarr, cannot follow the storage option"
            f"{'s' if unknown[1:] else ''} {', '.join(unknown)}. For {scheme} these are followed: {', '.join(known)}. "
            f"What only the output needs can be given in the environment, as FSSPEC_{scheme.upper()}_<OPTION>."
        )
    return {**{name: value for name, value in configured.items() if name in known}, **given}


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    nested = options.get("client_kwargs") or {}
    return {name: value for name, value in options.items() if name != "client_kwargs"} | {
        f"client_kwargs.{name}": value for name, value in nested.items()
    }


def _s3(folder: Folder, options: Mapping[str, Any]) -> Spec:
    spec: Spec = {"driver": "s3", "aws_credentials": _aws_credentials(folder, options)}
    named = (options.get("endpoint_url"), options.get("client_kwargs.endpoint_url"))
    endpoint = next(filter(None, (*named, *map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")))), None)
    regions = (options.get("client_kwargs.region_name"), *map(os.environ.get, ("AWS_REGION", "AWS_DEFAULT_REGION")))
    region = next(filter(None, regions), None)
    if endpoint:
        # Other servers than Amazon's may not say their region; this is what botocore takes for them.
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    elif region:
        spec["aws_region"] = region
    if options.get("requester_pays"):
        spec["requester_pays"] = True
    return spec


def _aws_credentials(folder: Folder, options: Mapping[str, Any]) -> Spec:
    key, secret, token = (options.get(name) for name in ("key", "secret", "token"))
    if options.get("anon"):
        return {"type": "anonymous"}
    if key or secret:
        if not (key and secret) or not all(str(value).isprintable() for value in (key, secret, token)):
            raise UsageError(f"{folder}: the storage options key and secret must be given together, each one line.")
        file = _credentials_file(str(key), str(secret), str(token or ""), os.getpid())
        return {"type": "profile", "profile": "default", "credentials_file": file, "config_file": os.devnull}
    if options.get("profile"):
        return {"type": "profile", "profile": options["profile"]}
    # The default would look at the files of profiles first, and complain on standard error where there are none.
    return {"type": "environment" if os.environ.get("AWS_ACCESS_KEY_ID") else "default"}


@functools.lru_cache(maxsize=16)
def _credentials_file(key: str, secret: str, token: str, _process: int) -> str:
    """A file that tensorstore reads credentials from, since it takes them in no other way: in memory, without a name.

    It stays as long as the process.
    """
    lines = ["[default]", f"aws_access_key_id={key}", f"aws_secret_access_key={secret}"]
    lines += [f"aws_session_token={token}"] * bool(token)
    descriptor = os.memfd_create("credentials")
    os.write(descriptor, "\n".join([*lines, ""]).encode())
    return f"/proc/self/fd/{descriptor}"


def _gcs(folder: Folder, options: Mapping[str, Any]) -> Spec:
    if options.get("token") not in _TOKENS:
        raise UsageError(
            f"{folder}: tensorstore, which reads Zarr, takes credentials for gs from the environment alone: give the "
            "file by GOOGLE_APPLICATION_CREDENTIALS instead of the storage option token."
        )
    endpoint = options.get("endpoint_url")
    if endpoint and os.environ.get(_GCS_URL) != endpoint:
        raise UsageError(
            f"{folder}: tensorstore, which reads Zarr, takes another endpoint for gs from the environment alone: set "
            f"{_GCS_URL} to what the storage option endpoint_url says."
        )
    if options.get("requester_pays"):
        return {"driver": "gcs", "gcs_user_project": {"project_id": str(options.get("project") or "")}}
    return {"driver": "gcs"}


def _http(folder: Folder, options: Mapping[str, Any]) -> Spec:
    headers = {**(options.get("client_kwargs.headers") or {}), **(options.get("headers") or {})}
    spec: Spec = ts.KvStore.Spec(folder.url).to_json()
    return {**spec, "headers": [f"{name}: {value}" for name, value in headers.items()]}
