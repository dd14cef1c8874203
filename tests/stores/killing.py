"""A program for tests: the command line in a process that kills itself, for real, around or amid a remote put.

Usage: killing.py MOMENT ARGUMENT...

MOMENT is `before:TEXT`, `within:TEXT` or `after:TEXT`, TEXT a part of a file's name. `within`: when half of the request
has been sent.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from aiohttp.http_writer import StreamWriter

from predecode.pipeline.cli import main
from predecode.transforms.remote import RemoteFolder


def install(when: str, text: str) -> None:
    """Puts the kill into the one place that stores files, or into the client that sends them."""
    put = RemoteFolder.put

    def killing_put(folder: RemoteFolder, local_path: str, name: str) -> None:
        if text in name:
            if when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if when == "within":
                _kill_amid_request()
        put(folder, local_path, name)
        if text in name:
            os.kill(os.getpid(), signal.SIGKILL)

    RemoteFolder.put = killing_put  # type: ignore[method-assign, assignment]


def _kill_amid_request() -> None:
    write = StreamWriter.write

    async def killing_write(writer: Any, chunk: Any, *arguments: Any, **named: Any) -> None:
        await write(writer, chunk[: len(chunk) // 2], *arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    StreamWriter.write = killing_write  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    install(*sys.argv[1].split(":"))
    sys.exit(main(sys.argv[2:]))
