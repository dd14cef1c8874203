"""What a user reads of a job that failed elsewhere: one message with the cause, and none of the engine's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.runners.runner import PipelineState

from predecode.pipeline import Materialize, MaterializeOptions
from predecode.pipeline.failures import find_cause
from predecode.pipeline.remote_job import wait_for_job
from predecode.pipeline.runner import local_pipeline, pipeline_options
from predecode.transforms import materialize_shards
from predecode.transforms.errors import (
    DataError,
    FidelityError,
    JobError,
    OutputError,
    PlanMismatchError,
    PredecodeError,
    SourceError,
)
from predecode.transforms.failure_record import failure_file, record_failure
from predecode.transforms.storage import Folder
from tests import dirty
from tests.pipeline.running import TWO_THREADS, run, tree

CopyDataset = Callable[[str], Path]

JOB = "job-1"

# What Flink's job server said, shortened in the middle of each trace.
STATE = "Pipeline BeamApp-root-1124083521-536e1af8_19088711 failed in state FAILED: "
HARNESS = STATE + "java.lang.RuntimeException: Error received from SDK harness for instruction 1: Traceback:\n"
ENGINE_TEXTS = {
    "an error of predecode's": (
        HARNESS
        + """\
  File "apache_beam/runners/common.py", line 1512, in apache_beam.runners.common.DoFnRunner.process
  File "transforms/storage.py", line 155, in publishing
    os.fsync(file.fileno())
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "transforms/storage.py", line 163, in publishing
    raise OutputError(
predecode.transforms.errors.OutputError: Cannot write /out/a.tar: No space left on device.

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "transforms/storage.py", line 163, in publishing
    raise OutputError(
predecode.transforms.errors.OutputError: Cannot write /out/a.tar: No space left on device. [while running 'M/Shard']
""",
        OutputError,
        "Cannot write /out/a.tar: No space left on device.",
    ),
    "an error of a library's": (
        HARNESS
        + """\
  File "job.py", line 6, in read
    open("/mnt/x")
FileNotFoundError: [Errno 2] No such file or directory: '/mnt/x'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "job.py", line 8, in read
    raise OSError(5, "Input/output error", "/mnt/x") from e
RuntimeError: OSError: [Errno 5] Input/output error: '/mnt/x' [while running 'Boom']
""",
        JobError,
        "The job failed: OSError: [Errno 5] Input/output error: '/mnt/x'. What is committed is kept",
    ),
    "a worker that does not start": (
        STATE + "java.lang.IllegalStateException: Process died with exit code 3",
        JobError,
        "Process died with exit code 3. A worker could not be started: --environment_type and --environment_config",
    ),
    "a worker that is not there": (
        STATE + "java.io.IOException: error=2, No such file or directory",
        JobError,
        "No such file or directory. A worker could not be started: --environment_type",
    ),
    "a worker that dies each time": (
        STATE + "java.util.concurrent.ExecutionException: io.grpc.StatusRuntimeException: CANCELLED: client cancelled",
        JobError,
        "CANCELLED: client cancelled. A worker died, and again each time: was there too little memory?",
    ),
    "a JobManager that was killed": (
        STATE
        + """java.util.concurrent.CompletionException: org.apache.flink.runtime.rest.util.RestClientException: [
	at org.apache.flink.runtime.rest.handler.job.JobStatusHandler.handleRequest(JobStatusHandler.java:67)
Caused by: org.apache.flink.runtime.messages.FlinkJobNotFoundException: Could not find Flink job (a6f658ba)
	at java.base/java.util.Optional.orElseGet(Optional.java:364)
	... 5 more
]
""",
        JobError,
        "messages.FlinkJobNotFoundException: Could not find Flink job (a6f658ba). What is committed is kept",
    ),
    "a cluster that is too small": (
        STATE + "java.io.IOException: Insufficient number of network buffers: required 512, but only 511 available.",
        JobError,
        "The job failed: java.io.IOException: Insufficient number of network buffers: required 512, but only 511",
    ),
}


@pytest.mark.parametrize(("text", "kind", "message"), ENGINE_TEXTS.values(), ids=ENGINE_TEXTS.keys())
def test_the_cause_is_found_in_an_engines_text(text: str, kind: type[PredecodeError], message: str) -> None:
    cause = find_cause(RuntimeError(text))
    assert type(cause) is kind
    assert message in str(cause)
    for noise in ("Traceback", "[while running", "BeamApp", "harness", "\n"):
        assert noise not in str(cause)


def test_nobody_answers() -> None:
    assert "nobody answers at --job_endpoint" in str(find_cause(grpc.FutureTimeoutError()))


class _Refused(grpc.RpcError):  # type: ignore[misc]  # grpc comes without types.
    def details(self) -> str:
        return "failed to connect to all addresses"


def test_an_error_of_the_protocol() -> None:
    assert str(find_cause(_Refused())).startswith("The job failed: failed to connect to all addresses. What")


class _Ended:
    """A job whose workers are elsewhere, once it has ended."""

    def __init__(self, outcome: str | BaseException) -> None:
        self.outcome = outcome
        self.canceled = False

    def wait_until_finish(self) -> str:
        if isinstance(self.outcome, str):
            return self.outcome
        raise self.outcome

    def cancel(self) -> None:
        self.canceled = True


def elsewhere(source: Path, output: Path, **options: Any) -> None:
    """Runs the job as if its workers were elsewhere: whatever raises in a step is a failure of this test."""
    pipeline = local_pipeline(pipeline_options(TWO_THREADS))
    chosen = MaterializeOptions(source=str(source), output=str(output), **options)
    _ = pipeline | Materialize(options=chosen, job_id=JOB)
    wait_for_job(pipeline.run(), Folder.of(str(output)), JOB)


def unreadable_rows(root: Path) -> None:
    (root / "data/chunk-000/file-000.parquet").write_bytes(b"rows")


def unreadable_metadata(root: Path) -> None:
    (root / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"episodes")


def missing_frame(root: Path) -> None:
    dirty.set_values(root, "frame_index", {8: None})


def broken_first_image(root: Path) -> None:
    dirty.break_image(root, "observation.image", row=0)


def broken_last_image(root: Path) -> None:
    dirty.break_image(root, "observation.image", row=900)


def nothing(_: Path) -> None: ...


ENDINGS: dict[str, tuple[Callable[[Path], None], dict[str, Any], type[PredecodeError]]] = {
    "while rows are found": (unreadable_rows, {}, SourceError),
    "while rows are found, and episodes may be left out": (unreadable_rows, {"on_error": "quarantine"}, SourceError),
    "while metadata are read": (unreadable_metadata, {}, SourceError),
    "in the audit": (missing_frame, {}, DataError),
    "in the probe": (broken_first_image, {}, DataError),
    "in a shard": (broken_last_image, {}, DataError),
    "at the end": (nothing, {"min_psnr_db": 90}, FidelityError),
}


@pytest.mark.parametrize(("spoil", "options", "kind"), ENDINGS.values(), ids=ENDINGS.keys())
def test_no_step_raises_what_no_retry_can_mend(
    spoil: Callable[[Path], None],
    options: dict[str, Any],
    kind: type[PredecodeError],
    copy_dataset: CopyDataset,
    tmp_path: Path,
) -> None:
    root = copy_dataset("pusht_images_v30")
    spoil(root)
    with pytest.raises(PredecodeError) as here:
        run(root, tmp_path / "here", **options)
    with pytest.raises(PredecodeError) as there:
        elsewhere(root, tmp_path / "there", **options)
    assert type(there.value) is type(here.value) is kind
    assert str(there.value) == str(here.value)
    assert not list(tmp_path.rglob("manifest.json"))
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_another_plan_is_refused_and_left_alone(data_dir: Path, tmp_path: Path) -> None:
    run(data_dir / "zoo_v30", tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(PlanMismatchError, match=r"options\.seed: was 0, now 1"):
        elsewhere(data_dir / "zoo_v30", tmp_path / "out", seed=1)
    assert tree(tmp_path / "out") == before


def test_a_job_that_ends_well_leaves_the_same_bytes(data_dir: Path, tmp_path: Path) -> None:
    run(data_dir / "zoo_v30", tmp_path / "here")
    elsewhere(data_dir / "zoo_v30", tmp_path / "there")
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


def test_what_a_retry_may_mend_is_raised(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr(materialize_shards, "materialize_shard", full)
    pipeline = local_pipeline(pipeline_options(TWO_THREADS))
    options = MaterializeOptions(source=str(data_dir / "zoo_v30"), output=str(tmp_path / "out"))
    _ = pipeline | Materialize(options=options, job_id=JOB)
    with pytest.raises(OutputError, match="The disk is full"):
        pipeline.run()
    assert not (tmp_path / "out" / failure_file(JOB)).exists()


def test_the_first_record_stays_and_the_client_removes_it(tmp_path: Path) -> None:
    folder = Folder.of(str(tmp_path))
    record_failure(folder, JOB, DataError("first"))
    record_failure(folder, JOB, OutputError("second"))
    with pytest.raises(DataError, match="first"):
        wait_for_job(_Ended(PipelineState.DONE), folder, JOB)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_job_that_was_canceled_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="ended in the state CANCELLED, expected DONE"):
        wait_for_job(_Ended(PipelineState.CANCELLED), Folder.of(str(tmp_path)), JOB)  # type: ignore[arg-type]


def test_the_user_stops_the_workers_too(data_dir: Path, tmp_path: Path) -> None:
    ended = _Ended(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        wait_for_job(ended, Folder.of(str(tmp_path / "out")), JOB)  # type: ignore[arg-type]
    assert ended.canceled
    with pytest.raises(JobError, match="stopped by its user"):
        elsewhere(data_dir / "zoo_v30", tmp_path / "out")
    assert not (tmp_path / "out/train").exists()
