"""plan.json: the first file of an output. It says what the job does, so that a later run can say what differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from predecode.transforms.errors import OutputError, PlanMismatchError, StorageError
from predecode.transforms.format import MANIFEST_FILE, PLAN_FILE
from predecode.transforms.hashing import digest
from predecode.transforms.storage import TEMPORARY_MARK, Folder

_MAX_DIFFERENCES = 8


def publish_plan(output: Folder, plan: Mapping[str, Any], *, overwrite: bool) -> str:
    """Writes the plan into an empty output, or checks that it is the one that is there.

    Args:
        output: Where shards go.
        plan: Plain JSON.
        overwrite: Whether another plan is replaced; the manifest is removed first, so that nobody reads a mixture.

    Returns:
        The plan's digest.

    Raises:
        PlanMismatchError: the output holds another plan.
        OutputError: the folder holds something else, or storage fails.
    """
    plan_digest, content = plan_bytes(plan)
    existing = read_plan(output)
    if existing is None:
        refuse_foreign(output)
    elif existing == json.loads(content):
        return plan_digest
    elif not overwrite:
        raise PlanMismatchError(describe_mismatch(output, existing, plan))
    output.remove(MANIFEST_FILE)
    output.publish(PLAN_FILE, content)
    return plan_digest


def plan_bytes(plan: Mapping[str, Any]) -> tuple[str, bytes]:
    """The digest of a plan, and the plan as written."""
    content = {**plan, "digest": digest(plan)}
    return str(content["digest"]), json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


def require_plan(output: Folder, plan_digest: str) -> None:
    """Checks that this worker sees the output that the plan was written to.

    Raises:
        OutputError: it does not.
    """
    found = (read_plan(output) or {}).get("digest")
    if found != plan_digest:
        raise OutputError(
            f"{output.path(PLAN_FILE)}: expected the plan {plan_digest} that this job wrote, found {found or 'none'}. "
            "Either another job writes to the same output, or it is a local folder that the workers do not share: "
            "give them a shared file system or an object store."
        )


def read_plan(output: Folder) -> dict[str, Any] | None:
    """The plan of an output; None where there is none.

    Raises:
        OutputError: the file is there but cannot be understood, or storage fails.
    """
    try:
        content = output.read(PLAN_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except StorageError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot read {output.path(PLAN_FILE)}: {error.strerror or error}. Is the output's address right? What is "
            "committed is kept: mend the cause and run the same command again."
        ) from error
    try:
        plan = json.loads(content)
    except (ValueError, RecursionError) as error:
        plan = error
    if not isinstance(plan, dict):
        raise OutputError(
            f"{output.path(PLAN_FILE)} is damaged: expected a JSON object, got {plan!r:.120}. Remove the folder or "
            "choose another output."
        )
    return plan


def is_sound_plan(plan: Mapping[str, Any]) -> bool:
    """Whether a plan has the digest that it had when it was written."""
    try:
        return bool(plan["digest"] == digest({key: value for key, value in plan.items() if key != "digest"}))
    except (KeyError, ValueError, RecursionError):
        return False


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Says where two JSON values differ, one line each.

    >>> list(differences({"a": 1, "b": {"c": [1]}}, {"a": 2, "b": {"c": [1, 2]}}))
    ['a: was 1, now 2', 'b.c: was [1], now [1, 2]']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}: was {json.dumps(old):.100}, now {json.dumps(new):.100}"


def growth_free(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan stays the same while its source grows: what was asked for, and of what kind of source."""
    grows = {"options": ("episodes",), "source": ("episodes", "frames")}
    return {
        part: {key: value for key, value in plan[part].items() if key not in grows.get(part, ())}
        if isinstance(plan.get(part), dict)
        else plan.get(part)
        for part in ("format_version", "options", "versions", "source")
    }


def describe_differences(existing: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """The first differences of two plans, one a line; "" where there are none."""
    # What was asked for explains the rest: a changed option changes the layout too.
    for part in ("format_version", "options", "versions", "source", "probe"):
        lines = list(differences(existing.get(part), content.get(part), part))
        if lines:
            break
    else:
        lines = list(differences(dict(existing), dict(content)))
    return "\n".join(f"  {line}" for line in lines[:_MAX_DIFFERENCES])


def describe_mismatch(output: Folder, existing: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Why an output is not that of a plan, and what to do."""
    has_grown = growth_free(existing) == growth_free(content)
    remedy = "--extend to take in what the source has got since, or --overwrite" if has_grown else "--overwrite"
    return (
        f"{output} holds the shards of another plan:\n{describe_differences(existing, content)}\n"
        f"Choose another output, restore what differs, or give {remedy} to replace it."
    )


def refuse_foreign(output: Folder) -> None:
    """Refuses a folder without a plan that holds something else.

    Raises:
        OutputError: it does, or it is a file.
    """
    if output.size("") is not None:
        raise OutputError(f"{output} is a file, expected a folder to write to. Choose another output.")
    foreign = [name for name in output.names() if TEMPORARY_MARK not in name]
    if foreign:
        raise OutputError(
            f"{output} is not empty and holds no {PLAN_FILE} (found {foreign[0]}{', ...' if foreign[1:] else ''}): "
            "it is no output of this job. Choose an empty or new folder."
        )
