"""Running the job: what the command line calls, and what a script calls."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from predecode.pipeline.committed import find_committed
from predecode.pipeline.credentials import refuse_credentials
from predecode.pipeline.failures import find_cause
from predecode.pipeline.graph import Materialize
from predecode.pipeline.progress import Progress
from predecode.pipeline.remote_job import wait_for_job
from predecode.pipeline.runner import local_pipeline, local_threads, pipeline_options, runs_here
from predecode.pipeline.summary import Summary, summarize
from predecode.transforms.decoder_library import check_decoder
from predecode.transforms.features import Kind
from predecode.transforms.manifest import read_manifest
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.plan_file import read_plan, refuse_foreign
from predecode.transforms.recipe import open_recipe
from predecode.transforms.storage import Folder

DATAFLOW_WORKER_RAM = "8GB"
"""For the processes of four cores: each takes 1 GB, libraries mostly, and holds a shard and a segment's frames."""


def materialize(
    options: MaterializeOptions,
    beam_options: PipelineOptions | Sequence[str] | None = None,
    *,
    show_progress: bool = False,
) -> Summary:
    """Materializes a dataset and waits until it is complete.

    Args:
        options: What to make of which source, and where to put it.
        beam_options: Beam's options or flags; by default threads on this machine, one per core.
        show_progress: Whether to report progress on standard error.

    Returns:
        What came out.

    Raises:
        PredecodeError: of the class that says what went wrong. What is committed is kept, and the same call goes on.
    """
    started = time.monotonic()
    settings = beam_options if isinstance(beam_options, PipelineOptions) else pipeline_options(beam_options)
    if not runs_here(settings):
        refuse_credentials(options, settings)
    recipe = open_recipe(options)
    if runs_here(settings) and any(camera.kind is Kind.VIDEO for camera in recipe.cameras):
        check_decoder()
    already = find_committed(recipe.output, extends=options.extend)
    progress = Progress(recipe.output, overwrite=options.overwrite, extends=options.extend)
    with progress if show_progress else contextlib.nullcontext():
        _run(options, settings, recipe.output)
    source = Folder.of(options.source, json.loads(options.storage_options_json))
    return summarize(
        read_manifest(recipe.output),
        recipe.output,
        source_bytes=source.total_bytes(),
        shards_kept=len(already & find_committed(recipe.output, extends=options.extend)),
        seconds=time.monotonic() - started,
    )


def build_pipeline(options: MaterializeOptions, settings: PipelineOptions, *, job_id: str = "") -> beam.Pipeline:
    """The whole job, ready to run where the settings say.

    Args:
        options: What to make of which source, and where to put it.
        settings: Beam's.
        job_id: Of a job whose workers are elsewhere: see `wait_for_job`.
    """
    is_dataflow = settings.view_as(StandardOptions).runner == "DataflowRunner"
    num_threads = local_threads(settings)  # Asked first: the pipeline takes Beam's own threads from the settings.
    pipeline = local_pipeline(settings)
    job = Materialize(
        options=options,
        num_threads=num_threads,
        job_id=job_id,
        worker_ram=DATAFLOW_WORKER_RAM if is_dataflow else "",
    )
    _ = pipeline | "Materialize" >> job
    return pipeline


def _run(options: MaterializeOptions, settings: PipelineOptions, output: Folder) -> None:
    """Runs the job to its end."""
    job_id = "" if runs_here(settings) else uuid.uuid4().hex
    if job_id and read_plan(output) is None:
        refuse_foreign(output)  # Before a worker leaves anything in it.
    try:
        result = build_pipeline(options, settings, job_id=job_id).run()
        if job_id:
            wait_for_job(result, output, job_id)
        else:
            result.wait_until_finish()
    except Exception as error:
        raise find_cause(error) from error
