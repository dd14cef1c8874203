"""How an error that no retry can mend ends a job whose workers are elsewhere, and reaches its user.

An engine runs again what failed, ten times or more, and then shows its own trace. So the worker leaves a record of the
error in the output, named after the job, and its step ends without a result; what comes behind it then does nothing.
The engine sees a job that ends well, without a manifest; the client reads the record and raises the error.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from predecode.transforms import errors
from predecode.transforms.errors import PredecodeError
from predecode.transforms.recipe import Recipe
from predecode.transforms.storage import TEMPORARY_MARK, Folder

Parameters = ParamSpec("Parameters")
ElementT = TypeVar("ElementT")


def ends_quietly(process: Callable[Parameters, Iterator[ElementT]]) -> Callable[Parameters, Iterator[ElementT]]:
    """A step's function, one of whose arguments is the `Recipe`, made to record what no retry can mend.

    Where the recipe names no job, the workers are this process, and errors are raised. Else an argument that is None
    is a side input that a step before did not give because it failed. What retries may mend is left to the engine.
    """

    @functools.wraps(process)
    def quiet(*arguments: Parameters.args, **named: Parameters.kwargs) -> Iterator[ElementT]:
        recipe = next(value for value in arguments if isinstance(value, Recipe))
        if recipe.job_id and (any(value is None for value in arguments) or read_failure(recipe.output, recipe.job_id)):
            return
        try:
            yield from process(*arguments, **named)
        except PredecodeError as error:
            if not recipe.job_id or error.retry_helps:
                raise
            record_failure(recipe.output, recipe.job_id, error)

    described: Any = quiet
    # Beam's checks at run time take arguments by name, and do not look behind the wrapper.
    described.__signature__ = inspect.signature(process)
    return quiet


def failure_file(job_id: str) -> str:
    """Name of a job's record: that of an unfinished file, so that it never counts as content and does not stay."""
    return f"failure.json{TEMPORARY_MARK}{job_id}"


def record_failure(output: Folder, job_id: str, error: PredecodeError) -> None:
    """Leaves the record, unless there is one: what fails later may only follow from it.

    Raises:
        OutputError: storage fails.
    """
    if read_failure(output, job_id) is None:
        content = {"error": type(error).__name__, "message": str(error)}
        output.publish(failure_file(job_id), json.dumps(content).encode())


def read_failure(output: Folder, job_id: str) -> PredecodeError | None:
    """The error that was recorded; None where there is none.

    Raises:
        OSError: storage fails.
    """
    with contextlib.suppress(FileNotFoundError):
        content = json.loads(output.read(failure_file(job_id)))
        kind: type[PredecodeError] = getattr(errors, content["error"])
        return kind(content["message"])
    return None
