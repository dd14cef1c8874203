"""Ranges by signed addresses: when s3fs is asked instead, and that no address is seen by anybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import fsspec.asyn
import pytest

from predecode.transforms import signed_reads
from predecode.transforms.errors import StorageError
from predecode.transforms.signed_reads import SignedReads
from predecode.transforms.storage import Folder
from tests.stores.conftest import NEEDS, Proxied
from tests.stores.proxy import Proxy
from tests.stores.servers import BUCKET, Store

pytestmark = NEEDS
CONTENT = bytes(range(256)) * 4
PATH = f"{BUCKET}/signed/a b+%41.bin"

Value = TypeVar("Value")


class Reads:
    """`SignedReads` behind a proxy, and what s3fs was asked for instead."""

    def __init__(self, store: Store, proxy: Proxy) -> None:
        self.proxy = proxy
        self.filesystem = fsspec.filesystem("s3", **store.options, skip_instance_cache=True)
        self.signed = SignedReads(self.filesystem, self.read_by_s3fs)
        self.asked: list[str] = []

    async def read_by_s3fs(self, path: str, start: int, stop: int) -> bytes:
        self.asked.append(path)
        content: bytes = await self.filesystem._cat_file(path, start=start, end=stop)
        return content

    def __call__(self, start: int, stop: int, path: str = PATH) -> bytes:
        return self.wait(self.signed.read(path, start, stop))

    def wait(self, coroutine: Awaitable[Value]) -> Value:
        found: Value = fsspec.asyn.sync(self.filesystem.loop, lambda: coroutine)
        return found

    @property
    def targets(self) -> list[str]:
        return [target for call, target in self.proxy.calls if call == "get"]


@pytest.fixture
def reads(s3: Store, proxied: Proxied, tmp_path: Path) -> Reads:
    (tmp_path / PATH.rpartition("/")[2]).write_bytes(CONTENT)
    s3.upload(tmp_path, "signed")
    return Reads(*proxied(s3))


def test_one_signature_for_many_requests(reads: Reads) -> None:
    async def many() -> list[bytes]:
        await reads.signed.read(PATH, 0, 1)
        return await asyncio.gather(*(reads.signed.read(PATH, start, start + 7) for start in range(100)))

    assert reads.wait(many()) == [CONTENT[start : start + 7] for start in range(100)]
    assert len(reads.targets) == 101
    assert len(set(reads.targets)) == 1
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in reads.targets[0]
    assert reads.asked == []


def test_an_address_is_renewed_before_it_expires(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_reads, "_RENEWED_SECONDS", 0.0)
    monkeypatch.setattr(signed_reads, "_VALID_SECONDS", 3599)
    reads(0, 4)
    monkeypatch.setattr(signed_reads, "_VALID_SECONDS", 3598)
    assert reads(4, 8) == CONTENT[4:8]
    assert ["X-Amz-Expires=3599" in target for target in reads.targets] == [True, False]


def test_an_address_that_has_expired_costs_one_detour(reads: Reads) -> None:
    reads(0, 4)
    spoil(reads)
    assert reads(4, 8) == CONTENT[4:8]
    assert reads.asked == [PATH]
    assert reads(8, 12) == CONTENT[8:12]
    assert reads.asked == [PATH]


def test_where_fresh_addresses_are_refused_none_are_signed_any_more(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = reads.filesystem._url

    async def badly(path: str, **arguments: Any) -> str:
        address: str = await sign(path, **arguments)
        return address + "0"

    monkeypatch.setattr(reads.filesystem, "_url", badly)
    assert [reads(start, start + 4) for start in (0, 4)] == [CONTENT[0:4], CONTENT[4:8]]
    assert reads.asked == [PATH, PATH]
    assert sum("X-Amz-Signature" in target for target in reads.targets) == 1


def test_what_is_not_there_and_what_ends_before(reads: Reads) -> None:
    with pytest.raises(FileNotFoundError):
        reads(0, 4, f"{BUCKET}/signed/nothing")
    assert reads(1020, 1030) == CONTENT[1020:]
    with pytest.raises(Exception, match="416"):
        reads(2000, 2010)
    assert reads.asked == []


def test_few_addresses_are_kept(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_reads, "_KEPT_ADDRESSES", 2)
    for name in ("x", "y", "z"):
        with pytest.raises(FileNotFoundError):
            reads(0, 4, f"{BUCKET}/signed/{name}")
    assert [path[-1] for path in reads.signed._addresses] == ["y", "z"]


def test_a_proxy_of_the_environment_is_asked(s3: Store, proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    _, proxy = proxied(s3)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    address = Reads(s3, proxy)
    assert address.wait(address.signed._sign(PATH)).proxy == proxy.url


@pytest.mark.usefixtures("impatient")
def test_no_address_is_seen(reads: Reads, s3: Store, proxied: Proxied, caplog: pytest.LogCaptureFixture) -> None:
    store, proxy = proxied(s3)
    caplog.set_level(logging.DEBUG, "predecode")
    with proxy.doing("503", "get", count=10_000), pytest.raises(StorageError, match="Cannot read") as caught:
        Folder.of(f"{store.url}/signed", store.options).fetch([("a b+%41.bin", 0, 4)])
    assert any(reads.filesystem.key in target for _, target in proxy.calls)
    for told in (str(caught.value), caplog.text):
        assert "503" in told
        assert "X-Amz" not in told
        assert reads.filesystem.key not in told


def spoil(reads: Reads) -> None:
    """Makes of each known address one that the store refuses."""
    known = reads.signed._addresses
    for path, address in known.items():
        spoilt = type(address)(address.url.update_query({"X-Amz-Date": "20200101T000000Z"}), None, address.renewed_at)
        known[path] = spoilt
