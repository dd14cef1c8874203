"""Choosing where the job runs: on this machine with threads unless Beam's own options say otherwise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PipelineOptionsT,
    PortableOptions,
    SetupOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from predecode.transforms.errors import UsageError, did_you_mean
from predecode.transforms.options import MaterializeOptions

LOCAL_RUNNER = "FnApiRunner"
WORKER_BOOT = Path(sys.executable).with_name("predecode-worker-boot")
_OWN_OPTIONS = [f"--{field.name.replace('_', '-')}" for field in fields(MaterializeOptions)]
_IN_PROCESS = (LOCAL_RUNNER, "DirectRunner")
_THREADS, _IN_MEMORY = "multi_threading", "in_memory"


class _Options(PipelineOptions):
    """Beam's options, each view of which is made once.

    While Beam builds a graph it looks at them some three hundred times, and makes a parser of arguments for each look:
    half the time of building. A view has no values of its own, only a reference to all of them.
    """

    def view_as(self, cls: type[PipelineOptionsT]) -> PipelineOptionsT:
        """The view of that class."""
        views: dict[type[PipelineOptions], Any] = vars(self).setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: PipelineOptionsT = views[cls]
        return view


def pipeline_options(flags: Sequence[str] | None = None) -> PipelineOptions:
    """Beam's options from its flags, with predecode's defaults where they are silent.

    FFmpeg and the image codecs release the GIL, so threads scale and start at once; one thread per core.

    Raises:
        UsageError: a flag that neither predecode nor Beam knows.
    """
    flags = list(flags or ())
    known = PipelineOptions([]).get_all_options()
    given = PipelineOptions(flags).get_all_options(retain_unknown_options=True)
    if unknown := given.keys() - known.keys():
        # As they were typed: Beam makes underscores of dashes.
        typed = [flag.split("=", 1)[0] for flag in flags if _name(flag) in unknown]
        guess = did_you_mean(typed[0], _OWN_OPTIONS)
        raise UsageError(
            f"Unknown option{'s' if len(unknown) > 1 else ''}: {', '.join(typed)}.{guess} "
            "`predecode materialize --help` lists the options; Beam's own, such as --runner, are taken too."
        )
    options = _Options(flags)
    standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
    if standard.runner is None:
        standard.runner = LOCAL_RUNNER
    if standard.runner in _IN_PROCESS:
        if not _says(flags, "direct_running_mode"):
            direct.direct_running_mode = _THREADS
        if not _says(flags, "direct_num_workers"):
            direct.direct_num_workers = os.cpu_count() or 1
    setup = options.view_as(SetupOptions)
    if setup.save_main_session is None:  # Beam would send the main module along, though no step is in it.
        setup.save_main_session = False
    _complete_environment(options.view_as(PortableOptions))
    return options


def _complete_environment(options: PortableOptions) -> None:
    """Workers that are processes are started by this environment's own command, unless another is named.

    Raises:
        UsageError: `--environment_config` is no JSON.
    """
    if options.environment_type != "PROCESS":
        return
    if not options.environment_config and not options.environment_options:
        options.environment_config = json.dumps({"command": str(WORKER_BOOT)})
    try:
        json.loads(options.environment_config or "{}")
    except ValueError as error:
        raise UsageError(
            f'--environment_config: expected JSON such as {{"command": "{WORKER_BOOT}"}}, got '
            f"{options.environment_config!r:.200}: {error}."
        ) from None


def local_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """A pipeline that runs where the options say; where that is threads of this process, those of the heavy step.

    Beam itself then works in memory, in one thread: all steps but `MaterializeShards` are Python alone, which threads
    don't speed up; and its own threads (2.77) deal elements out beforehand and can lose some (docs/architecture.md).
    """
    if local_threads(options) is None:
        return beam.Pipeline(options=options)
    direct = options.view_as(DirectOptions)
    direct.direct_running_mode, direct.direct_num_workers = _IN_MEMORY, 1
    return beam.Pipeline(runner=FnApiRunner(), options=options)


def local_threads(options: PipelineOptions) -> int | None:
    """Threads of this process that write shards; None where the runner's own workers do."""
    direct = options.view_as(DirectOptions)
    return direct.direct_num_workers if runs_here(options) and direct.direct_running_mode == _THREADS else None


def runs_here(options: PipelineOptions) -> bool:
    """Whether the workers are this process."""
    return options.view_as(StandardOptions).runner in _IN_PROCESS


def _says(flags: Sequence[str], name: str) -> bool:
    return any(_name(flag) == name for flag in flags)


def _name(flag: str) -> str:
    """Beam's name of an option: `direct_num_workers` of `--direct_num_workers=2`."""
    return flag.split("=", 1)[0].removeprefix("--").replace("-", "_")
