"""A planted secret must be nowhere: not in files, not in messages, not in logs, not in what a job would carry."""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import logging
import re
import zlib
from pathlib import Path

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from predecode.pipeline.job import build_pipeline
from predecode.pipeline.runner import pipeline_options
from predecode.transforms.errors import StorageError, UsageError
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.storage import Folder
from tests.stores.conftest import DATASET, NEEDS, Proxied
from tests.stores.servers import BUCKET, PASSWORD, USER, Store

SECRETS = (USER, PASSWORD)
FLAGS = ("--no-progress", "--direct_num_workers=2")


def is_clean(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


@NEEDS
def test_it_is_in_no_file_and_no_log(
    s3: Store, data_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = f"{s3.url}/secret"
    options = ["--storage-options", json.dumps(s3.options)]
    with caplog.at_level(logging.DEBUG, "predecode"):
        assert main(["materialize", str(data_dir / DATASET), output, *FLAGS, *options, "--debug"]) == EXIT_DONE
        for command in ("inspect", "verify"):
            assert main([command, output, *options, "--debug"]) == EXIT_DONE
    shown = capfd.readouterr()
    assert is_clean(shown.out + shown.err + caplog.text)
    filesystem = s3.filesystem()
    files = filesystem.find(f"{BUCKET}/secret")
    assert {"plan.json", "manifest.json"} <= {path.rsplit("/", 1)[-1] for path in files}
    for path in files:
        content = filesystem.cat_file(path)
        assert not any(secret.encode() in content for secret in SECRETS), path


@NEEDS
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_it_is_in_no_message(
    flags: tuple[str, ...],
    s3: Store,
    proxied: Proxied,
    data_dir: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store, proxy = proxied(s3)
    arguments = ["materialize", str(data_dir / DATASET), f"{s3.url}/no-message", *FLAGS, *flags, "--storage-options"]
    with proxy.doing("503", "put", count=1 << 20):
        assert main([*arguments, json.dumps(store.options)]) == EXIT_FAILED
    assert main([*arguments, json.dumps({**s3.options, "secret": f"{PASSWORD}-wrong"})]) == EXIT_FAILED
    assert main([*arguments, json.dumps({**s3.options, "endpoint_url": f"http://{USER}:{PASSWORD}@127.0.0.1:1"})])
    assert main([*arguments, json.dumps(s3.options)[:-1]]) == EXIT_USAGE
    assert main(["inspect", f"{s3.url}/x", "--storage-options", json.dumps(s3.options)[:-1]]) == EXIT_USAGE
    assert main(["inspect", f"s3://{USER}:{PASSWORD}@bucket/x"]) == EXIT_USAGE
    shown = capfd.readouterr()
    assert shown.err.count("predecode: ") >= 6
    assert is_clean(shown.out + shown.err)


def test_it_is_in_no_description_of_a_folder_or_options() -> None:
    options = json.dumps({"secret": PASSWORD})
    assert is_clean(repr(Folder.of("s3://bucket/x", json.loads(options))))
    assert is_clean(repr(MaterializeOptions(source="a", output="b", storage_options_json=options)))
    with pytest.raises(UsageError) as caught:
        Folder.of(f"https://host/data?signature={PASSWORD}")
    assert is_clean(str(caught.value))


@NEEDS
def test_it_is_in_no_submitted_job(s3: Store, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """By the environment, as the message says that refuses it among the options: what is sent then has none."""
    elsewhere = pipeline_options(["--runner=PortableRunner", "--job_endpoint=localhost:1"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    source = s3.upload(data_dir / DATASET, "submitted")
    public = json.dumps({"endpoint_url": s3.server_url})
    options = MaterializeOptions(source=source, output=f"{s3.url}/out", storage_options_json=public)
    graph = build_pipeline(options, elsewhere, job_id="1").to_runner_api(return_context=False)
    sent = unpacked(graph.SerializeToString())
    assert source.encode() in sent, "what the graph carries can be seen in it"
    assert not any(secret.encode() in sent for secret in SECRETS)
    assert Folder.of(source, json.loads(public)).size("meta/info.json")


def unpacked(sent: bytes) -> bytes:
    """What is sent, and all that is pickled in it: Beam compresses that and writes it as base64."""
    parts = [sent]
    for packed in re.findall(rb"[A-Za-z0-9+/=\n]{40,}", sent):
        for unpack in (zlib.decompress, bz2.decompress, bytes):
            with contextlib.suppress(ValueError, OSError, zlib.error):
                parts.append(unpack(base64.b64decode(packed)))
    return b"".join(parts)


def test_a_signed_address_is_cut_from_what_a_library_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from predecode.transforms.patience import Patience, patiently

    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    short = Patience(total_seconds=0, first_pause_seconds=1)

    def fail() -> None:
        raise ConnectionError(f"GET https://cdn/file?X-Amz-Signature={PASSWORD}&a=b failed with hf_planted for {USER}")

    with pytest.raises(StorageError) as caught:
        patiently("Cannot read", fail, options={"key": USER}, patience=short)
    assert is_clean(str(caught.value))
    assert "hf_planted" not in str(caught.value)
    assert "GET https://cdn/file?[hidden] failed with [hidden] for [hidden]" in str(caught.value)
