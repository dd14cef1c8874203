"""The command `predecode-worker-boot`: Beam's Python worker, as an engine starts it with `--environment_type=PROCESS`.

An engine on bare machines (Flink without containers) runs this command for each worker. It asks the engine's provision
service for the job's options and the addresses of the other services, and becomes the worker. Beam's own boot program,
in Go, is only in its container images; it also fetches and installs what a job staged: here the environment that this
command belongs to has everything already.

Protocol: Beam's model/fn-execution, beam_provision_api.proto; what a worker reads is in
apache_beam/runners/worker/sdk_worker_main.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format

from predecode.pipeline.output_buffers import send_output_early
from predecode.transforms.allocator import share_heaps

_PROVISION_SECONDS = 60
_WATCH_SECONDS = 0.5


def provision_info(endpoint: str, worker_id: str) -> beam_provision_api_pb2.ProvisionInfo:
    """What the engine tells a worker that it starts.

    Args:
        endpoint: Of the provision service, as host:port.
        worker_id: As the engine calls the worker.
    """
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        answer = service.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", worker_id)],
            timeout=_PROVISION_SECONDS,
            wait_for_ready=True,
        )
    return answer.info


def worker_environment(info: beam_provision_api_pb2.ProvisionInfo, worker_id: str) -> dict[str, str]:
    """The environment variables that Beam's worker takes all it must know from."""
    environment = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": str(info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": str(info.logging_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if info.HasField("status_endpoint"):
        environment["STATUS_API_SERVICE_DESCRIPTOR"] = str(info.status_endpoint)
    return environment


def _die_with(parent: int) -> None:
    """Ends this process when its parent has ended: an orphan would write shards that another worker has taken over."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Becomes a worker, until the engine has no more use for it.

    Args:
        arguments: `--id` and `--provision_endpoint`, and others that are not needed; of the command line if not given.
    """
    share_heaps()
    threading.Thread(target=_die_with, args=(os.getppid(),), name="die-with-parent", daemon=True).start()
    parser = argparse.ArgumentParser(prog="predecode-worker-boot", description="Beam's worker, as engines start it.")
    parser.add_argument("--id", required=True, help="what the engine calls the worker")
    parser.add_argument("--provision_endpoint", required=True, help="host:port of the engine's provision service")
    parsed, _ = parser.parse_known_args(arguments)
    info = provision_info(parsed.provision_endpoint, parsed.id)
    os.environ |= worker_environment(info, parsed.id)
    send_output_early()
    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
