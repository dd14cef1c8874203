"""A server that speaks the part of the Hugging Face Hub's API that fsspec's `hf://` uses; one dataset, one branch."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "predecode/test"
_COMMIT = "0" * 40


class Hub:
    """The dataset's files, and where they can be reached."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits = 0
        self.url = ""

    def tree(self, folder: str) -> dict[str, str]:
        """Every file of a folder by its relative path, as a checksum."""
        return {
            path.removeprefix(f"{folder}/"): hashlib.sha256(content).hexdigest()
            for path, content in sorted(self.files.items())
            if path.startswith(f"{folder}/")
        }

    def entries(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """What the Hub says of the files and folders in a folder."""
        start = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.files):
            if not path.startswith(start):
                continue
            parts = path.removeprefix(start).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = start + "/".join(parts[:depth])
                found[name] = {"type": "directory", "path": name, "oid": _COMMIT, "size": 0}
            if recursive or len(parts) == 1:
                found[path] = self.entry(path)
        return list(found.values())

    def entry(self, path: str) -> dict[str, Any]:
        """What the Hub says of a file."""
        return {"type": "file", "path": path, "oid": _COMMIT, "size": len(self.files[path])}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """Serves a dataset, until the block ends."""
    served = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, served)) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, served: Hub, *arguments: Any) -> None:
        self._hub = served
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        if re.fullmatch(f"/api/datasets/{REPO}(/revision/main)?", path):
            self._send_json({"id": REPO, "sha": _COMMIT, "private": False, "tags": [], "siblings": []})
        elif match := re.fullmatch(f"/api/datasets/{REPO}/tree/main/?(.*)", path):
            recursive = "recursive=true" in address.query.lower()
            entries = self._hub.entries(match[1], recursive=recursive)
            self._send_json(entries) if entries else self._send_missing("EntryNotFound")
        elif match := re.fullmatch(f"/datasets/{REPO}/resolve/main/(.*)", path):
            self._send_file(match[1])
        else:
            self._send_missing("RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if not body and self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.path.endswith("/paths-info/main"):
            asked = json.loads(body)["paths"]
            self._send_json([self._hub.entry(path) for path in asked if path in self._hub.files])
        elif self.path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._send_json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        elif "/commit/main" in self.path:
            self._commit(body)
        else:
            self._send_missing("RepoNotFound")

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self._hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                self._hub.files.pop(line["value"]["path"])
        self._hub.commits += 1
        url = f"{self._hub.url}/datasets/{REPO}/commit/{_COMMIT}"
        self._send_json({"success": True, "commitUrl": url, "commitOid": _COMMIT, "hookOutput": ""})

    def _send_file(self, path: str) -> None:
        content = self._hub.files.get(path)
        if content is None:
            self._send_missing("EntryNotFound")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": _COMMIT}
        if asked is None:
            self._send(200, content, **headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        self._send(206, content[start:stop], **headers, **{"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    def _send_missing(self, what: str) -> None:
        self._send(404, b"{}", **{"X-Error-Code": what})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
