"""The plan of an output whose source has grown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predecode.transforms.errors import PlanMismatchError
from predecode.transforms.format import MANIFEST_FILE, PLAN_FILE
from predecode.transforms.plan_file import describe_differences, growth_free, plan_bytes, read_plan
from predecode.transforms.staging import staging_of
from predecode.transforms.storage import Folder


def publish_grown_plan(output: Folder, plan: Mapping[str, Any]) -> str | None:
    """Stages the plan of a grown source beside a complete output, which stays as it is.

    Args:
        output: Where shards go.
        plan: Plain JSON.

    Returns:
        The plan's digest; None where nobody can read the output yet, so that it needs no staging.

    Raises:
        PlanMismatchError: more than the source's growth differs from the plan of the output, or it has shrunk.
        OutputError: storage fails.
    """
    existing = read_plan(output)
    if existing is None:
        return None
    _require_grown(output, existing, plan)
    if output.size(MANIFEST_FILE) is None:
        return None
    digest, content = plan_bytes(plan)
    staging_of(output).publish(PLAN_FILE, content)
    return digest


def _require_grown(output: Folder, existing: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    if lines := describe_differences(growth_free(existing), growth_free(plan)):
        raise PlanMismatchError(
            f"{output} cannot be extended, because more than the size of the source differs from its plan:\n{lines}\n"
            "Restore what differs, choose another output, or give --overwrite instead of --extend to replace it."
        )
    before, now = (content.get("source", {}).get("episodes", 0) for content in (existing, plan))
    if now < before:
        raise PlanMismatchError(
            f"{output} cannot be extended: it was made of {before} sound episodes, and the source has {now} now. Is "
            "the source complete? Give --overwrite instead of --extend to replace the output."
        )
