"""Stores, each started once, and a proxy before each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from predecode.transforms import patience
from tests.conftest import OBJECT_STORES
from tests.pipeline.running import run
from tests.stores.proxy import Proxy
from tests.stores.servers import Store, fake_gcs, minio, web_server

NEEDS = pytest.mark.needs_object_stores
STORES = [pytest.param("s3", marks=NEEDS), pytest.param("gs", marks=NEEDS)]
DATASET = "pusht_v30"
SHORT_CALLS = patience.Patience(call_seconds=1.5, total_seconds=6, first_pause_seconds=0.05, max_pause_seconds=0.5)

Proxied = Callable[[Store], tuple[Store, Proxy]]
"""Puts a proxy before a store."""


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """MinIO."""
    with minio(Path(os.environ[OBJECT_STORES]), tmp_path_factory.mktemp("minio")) as store:
        yield store


@pytest.fixture(scope="session")
def gs() -> Iterator[Store]:
    """fake-gcs-server."""
    with fake_gcs(Path(os.environ[OBJECT_STORES])) as store:
        yield store


@pytest.fixture(scope="session")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A web server."""
    with web_server(tmp_path_factory.mktemp("web")) as store:
        yield store


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """The store that a test is parametrized with."""
    named: Store = request.getfixturevalue(request.param)
    return named


@pytest.fixture
def proxied() -> Iterator[Proxied]:
    """Gives a function that puts a proxy before a store."""
    proxies = []

    def put_before(store: Store) -> tuple[Store, Proxy]:
        proxies.append(Proxy(store.server_url))
        return store.through(proxies[-1].url), proxies[-1]

    yield put_before
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def steadfast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls end soon, but are made again for long, however slow the machine is: for what passes."""
    monkeypatch.setattr(patience, "PATIENCE", replace(SHORT_CALLS, total_seconds=60))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> patience.Patience:
    """The same, but not for long: for what does not pass."""
    monkeypatch.setattr(patience, "PATIENCE", SHORT_CALLS)
    return SHORT_CALLS


@pytest.fixture(scope="session")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a local job makes."""
    output = tmp_path_factory.mktemp("reference") / "out"
    run(data_dir / DATASET, output)
    return output
