"""Ranges of S3 objects by signed addresses: one signature for many requests to an object.

For each request s3fs has botocore prepare, sign and parse a call: on one core nearly 4 ms, all in one thread, so that
a reader of small ranges waits for it. A plain HTTP request to an address that was signed once costs a sixth of that.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import fsspec
from botocore.utils import get_environ_proxies
from yarl import URL

_VALID_SECONDS = 3600
_RENEWED_SECONDS = 900.0
_KEPT_ADDRESSES = 4096
_ANSWERS = (200, 206)
_OTHER_PROBLEMS = (408, 416, 425, 429)
"""Of the answers that blame the client, those that have nothing to do with the signature."""


@dataclass(frozen=True, slots=True)
class _Address:
    """Where an object can be had for a while.

    Attributes:
        url: Signed.
        proxy: To ask instead of the url's host, or None.
        renewed_at: By the monotonic clock.
    """

    url: URL
    proxy: str | None
    renewed_at: float


class SignedReads:
    """Reads through one file system of s3fs, in the event loop of fsspec.

    What a signed address is refused for, s3fs is asked for by itself: it renews credentials that have expired, finds a
    bucket's region, and says best what is wrong. Where it succeeds with what a fresh address was refused, as where a
    store wants headers that an address cannot hold, no more addresses are signed.
    """

    def __init__(self, filesystem: Any, read_by_s3fs: Callable[[str, int, int], Awaitable[bytes]]) -> None:
        """Asks for nothing.

        Args:
            filesystem: An `s3fs.S3FileSystem`.
            read_by_s3fs: Reads a half-open range of a path through it.
        """
        self._filesystem = filesystem
        self._read_by_s3fs = read_by_s3fs
        client = {"auto_decompress": False}  # What is stored compressed stays so.
        self._http = fsspec.filesystem("http", client_kwargs=client, loop=filesystem.loop, skip_instance_cache=True)
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._is_refused = bool((filesystem.config_kwargs or {}).get("proxies"))

    async def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes of a half-open range; others where the object ends before, or where storage ignores ranges.

        Raises:
            Exception: as s3fs or aiohttp has it.
        """
        if self._is_refused:
            return await self._read_by_s3fs(path, start, stop)
        known = self._addresses.get(path)
        if known is not None and time.monotonic() < known.renewed_at:
            self._addresses.move_to_end(path)
            address = known
        else:
            address = await self._sign(path)
        content = await self._read_signed(address, path, start, stop)
        if content is None:
            self._addresses.pop(path, None)
            content = await self._read_by_s3fs(path, start, stop)
            self._is_refused |= address is not known
        return content

    async def _read_signed(self, address: _Address, path: str, start: int, stop: int) -> bytes | None:
        """None where the address is refused."""
        session = await self._http.set_session()
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with session.get(address.url, headers=headers, proxy=address.proxy, allow_redirects=False) as answer:
            if answer.status in _ANSWERS:
                content: bytes = await answer.read()
                return content
            if answer.status == 404:
                raise FileNotFoundError(path)
            if answer.status >= 500 or answer.status in _OTHER_PROBLEMS:
                answer.raise_for_status()
        return None

    async def _sign(self, path: str) -> _Address:
        await self._filesystem.set_session()
        client = await self._filesystem.get_s3(self._filesystem.split_path(path)[0])
        client.meta.events.register_first("choose-signer.s3", _keep_version_4, unique_id=__name__)
        signed = await self._filesystem._url(path, expires=_VALID_SECONDS)  # noqa: SLF001 - fsspec's way for coroutines.
        url = URL(signed, encoded=True)
        # As botocore finds them.
        address = _Address(url, get_environ_proxies(signed).get(url.scheme), time.monotonic() + _RENEWED_SECONDS)
        self._addresses[path] = address
        if len(self._addresses) > _KEPT_ADDRESSES:
            self._addresses.popitem(last=False)
        return address


def _keep_version_4(signature_version: Any, **_: Any) -> str | None:
    """Of addresses too: in its oldest regions botocore signs them in a way that newer buckets do not know."""
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None
