"""What a job that is sent elsewhere must not carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predecode.pipeline.credentials import refuse_credentials
from predecode.pipeline.runner import pipeline_options
from predecode.transforms.errors import UsageError
from predecode.transforms.options import MaterializeOptions
from tests.pipeline.running import run

ELSEWHERE = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]
HIDDEN = "hunter2"


def check(storage_options: dict[str, Any], *flags: str, source: str = "s3://bucket/in") -> None:
    options = MaterializeOptions(
        source=source, output="s3://bucket/out", storage_options_json=json.dumps(storage_options)
    )
    refuse_credentials(options, pipeline_options([*ELSEWHERE, *flags]))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"key": HIDDEN}, "key"),
        ({"secret": HIDDEN}, "secret"),
        ({"token": HIDDEN}, "token"),
        ({"sas_token": HIDDEN}, "sas_token"),
        ({"account_key": HIDDEN}, "account_key"),
        ({"password": HIDDEN}, "password"),
        ({"connection_string": HIDDEN}, "connection_string"),
        ({"client_kwargs": {"aws_secret_access_key": HIDDEN}}, "client_kwargs.aws_secret_access_key"),
        ({"client_kwargs": {"aws_access_key_id": HIDDEN}}, "client_kwargs.aws_access_key_id"),
        ({"token": {"private_key": HIDDEN}}, "token.private_key"),
        ({"client_kwargs": {"headers": {"Authorization": HIDDEN}}}, "client_kwargs.headers.Authorization"),
        ({"endpoint_url": f"https://me:{HIDDEN}@host"}, "endpoint_url"),
        ({"proxies": [f"http://me:{HIDDEN}@proxy"]}, "proxies"),
    ],
)
def test_a_credential_is_refused_and_not_repeated(options: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(options)
    assert f"--storage-options: {name} would travel with the job" in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"anon": True},
        {"token": "anon"},
        {"token": None},
        {"endpoint_url": "https://host:9000", "client_kwargs": {"region_name": "eu-west-1"}},
        {"requester_pays": True, "default_block_size": 1 << 20, "keyword": "x", "monkey": "y"},
    ],
)
def test_what_is_none_passes(options: dict[str, Any]) -> None:
    check(options)


def test_addresses_and_beams_own_options() -> None:
    with pytest.raises(UsageError, match="SOURCE: the user in its address"):
        check({}, source=f"ftp://me:{HIDDEN}@host/in")
    with pytest.raises(UsageError, match="--s3_secret_access_key would travel"):
        check({}, f"--s3_secret_access_key={HIDDEN}")


def test_a_job_with_a_credential_is_not_sent(data_dir: Path, tmp_path: Path) -> None:
    secret: dict[str, Any] = {"storage_options_json": json.dumps({"secret": HIDDEN})}
    with pytest.raises(UsageError, match="secret would travel with the job"):
        run(data_dir / "zoo_v30", tmp_path / "out", flags=ELSEWHERE, **secret)
    run(data_dir / "zoo_v30", tmp_path / "out", **secret)
