"""Object stores and a web server on this machine, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec

USER, PASSWORD = "predecode-test-user", "planted-secret-of-the-store"
BUCKET = "windows"

_START_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Store:
    """A place for folders, as a user names it.

    Attributes:
        url: Of a bucket, or of a web server.
        options: For fsspec.
        server_url: Of the server.
        folder: What the web server serves; None for others.
    """

    url: str
    options: Mapping[str, Any]
    server_url: str
    folder: Path | None = None

    def through(self, server_url: str) -> Store:
        """The same by way of a proxy."""
        if self.folder is not None:
            return dataclasses.replace(self, url=server_url, server_url=server_url)
        return dataclasses.replace(self, options={**self.options, "endpoint_url": server_url}, server_url=server_url)

    def filesystem(self) -> Any:
        """fsspec's own, to prepare and to look."""
        return fsspec.core.url_to_fs(self.url, **self.options, use_listings_cache=False, skip_instance_cache=True)[0]

    def upload(self, folder: Path, name: str) -> str:
        """Puts a folder or a file there; its URL."""
        if self.folder is not None:
            (self.folder / name).symlink_to(folder)
            return f"{self.url}/{name}"
        filesystem = self.filesystem()
        if folder.is_file():
            filesystem.put_file(str(folder), f"{BUCKET}/{name}")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                filesystem.put_file(str(path), f"{BUCKET}/{name}/{path.relative_to(folder)}")
        return f"{self.url}/{name}"

    def tree(self, name: str) -> dict[str, str]:
        """Every file of a folder by its relative path, as a checksum."""
        filesystem = self.filesystem()
        return {
            path.removeprefix(f"{BUCKET}/{name}/"): hashlib.sha256(filesystem.cat_file(path)).hexdigest()
            for path in sorted(filesystem.find(f"{BUCKET}/{name}"))
        }


@contextlib.contextmanager
def minio(programs: Path, folder: Path) -> Iterator[Store]:
    """MinIO, with a bucket."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_UPDATE": "off"}
    command = [programs / "minio", "server", folder, "--address", f"127.0.0.1:{port}"]
    command += ["--console-address", f"127.0.0.1:{_free_port()}", "--quiet"]
    with _running(command, f"{url}/minio/health/ready", environment):
        options = {
            "key": USER,
            "secret": PASSWORD,
            "endpoint_url": url,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        store = Store(f"s3://{BUCKET}", options, url)
        store.filesystem().mkdir(BUCKET)
        yield store


@contextlib.contextmanager
def fake_gcs(programs: Path) -> Iterator[Store]:
    """fake-gcs-server, with a bucket. gcsfs must not have been imported yet."""
    # gcsfs asks by gRPC which kind of bucket it is, for a minute: the server has no gRPC.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [programs / "fake-gcs-server", "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with _running(command, f"{url}/storage/v1/b?project=test", os.environ):
        store = Store(f"gs://{BUCKET}", {"token": "anon", "endpoint_url": url, "project": "test"}, url)
        store.filesystem().mkdir(BUCKET)
        yield store


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[Store]:
    """A web server that serves a folder, with ranges and with pages that list folders."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_WebHandler, folder)) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield Store(url, {}, url, folder)
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _running(command: list[Any], ready_url: str, environment: Mapping[str, str]) -> Iterator[None]:
    """A server, until the block ends."""
    with subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(ready_url):
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} did not start"
                time.sleep(0.05)
            yield
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - A server on this machine.
            return True
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _WebHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *arguments: Any) -> None:
        self._root = root
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = self._root / self.path.lstrip("/")
        if path.is_dir() and not self.path.endswith("/"):
            self._send(301, b"", Location=f"{self.path}/")
        elif path.is_dir():
            names = [entry.name + "/" * entry.is_dir() for entry in sorted(path.iterdir())]
            links = "".join(f'<a href="{html.escape(name)}">{html.escape(name)}</a>\n' for name in names)
            self._send(200, f"<html><body><a href='../'>../</a>{links}</body></html>".encode())
        elif not path.is_file():
            self._send(404, b"")
        else:
            self._send_file(path.read_bytes())

    def _send_file(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, content)
        elif asked[1] and int(asked[1]) >= len(content):
            self._send(416, b"")
        else:
            start, stop = int(asked[1] or 0), min(int(asked[2] or len(content)) + 1, len(content))
            if not asked[1]:  # So many bytes of the end.
                start, stop = max(0, len(content) - int(asked[2])), len(content)
            place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            self._send(206, content[start:stop], **place)

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
