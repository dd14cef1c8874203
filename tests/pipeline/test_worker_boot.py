"""The worker that an engine starts on a bare machine: what it asks for, what it becomes, and how it ends."""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import (
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from apache_beam.runners.worker import data_plane
from google.protobuf import text_format

from predecode.pipeline.output_buffers import BUFFER_BYTES, send_output_early
from predecode.pipeline.worker_boot import provision_info, worker_environment

WORKER_ID = "7-1"
BOOT = Path(sys.executable).with_name("predecode-worker-boot")
SECONDS = 60


class Engine(
    beam_provision_api_pb2_grpc.ProvisionServiceServicer,
    beam_fn_api_pb2_grpc.BeamFnControlServicer,
    beam_fn_api_pb2_grpc.BeamFnLoggingServicer,
):
    """As much of an engine as a worker needs to start: it is told its options, connects, logs and waits for work."""

    def __init__(self) -> None:
        self.asked: queue.Queue[str] = queue.Queue()
        self.connected: queue.Queue[str] = queue.Queue()
        self.logged: queue.Queue[str] = queue.Queue()
        self.endpoint = ""
        self.stopped = False

    def GetProvisionInfo(self, _: Any, context: Any) -> Any:  # noqa: N802 - The protocol's name.
        self.asked.put(dict(context.invocation_metadata())["worker_id"])
        info = beam_provision_api_pb2.ProvisionInfo(
            control_endpoint=endpoints_pb2.ApiServiceDescriptor(url=self.endpoint),
            logging_endpoint=endpoints_pb2.ApiServiceDescriptor(url=self.endpoint),
            runner_capabilities=["beam:protocol:progress_reporting:v1"],
        )
        info.pipeline_options.update({"beam:option:pickle_library:v1": "cloudpickle"})
        return beam_provision_api_pb2.GetProvisionInfoResponse(info=info)

    def Control(self, _: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.connected.put(dict(context.invocation_metadata())["worker_id"])
        while not self.stopped:
            time.sleep(0.05)
        yield from ()

    def Logging(self, messages: Iterator[Any], _: Any) -> Iterator[Any]:  # noqa: N802
        for entries in messages:
            for entry in entries.log_entries:
                self.logged.put(entry.message)
        yield from ()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        engine.endpoint = f"localhost:{server.add_insecure_port('localhost:0')}"
        beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(engine, server)
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(engine, server)
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(engine, server)
        server.start()
        yield engine
        engine.stopped = True
        server.stop(None).wait()


def test_asks_in_its_own_name_and_knows_what_beams_worker_reads(engine: Engine) -> None:
    environment = worker_environment(provision_info(engine.endpoint, WORKER_ID), WORKER_ID)
    assert engine.asked.get_nowait() == WORKER_ID
    assert environment["WORKER_ID"] == WORKER_ID
    assert json.loads(environment["PIPELINE_OPTIONS"]) == {"beam:option:pickle_library:v1": "cloudpickle"}
    assert environment["RUNNER_CAPABILITIES"] == "beam:protocol:progress_reporting:v1"
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in environment
    for service in ("CONTROL", "LOGGING"):
        descriptor = endpoints_pb2.ApiServiceDescriptor()
        text_format.Parse(environment[f"{service}_API_SERVICE_DESCRIPTOR"], descriptor)
        assert descriptor.url == engine.endpoint


def test_output_is_sent_whenever_a_mebibyte_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    stream_class = data_plane.ClosableOutputStream
    monkeypatch.setattr(stream_class, "create", staticmethod(stream_class.create))  # What is put back afterwards.
    send_output_early()
    elements = [bytes([number % 251]) * 1000 for number in range(3000)]
    sent: list[bytes] = []
    stream = stream_class.create(sent.append, sent.append, 0)
    for element in elements:
        stream.write(element)
        stream.maybe_flush()
    stream.close()
    assert b"".join(sent) == b"".join(elements)
    assert len(sent) == 3
    assert max(map(len, sent)) <= BUFFER_BYTES + 1000


def test_wrong_arguments_are_named() -> None:
    done = subprocess.run([BOOT, "--id=1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--provision_endpoint" in done.stderr


@pytest.mark.slow
def test_becomes_a_worker_and_ends_with_its_engine(engine: Engine, tmp_path: Path) -> None:
    boot = shlex.join([str(BOOT), f"--id={WORKER_ID}", f"--provision_endpoint={engine.endpoint}", "--unknown=1"])
    log = tmp_path / "log"
    parent = subprocess.Popen(["sh", "-c", f"{boot} >{log} 2>&1 & echo $! && wait"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert engine.connected.get(timeout=SECONDS) == WORKER_ID, log.read_text()
    assert engine.logged.get(timeout=SECONDS)
    assert is_alive(worker)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + SECONDS
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlives the process that started it"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command_is_in_the_environment() -> None:
    assert os.access(BOOT, os.X_OK)
