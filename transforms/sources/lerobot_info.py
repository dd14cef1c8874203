"""What `meta/info.json` of a LeRobot dataset says, as far as it can be believed."""

from __future__ import annotations

import json
import os
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predecode.transforms.errors import (
    SOURCE_REMEDY,
    SourceError,
    SourceNotFoundError,
    StorageError,
    UsageError,
    did_you_mean,
)
from predecode.transforms.features import Feature, Kind, parse_features
from predecode.transforms.options import MAX_FPS
from predecode.transforms.storage import Folder, check_relative

INFO_PATH = "meta/info.json"

INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""The columns that every dataset has, and that rows are found by."""

_MAX_NAMED = 5
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SAFE_FORMATS = re.compile(r"(0?\d{1,2})?d?")


@dataclass(frozen=True, slots=True)
class LeRobotInfo:
    """The checked content of an info.json.

    Attributes:
        where: What to call the file in messages.
        version: (major, minor) of the format.
        fps: Frames per second.
        features: Those that are not excluded, in order.
        inherited_json: What the output's info.json inherits, as JSON: robot_type, fps, and the features as declared.
        content: The whole file, for what only one version needs. Not to be trusted.
    """

    where: str
    version: tuple[int, int]
    fps: float
    features: tuple[Feature, ...]
    inherited_json: str
    content: Mapping[str, Any]


def read_info(folder: Folder, excluded: frozenset[str]) -> LeRobotInfo:
    """Reads and checks `meta/info.json`; unknown keys and all counts are ignored.

    Raises:
        SourceNotFoundError: there is no dataset.
        SourceError: the file is broken, or of a version or with features that cannot be read.
        UsageError: a feature is excluded that nothing works without.
    """
    if needed := excluded.intersection(INDEX_COLUMNS):
        raise UsageError(f"Cannot exclude {', '.join(sorted(needed))}: rows are found by these columns.")
    try:
        is_there = folder.size(INFO_PATH) is not None
    except StorageError:
        raise
    except OSError as error:
        raise SourceError(
            f"Cannot read {folder.path(INFO_PATH)}: {error.strerror or error}. Is it reachable?"
        ) from error
    if not is_there:
        raise SourceNotFoundError(_not_found(folder))
    content = read_json_object(folder, INFO_PATH)
    where = folder.path(INFO_PATH)
    version = _parse_version(content.get("codebase_version"), where)
    fps = _parse_fps(content.get("fps"), where)
    specs = content.get("features")
    features = parse_features(specs, where=where, excluded=excluded)
    _check_features(features, where)
    robot_type = content.get("robot_type")
    inherited = {
        "robot_type": robot_type if isinstance(robot_type, str) else None,
        "fps": content["fps"],
        "features": {feature.name: content["features"][feature.name] for feature in features},
    }
    return LeRobotInfo(where, version, fps, features, json.dumps(inherited), content)


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with numbered parts, such as `videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4`.

    It comes from the dataset, and `str.format` can reach attributes: only plain fields with a width are allowed.

    Attributes:
        text: As in info.json.
        where: What to call its origin in messages.
    """

    text: str
    where: str

    @classmethod
    def parse(cls, text: object, fields: tuple[str, ...], where: str) -> PathTemplate:
        """Checks a template.

        Args:
            text: As found.
            fields: The names it may use. All but "video_key" are numbers.
            where: What to call its origin in messages.

        Raises:
            SourceError: absent, malformed, with a field that is not one of `fields`, or leading out of the dataset.
        """
        try:
            parts = list(string.Formatter().parse(text)) if isinstance(text, str) else []
        except ValueError:
            parts = []
        sound = bool(parts) and all(
            name is None
            or (
                name in fields
                and conversion is None
                and (format_spec == "" if name == "video_key" else _SAFE_FORMATS.fullmatch(format_spec or ""))
            )
            for _, name, format_spec, conversion in parts
        )
        if not sound:
            allowed = ", ".join(f"{{{field}}}" for field in fields)
            raise SourceError(f"{where}: expected a path with the fields {allowed}, got {text!r:.160}. {SOURCE_REMEDY}")
        template = cls(str(text), where)
        template.path(**{field: "camera" if field == "video_key" else 0 for field in fields})
        return template

    def path(self, **fields: str | int) -> str:
        """The path for some values.

        Raises:
            SourceError: it would leave the dataset.
        """
        return check_relative(self.text.format(**fields), self.where)


def read_json_object(folder: Folder, path: str) -> dict[str, Any]:
    """Reads a JSON file of a dataset.

    Raises:
        SourceError: it is not a JSON object.
    """
    try:
        content = parse_json(folder.read(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{folder.path(path)}: expected JSON, got what cannot be parsed: {error}. {SOURCE_REMEDY}"
        ) from error
    if not isinstance(content, dict):
        raise SourceError(f"{folder.path(path)}: expected a JSON object, got {content!r:.80}. {SOURCE_REMEDY}")
    return content


def parse_json(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or holds an escape that is half a character, which nothing could write again.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(content)
    if _SURROGATE.search(content):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def video_template(info: LeRobotInfo, fields: tuple[str, ...]) -> PathTemplate | None:
    """The template of video files; None where no feature is a video.

    Raises:
        SourceError: there are video features, and no sound template.
    """
    if not any(feature.kind is Kind.VIDEO for feature in info.features):
        return None
    return PathTemplate.parse(info.content.get("video_path"), fields, f"{info.where}: video_path")


def _not_found(folder: Folder) -> str:
    if folder.size("meta_data/info.json") is not None:
        return f"{folder}: is a LeRobot dataset of version 1.x. Convert it to v2.1 or v3.0 with lerobot's own scripts."
    if not folder.is_local or Path(folder.url).exists():
        nearby = _nearby(Path(folder.url)) if folder.is_local else "Is the address that of the dataset's top folder?"
        return f"{folder}: there is no LeRobot dataset here: {INFO_PATH} is missing. {nearby}"
    name = os.path.relpath(folder.url)
    if re.fullmatch(r"[\w.-]*\w/\w[\w.-]*", name):
        return (
            f"{name}: there is no such folder. To get the dataset of that name from the Hugging Face Hub, run "
            f"`hf download {name} --repo-type dataset --local-dir DIR` and give DIR, or give hf://datasets/{name}."
        )
    path = Path(folder.url)
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    return (
        f"{folder}: there is no such folder.{did_you_mean(path.name, siblings)} Expected a dataset's folder, the one "
        f"that holds {INFO_PATH}."
    )


def _nearby(path: Path) -> str:
    """Where there is a dataset, above or right below a folder; else what a dataset's folder looks like."""
    for above in list(path.parents)[:3]:
        if (above / INFO_PATH).is_file():
            return f"Did you mean {above}?"
    below = sorted(found.parents[1].name for found in path.glob(f"*/{INFO_PATH}"))
    if below:
        return (
            f"Give one of the datasets in it: {', '.join(below[:_MAX_NAMED])}{', ...' if below[_MAX_NAMED:] else '.'}"
        )
    return f"Expected a dataset's folder, the one that holds {INFO_PATH}, or a Zarr replay buffer."


def _parse_version(version: object, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"v?(\d{1,4})\.(\d{1,4})(\.\d+)*", version) if isinstance(version, str) else None
    if match is None:
        raise SourceError(f"{where}: expected a codebase_version such as 'v3.0', got {version!r:.80}. {SOURCE_REMEDY}")
    number = (int(match[1]), int(match[2]))
    if number < (2, 0):
        raise SourceError(
            f"{where}: version {version} is too old. Convert it to v2.1 or v3.0 with lerobot's own scripts."
        )
    if number not in ((2, 0), (2, 1), (3, 0)):
        raise SourceError(
            f"{where}: version {version} is not known; v2.0, v2.1 and v3.0 are. Is there a newer predecode?"
        )
    return number


def _parse_fps(fps: object, where: str) -> float:
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
        raise SourceError(
            f"{where}: expected fps to be a number of at most {MAX_FPS} above 0, got {fps!r:.80}. {SOURCE_REMEDY}"
        )
    return float(fps)


def _check_features(features: tuple[Feature, ...], where: str) -> None:
    by_name = {feature.name: feature for feature in features}
    for name in INDEX_COLUMNS:
        item_dtype = "float32" if name == "timestamp" else "int64"
        if name not in by_name or (by_name[name].item_dtype, by_name[name].shape) != (item_dtype, (1,)):
            got = f"{by_name[name].dtype} of shape {by_name[name].shape}" if name in by_name else "none"
            raise SourceError(
                f"{where}: expected a feature {name!r} of dtype {item_dtype} and shape (1,), got {got}. {SOURCE_REMEDY}"
            )
    for feature in features:
        if feature.kind is Kind.STRING and feature.shape != (1,):
            raise SourceError(
                f"{where}: feature {feature.name!r}: expected one string a frame, shape (1,), got {feature.shape}. "
                f"Leave it out with --exclude-features {feature.name}."
            )
        if feature.name == "task" or (feature.name == "subtask" and "subtask_index" in by_name):
            raise SourceError(
                f"{where}: feature {feature.name!r} has the name under which an item holds its task. "
                f"Leave it out with --exclude-features {feature.name}."
            )
