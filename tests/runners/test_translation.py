"""What is sent to an engine: small, whatever the dataset's size, complete without this process, and free of secrets."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner

from predecode.pipeline.job import build_pipeline
from predecode.pipeline.runner import WORKER_BOOT, pipeline_options
from predecode.transforms.options import MaterializeOptions
from tests import dirty
from tests.conftest import DATAFLOW_PYTHON

DOCUMENT = Path(__file__).parents[2] / "docs/dataflow.md"
PORTABLE_FLAGS = ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--environment_type=PROCESS"]

JOB_LIMIT_BYTES = 20_000_000
"""Dataflow's, of a job's JSON. The graph is far below, and does not grow."""

HIDDEN = "hunter2"


@dataclass(frozen=True)
class Translated:
    """What an engine gets.

    Attributes:
        graph: The pipeline.
        options: Beam's options beside it, as JSON.
    """

    graph: beam_runner_api_pb2.Pipeline
    options: str

    def environments_of(self, step: str) -> list[beam_runner_api_pb2.Environment]:
        """Where the functions of a step run."""
        components = self.graph.components
        found = [one for one in components.transforms.values() if one.unique_name == f"Materialize/{step}"]
        assert found, f"there is no {step}"
        return [components.environments[one.environment_id] for one in found]


Translate = Callable[[Path], Translated]


def documented_flags() -> list[str]:
    """Dataflow's of the command in the documentation."""
    command = DOCUMENT.read_text().split("--runner=DataflowRunner", 1)[1].split("```", 1)[0]
    return ["--runner=DataflowRunner", *(word for word in command.split() if word != "\\")]


def translate_for_dataflow(source: Path) -> Translated:
    """By a dry run, in an environment that has Google's libraries."""
    program = Path(__file__).with_name("translate.py")
    flags = [*documented_flags(), "--dry_run=True", "--project=project", "--region=europe-west4"]
    flags += ["--temp_location=gs://bucket/temp"]
    command = [os.environ[DATAFLOW_PYTHON], str(program), str(source), "/tmp/out", *flags]  # noqa: S108
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    graph = beam_runner_api_pb2.Pipeline.FromString(base64.b64decode(content["graph"]))
    return Translated(graph, json.dumps(content["options"]))


def translate_for_flink(source: Path) -> Translated:
    settings = pipeline_options(PORTABLE_FLAGS)
    options = MaterializeOptions(source=str(source), output="/tmp/out")  # noqa: S108
    graph = PortableRunner.get_proto_pipeline(build_pipeline(options, settings, job_id="0" * 32), settings)
    return Translated(graph, json.dumps(settings.get_all_options(drop_default=True), default=str))


@pytest.fixture(
    params=[
        pytest.param(translate_for_dataflow, marks=[pytest.mark.needs_dataflow, pytest.mark.slow], id="Dataflow"),
        pytest.param(translate_for_flink, id="Flink"),
    ]
)
def translate(request: pytest.FixtureRequest) -> Translate:
    """Translates the job of a dataset for one engine."""
    function: Translate = request.param
    return function


def grow(root: Path, num_episodes: int) -> None:
    """Makes a dataset's metadata those of a large one: a line per episode, a task each."""
    dirty.edit_info(root, total_episodes=num_episodes, total_tasks=num_episodes)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path).take(pa.array([0] * num_episodes))
    place = table.schema.get_field_index("episode_index")
    pq.write_table(table.set_column(place, "episode_index", pa.array(range(num_episodes))), path)
    tasks = {
        "task_index": range(num_episodes),
        "task": [f"Push the T, for the {n}th time." for n in range(num_episodes)],
    }
    pq.write_table(pa.table(tasks), root / "meta/tasks.parquet")


def test_nothing_grows_with_the_dataset(translate: Translate, copy_dataset: Callable[[str], Path]) -> None:
    root = copy_dataset("pusht_v30")
    sizes = {}
    for num_episodes in (10, 100_000):
        grow(root, num_episodes)
        translated = translate(root)
        sizes[num_episodes] = translated.graph.ByteSize() + len(translated.options)
    assert sizes[10] == sizes[100_000] < JOB_LIMIT_BYTES / 100


def test_no_credential_is_in_it(translate: Translate, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "FSSPEC_S3_SECRET", "HF_TOKEN"):
        monkeypatch.setenv(name, HIDDEN)
    translated = translate(data_dir / "pusht_v30")
    assert HIDDEN.encode() not in translated.graph.SerializeToString()
    assert HIDDEN not in translated.options


def test_no_session_is_pickled_and_nothing_has_to_be_installed(translate: Translate, data_dir: Path) -> None:
    translated = translate(data_dir / "pusht_v30")
    for environment in translated.graph.components.environments.values():
        for dependency in environment.dependencies:
            payload = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(dependency.role_payload)
            assert payload.staged_name == "submission_environment_dependencies.txt"
    assert b"__main__" not in translated.graph.SerializeToString()


@pytest.mark.needs_dataflow
@pytest.mark.slow
def test_dataflow_gets_the_image_and_the_size_of_the_heavy_steps_machines(data_dir: Path) -> None:
    translated = translate_for_dataflow(data_dir / "pusht_v30")
    for environment in translated.graph.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == "IMAGE"
    ram = common_urns.resource_hints.MIN_RAM_BYTES.urn
    heavy = translated.environments_of("MaterializeShards/MaterializeShard")
    assert [environment.resource_hints[ram] for environment in heavy] == [b"8000000000"]
    for step in ("PlanShards/PlanGroup", "CommitManifest/Commit", "ReadFrameRuns/ReadRuns"):
        assert all(not environment.resource_hints for environment in translated.environments_of(step))


def test_flink_starts_one_kind_of_worker(data_dir: Path) -> None:
    """A step with hints of its own would have workers of its own, each with its start."""
    environments = translate_for_flink(data_dir / "pusht_v30").graph.components.environments
    processes = [one for one in environments.values() if one.urn == common_urns.environments.PROCESS.urn]
    assert len(processes) == 1
    assert beam_runner_api_pb2.ProcessPayload.FromString(processes[0].payload).command == str(WORKER_BOOT)
