"""Replay buffers far away: what is read is what is read locally, whatever networks do, and options are followed."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import fsspec
import numcodecs
import numpy as np
import pytest
from imagecodecs.numcodecs import Jpegxl

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from predecode.transforms.errors import DataError, SourceError, StorageError, UsageError
from predecode.transforms.patience import Patience
from predecode.transforms.sources.base import Source
from predecode.transforms.sources.opening import open_source
from predecode.transforms.sources.zarr_kvstore import kvstore_spec
from predecode.transforms.storage import Folder
from tests.pipeline.running import run, tree
from tests.sources.reading import episodes
from tests.sources.replay_buffers import write_buffer
from tests.sources.test_zarr import read_all
from tests.stores.conftest import NEEDS, Proxied
from tests.stores.proxy import Mischief, Proxy
from tests.stores.servers import BUCKET, PASSWORD, USER, Store

FLAGS = ("--fps=10", "--no-progress", "--direct_num_workers=2")
NAMES = ("v2.zarr", "v3.zarr", "packed.zarr.zip", "umi.zarr")
STORES = [pytest.param("s3", marks=NEEDS), pytest.param("gs", marks=NEEDS), "http"]
ENDS = [30, 61, 90]
RNG = np.random.default_rng(0)
ARRAYS = {
    "img": RNG.integers(0, 256, (90, 16, 18, 3), np.uint8),
    "action": RNG.normal(size=(90, 2)).astype(np.float32),
}
FOREVER = 1 << 20


@pytest.fixture(scope="module")
def buffers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same buffer in every form."""
    folder = tmp_path_factory.mktemp("buffers")
    for name in NAMES:
        with patch.dict(numcodecs.registry.codec_registry):
            numcodecs.register_codec(Jpegxl)
            options: dict[str, Any] = {"version": 3 if name == "v3.zarr" else 2}
            if name == "umi.zarr":
                options |= {"chunk_rows": 1}
                write_buffer(folder / name, {"img": ARRAYS["img"]}, ENDS, compressors=Jpegxl(lossless=True), **options)
            else:
                write_buffer(folder / name, ARRAYS, ENDS, **options)
    return folder


@pytest.fixture
def there(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, with what tensorstore wants in the environment."""
    if store.url.startswith("gs"):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", store.server_url)
    return store


def opened(url: str, options: Any) -> Source:
    return open_source(Folder.of(url, options), fps=10.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("store", STORES, indirect=True)
def test_the_job_writes_what_it_writes_locally(
    there: Store, name: str, buffers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(buffers / name, tmp_path / "near", fps=10.0)
    source = there.upload(buffers / name, f"job-{name}")
    options = ["--storage-options", json.dumps(there.options)]
    arguments = [source, str(tmp_path / "far"), *options, *FLAGS]
    assert main(["plan", *arguments[:2], *options, "--fps=10"]) == EXIT_DONE, capsys.readouterr().err
    assert "left out" not in capsys.readouterr().out
    assert main(["materialize", *arguments]) == EXIT_DONE, capsys.readouterr().err
    assert tree(tmp_path / "far") == tree(tmp_path / "near")


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_what_is_not_there(there: Store, buffers: Path) -> None:
    url = there.upload(buffers / "v2.zarr" / "data", "part.zarr")
    with pytest.raises(SourceError, match=r"no Zarr group here: expected \.zgroup or zarr\.json"):
        opened(f"{url}/img.zarr", there.options)
    with pytest.raises(SourceError, match="no Zarr group"):
        opened(f"{there.url}/none.zarr", there.options)
    with pytest.raises(SourceError, match=r"no such file\. Expected a \.zip"):
        opened(f"{there.url}/none.zarr.zip", there.options)
    source = opened(there.upload(buffers / "umi.zarr", "whole.zarr"), there.options)
    assert len(episodes(source)) == 3


@NEEDS
def test_a_chunk_that_is_not_there_is_a_data_error_at_once(s3: Store, buffers: Path, proxied: Proxied) -> None:
    store, proxy = proxied(s3)
    url = s3.upload(buffers / "v2.zarr", "hole.zarr")
    s3.filesystem().rm_file(f"{BUCKET}/hole.zarr/data/img/5.0.0.0")
    source = opened(url, store.options)
    with source.reader(tolerance_s=1e-4) as reader, pytest.raises(DataError, match=r"episode 1, frame 5 .*5\.0\.0\.0"):
        list(reader.frames(episodes(source)[1], "img", range(5, 10)))
    assert sum("5.0.0.0" in target for _, target in proxy.calls) == 1


@NEEDS
@pytest.mark.usefixtures("steadfast")
def test_a_chunk_that_is_damaged_is_a_data_error_in_the_end(s3: Store, buffers: Path, proxied: Proxied) -> None:
    store, proxy = proxied(s3)
    url = s3.upload(buffers / "v2.zarr", "damaged.zarr")
    s3.filesystem().pipe_file(f"{BUCKET}/damaged.zarr/data/img/5.0.0.0", b"noise" * 100)
    source = opened(url, store.options)
    with source.reader(tolerance_s=1e-4) as reader, pytest.raises(DataError, match=r"episode 1, frame 5 "):
        list(reader.frames(episodes(source)[1], "img", range(5, 10)))
    assert sum("5.0.0.0" in target for _, target in proxy.calls) == 3


@NEEDS
def test_remote_chunks_are_asked_for_ahead(s3: Store, buffers: Path, proxied: Proxied) -> None:
    """And each of them once."""
    store, proxy = proxied(s3)
    source = opened(s3.upload(buffers / "umi.zarr", "ahead.zarr"), store.options)
    first = episodes(source)[0]
    with source.reader(tolerance_s=1e-4) as reader:
        frames = reader.frames(first, "img", range(30))
        assert np.array_equal(next(frames), ARRAYS["img"][0])
        deadline = time.monotonic() + 10
        while len(asked := [target for _, target in proxy.calls if "/img/" in target]) < 10:
            assert time.monotonic() < deadline, asked
            time.sleep(0.01)
        assert np.array_equal(list(frames), ARRAYS["img"][1:30])
    chunks = [target for _, target in proxy.calls if target.endswith(".0.0.0")]
    assert len(chunks) == len(set(chunks)) == 30


def fault_cases() -> Iterator[Any]:
    for name in ("s3", "gs", "http"):
        for form in ("v2.zarr", "packed.zarr.zip", "umi.zarr"):
            for mischief in get_args(Mischief):
                is_quick = (name, form) == ("s3", "v2.zarr") and mischief in ("503", "length")
                marks = [NEEDS] * (name != "http") + [pytest.mark.slow] * (not is_quick)
                yield pytest.param(name, form, mischief, marks=marks, id=f"{name}-{form}-{mischief}")


def behind_proxy(
    there: Store, buffer: Path, name: str, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Any, Proxy]:
    """Uploads a buffer; its address and the options by which it is read through a proxy, and that."""
    url = there.upload(buffer, name)
    store, proxy = proxied(there)
    if "TENSORSTORE_GCS_HTTP_URL" in os.environ:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", store.server_url)
    return url if there.folder is None else f"{store.url}/{name}", store.options, proxy


@pytest.mark.usefixtures("steadfast")
@pytest.mark.parametrize(("store", "form", "mischief"), list(fault_cases()), indirect=["store"])
def test_bursts_pass(
    there: Store, form: str, mischief: Mischief, buffers: Path, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, options, proxy = behind_proxy(there, buffers / form, f"burst-{mischief}-{form}", proxied, monkeypatch)
    source = opened(url, options)
    with proxy.doing(mischief, "get", count=2) as fault:
        found = read_all(source)
    assert fault.done == 2
    assert np.array_equal(found["img"], ARRAYS["img"])
    assert "action" not in found or np.array_equal(found["action"], ARRAYS["action"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "form", "mischief"),
    [case for case in fault_cases() if case.values[2] in ("503", "short", "stall")],
    indirect=["store"],
)
def test_what_does_not_pass_is_an_error_in_time(
    there: Store,
    form: str,
    mischief: Mischief,
    buffers: Path,
    proxied: Proxied,
    impatient: Patience,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, options, proxy = behind_proxy(there, buffers / form, f"lasting-{mischief}-{form}", proxied, monkeypatch)
    source = opened(url, options)
    first = episodes(source)[0]
    started = time.monotonic()
    with (
        source.reader(tolerance_s=1e-4) as reader,
        proxy.doing(mischief, "get", count=FOREVER),
        pytest.raises(StorageError, match=rf"Cannot read {url}/data/img: tried \d+ times? within \d+ s"),
    ):
        list(reader.frames(first, "img", range(30)))
    assert time.monotonic() - started < 2 * impatient.total_seconds + 3 * impatient.limit_seconds(0)


@NEEDS
def test_credentials_from_everywhere(s3: Store, buffers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3.upload(buffers / "v2.zarr", "everywhere.zarr")
    place = {"endpoint_url": s3.server_url}
    with monkeypatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", USER)
        environment.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
        assert np.array_equal(read_all(opened(url, place))["action"], ARRAYS["action"])
    with patch.dict(fsspec.config.conf, {"s3": {"key": USER, "secret": PASSWORD, "unknown_to_tensorstore": 1}}):
        assert np.array_equal(read_all(opened(url, place))["action"], ARRAYS["action"])


@NEEDS
@pytest.mark.parametrize("name", ["v2.zarr", "packed.zarr.zip"])
@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_credentials_are_nowhere(
    s3: Store, name: str, flags: tuple[str, ...], buffers: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = s3.upload(buffers / name, f"secret-{name}")
    arguments = ["materialize", url, str(tmp_path / "out"), *FLAGS, *flags, "--storage-options"]
    assert main([*arguments, json.dumps(s3.options)]) == EXIT_DONE
    assert main([*arguments, json.dumps({**s3.options, "secret": f"{PASSWORD}-wrong"})]) == EXIT_FAILED
    assert main([*arguments, json.dumps({**s3.options, "secret": None})]) == EXIT_USAGE
    assert main([*arguments, json.dumps({**s3.options, "acl": "x"})]) == EXIT_USAGE
    s3.filesystem().pipe_file(f"{BUCKET}/bad-{name}/.zgroup", b"{}")
    assert main(["materialize", f"{s3.url}/bad-{name}", *arguments[2:], json.dumps(s3.options)]) == EXIT_FAILED
    shown = capfd.readouterr()
    assert shown.err.count("predecode: ") >= 4
    texts = [shown.out, shown.err, repr(opened(url, s3.options)), str(kvstore_spec(Folder.of(url, s3.options)))]
    texts += [path.read_bytes().decode("latin-1") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(secret in text for secret in (USER, PASSWORD) for text in texts)


def test_headers_for_a_web_server_are_not_shown(http: Store, buffers: Path, tmp_path: Path) -> None:
    options = {"headers": {"Authorization": f"Bearer {PASSWORD}"}}
    broken = Path(shutil.copytree(buffers / "v2.zarr", tmp_path / "broken.zarr"))
    metadata = json.loads((broken / "data/img/.zarray").read_text())
    (broken / "data/img/.zarray").write_text(json.dumps(metadata | {"compressor": {"id": "lz4"}}))
    url = http.upload(broken, "headers.zarr")
    assert kvstore_spec(Folder.of(url, options))["headers"] == [f"Authorization: Bearer {PASSWORD}"]
    with pytest.raises(SourceError, match="codecs: lz4") as caught:
        opened(url, options)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    source = open_source(Folder.of(url, options), excluded=frozenset({"img"}), fps=10.0)
    assert PASSWORD not in repr(source)
    assert np.array_equal(read_all(source)["action"], ARRAYS["action"])


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://b/a.zarr", {"config_kwargs": {}, "acl": "x"}, "cannot follow the storage options acl, config_kwargs"),
        ("s3://b/a.zarr", {"client_kwargs": {"verify": False}}, r"the storage option client_kwargs\.verify\."),
        ("s3://b/a.zarr", {"key": "only"}, "key and secret must be given together"),
        ("s3://b/a.zarr", {"key": "two\nlines", "secret": "x"}, "each one line"),
        ("gs://b/a.zarr", {"token": "/secret/file.json"}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://b/a.zarr", {"endpoint_url": "http://127.0.0.1:1"}, "TENSORSTORE_GCS_HTTP_URL"),
        ("https://h/a.zarr", {"block_size": 1}, "the storage option block_size.*headers"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        opened(url, options)
    assert "/secret/file.json" not in str(caught.value)


def test_options_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)

    def spec(url: str, options: dict[str, Any]) -> dict[str, Any]:
        return kvstore_spec(Folder.of(url, options))

    at = {"driver": "s3", "bucket": "b", "path": "x/a.zarr"}
    by_default, anonymous = {"aws_credentials": {"type": "default"}}, {"aws_credentials": {"type": "anonymous"}}
    assert spec("s3://b/x/a.zarr", {}) == at | by_default
    assert spec("s3a://b/x/a.zarr", {"anon": True}) == at | anonymous
    own = {"endpoint": "http://h:1", "aws_region": "us-east-1"}
    assert spec("s3://b/x/a.zarr", {"endpoint_url": "http://h:1"}) == at | by_default | own
    there = {"region_name": "eu-1", "endpoint_url": "http://h:1"}
    assert spec("s3://b/x/a.zarr", {"client_kwargs": there}) == at | by_default | own | {"aws_region": "eu-1"}
    profile = {"aws_credentials": {"type": "profile", "profile": "p"}}
    assert spec("s3://b/x/a.zarr", {"profile": "p", "requester_pays": True}) == at | profile | {"requester_pays": True}
    monkeypatch.setenv("AWS_REGION", "eu-2")
    assert spec("s3://b/x/a.zarr", {}) == at | by_default | {"aws_region": "eu-2"}
    gcs = {"driver": "gcs", "bucket": "b", "path": "a.zarr"}
    assert spec("gs://b/a.zarr", {"token": "anon"}) == gcs
    billed = {"gcs_user_project": {"project_id": "p"}}
    assert spec("gcs://b/a.zarr", {"project": "p", "requester_pays": True}) == gcs | billed


@pytest.mark.parametrize("url", ["hf://datasets/owner/name/a.zarr", "memory://a.zarr", "hf://datasets/o/n/a.zarr.zip"])
def test_storages_that_tensorstore_does_not_know_are_refused(url: str) -> None:
    with pytest.raises(SourceError, match=r"local disks, s3://, gs:// and http"):
        opened(url, {})
