"""A proxy between an HTTP client and a server that adds latency, and does to chosen calls what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

Call: TypeAlias = Literal["list", "head", "get", "put", "delete"]
Mischief: TypeAlias = Literal["429", "503", "reset", "short", "length", "stall"]
"""Answers 429 or 503; or connections that are reset, closed, or silent in mid-body; or a length that is too small."""

_CHUNK_BYTES = 1 << 16


@dataclasses.dataclass
class Fault:
    """What is done to the next calls of a kind.

    Attributes:
        mischief: What.
        call: To which calls.
        count: To how many; the others pass.
        name: Only to those with this in their target.
        done: How many it was done to.
    """

    mischief: Mischief
    call: Call
    count: int
    name: str = ""
    done: int = 0


@dataclasses.dataclass(frozen=True)
class Head:
    """The first lines of a request or an answer."""

    first: bytes
    headers: tuple[tuple[str, str], ...]

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> Head | None:
        """None where the connection ends."""
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        pairs = (line.decode("latin-1").partition(":") for line in lines[1:] if line)
        return cls(lines[0], tuple((name, value.strip()) for name, _, value in pairs))

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def encode(self, **replaced: str | None) -> bytes:
        """As sent, but for some headers, by lower-case name with underscores; None leaves one out."""
        others = {name.replace("_", "-"): value for name, value in replaced.items()}
        kept = [(name, value) for name, value in self.headers if name.lower() not in others]
        kept += [(name, value) for name, value in others.items() if value is not None]
        lines = [self.first, *(f"{name}: {value}".encode("latin-1") for name, value in kept)]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def call_of(method: str, target: str) -> Call:
    """What a request is, of S3, Google Cloud Storage, the Hugging Face Hub or a web server."""
    if method == "DELETE":
        return "delete"
    if method in ("PUT", "POST"):
        return "put"
    if method == "HEAD":
        return "head"
    parts = urlsplit(target)
    lists = re.search(r"(^|&)(list-type|prefix|delimiter)=", parts.query) or parts.path.endswith(("/", "/o"))
    return "list" if lists or "/tree/" in parts.path else "get"


class Proxy:
    """Runs in a thread of its own from construction to `close`."""

    def __init__(self, server_url: str, *, latency_seconds: float = 0) -> None:
        """Begins to listen.

        Args:
            server_url: Where requests go on to.
            latency_seconds: How long each request waits first.
        """
        self._server = urlsplit(server_url)
        self.latency_seconds = latency_seconds
        self.faults: list[Fault] = []
        self.calls: list[tuple[Call, str]] = []
        self.bytes_sent = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.url = f"http://127.0.0.1:{listening.result()}"

    def close(self) -> None:
        """Ends every connection."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextlib.contextmanager
    def doing(self, mischief: Mischief, call: Call, *, count: int, name: str = "") -> Iterator[Fault]:
        """Does something to the next calls of a kind, and no longer than the block."""
        fault = Fault(mischief, call, count, name)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    async def _listen(self) -> int:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._listener.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await Head.read(client)) is not None:
                server = server or await asyncio.open_connection(self._server.hostname, self._server.port)
                if not await self._exchange(request, client, answers, *server):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # As if the cable was cut.
        finally:
            self._tasks.discard(task)
            for writer in (answers, server[1] if server else None):
                if writer is not None:
                    writer.close()

    async def _exchange(
        self,
        request: Head,
        client: asyncio.StreamReader,
        answers: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether the connection can be used on."""
        method, target, _ = request.first.decode("latin-1").split(" ", 2)
        call = call_of(method, target)
        self.calls.append((call, target))
        fault = self._next_fault(call, target)
        if request.get("expect"):
            answers.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(self.latency_seconds)
        body = await _body(request, client)
        if fault in ("429", "503"):
            answers.write(f"HTTP/1.1 {fault} Busy\r\nContent-Length: 0\r\n\r\n".encode())
            await answers.drain()
            return True
        requests.write(request.encode(expect=None))
        if fault is not None and call == "put":
            requests.write(body[: len(body) // 2])
            await requests.drain()
            await self._break_off(fault, answers)
            return False
        requests.write(body)
        answer = await Head.read(server)
        if answer is None:
            return False
        has_body = method != "HEAD" and not re.search(rb" (204|304) ", answer.first)
        if fault is not None:
            if has_body:
                await self._spoil(fault, answer, await _body(answer, server), answers)
            else:
                await self._break_off(fault, answers)
            return False
        if not has_body:
            answers.write(answer.encode())
        elif answer.get("content-length"):
            await self._pass_on(answer, server, answers)
        else:
            content = await _body(answer, server)
            self.bytes_sent += len(content)
            answers.write(answer.encode(transfer_encoding=None, content_length=str(len(content))) + content)
        await answers.drain()
        return "close" not in (request.get("connection").lower(), answer.get("connection").lower())

    def _next_fault(self, call: Call, target: str) -> Mischief | None:
        for fault in self.faults:
            if fault.call == call and fault.name in target and fault.done < fault.count:
                fault.done += 1
                return fault.mischief
        return None

    async def _pass_on(self, answer: Head, server: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        answers.write(answer.encode())
        left = int(answer.get("content-length"))
        while left:
            part = await server.read(min(left, _CHUNK_BYTES))
            if not part:
                raise ConnectionError("the server went away")
            answers.write(part)
            await answers.drain()
            left -= len(part)
            self.bytes_sent += len(part)

    async def _spoil(self, fault: Mischief, answer: Head, content: bytes, answers: asyncio.StreamWriter) -> None:
        half = content[: len(content) // 2]
        length = len(half) if fault == "length" else max(len(content), 1)
        answers.write(answer.encode(transfer_encoding=None, content_length=str(length)) + half)
        await answers.drain()
        if fault != "length":
            await self._break_off(fault, answers)

    async def _break_off(self, fault: Mischief, answers: asyncio.StreamWriter) -> None:
        if fault == "stall":
            await asyncio.sleep(3600)
        elif fault == "reset":
            connection: socket.socket = answers.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            answers.transport.abort()


async def _body(head: Head, reader: asyncio.StreamReader) -> bytes:
    if length := head.get("content-length"):
        return await reader.readexactly(int(length))
    if head.get("transfer-encoding").lower() != "chunked":
        # An answer without either lasts until the connection ends, a request has no body.
        return await reader.read() if head.first.startswith(b"HTTP") else b""
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # What may follow the last chunk.
    return b"".join(parts)


def main() -> None:
    """`python -m tests.stores.proxy SERVER_URL LATENCY_SECONDS`: says its own URL, and ends with its standard input."""
    proxy = Proxy(sys.argv[1], latency_seconds=float(sys.argv[2]))
    sys.stdout.write(f"{proxy.url}\n")
    sys.stdout.flush()
    sys.stdin.read()
    proxy.close()


if __name__ == "__main__":
    main()
