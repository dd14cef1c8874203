"""Waiting for a job whose workers are elsewhere."""

from __future__ import annotations

from apache_beam.runners.runner import PipelineResult, PipelineState

from predecode.pipeline.failures import find_cause
from predecode.transforms.errors import JobError
from predecode.transforms.failure_record import failure_file, read_failure, record_failure
from predecode.transforms.storage import Folder


def wait_for_job(result: PipelineResult, output: Folder, job_id: str) -> None:
    """Waits until a job has ended well.

    Args:
        result: Of the running pipeline.
        output: Where its workers record an error that no retry can mend.
        job_id: What they name the record after.

    Raises:
        PredecodeError: of the class that says what went wrong.
    """
    try:
        state = result.wait_until_finish()
    except KeyboardInterrupt:
        # Flink's job server forgets a job that is canceled, and Flink runs it to its end: the record stops it.
        record_failure(
            output, job_id, JobError("The job was stopped by its user. Run the same command again to go on.")
        )
        result.cancel()
        raise
    except Exception as error:
        raise read_failure(output, job_id) or find_cause(error) from error
    failure = read_failure(output, job_id)
    if failure is not None:
        output.remove(failure_file(job_id))
        raise failure
    if state != PipelineState.DONE:
        raise JobError(
            f"The job ended in the state {state}, expected DONE. What is committed is kept: look into the engine's "
            "log, and run the same command again."
        )
