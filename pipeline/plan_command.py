"""The command `predecode plan`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from predecode.transforms.options import MaterializeOptions


def run_plan(options: MaterializeOptions, beam_flags: Sequence[str], *, as_json: bool) -> None:
    """Prints what a job would do.

    Raises:
        PredecodeError: the source or the options cannot be used, or nothing of the source is sound.
    """
    started = time.monotonic()
    # Beam and torch take seconds to import, in the job too: they count.
    from predecode.pipeline.planning import forecast_job

    forecast = forecast_job(options, beam_flags, started=started)
    print(forecast.to_json() if as_json else forecast)
