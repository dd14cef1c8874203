"""LeRobot v2.0 and v2.1: one episode a file, JSON lines as metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from predecode.transforms.episodes import EpisodeMetadata, VideoSpan
from predecode.transforms.errors import SOURCE_REMEDY, SourceError
from predecode.transforms.sources.lerobot import LeRobotSource
from predecode.transforms.sources.lerobot_info import LeRobotInfo, parse_json, video_template
from predecode.transforms.storage import Folder

_TASKS_PATH = "meta/tasks.jsonl"
_EPISODES_PATH = "meta/episodes.jsonl"
_DEFAULT_CHUNKS_SIZE = 1000
_MAX_TASK_INDEX = 1_000_000
_MAX_INTEGER = 1 << 40


@dataclass(frozen=True, slots=True)
class LeRobotV2(LeRobotSource):
    """A LeRobot dataset of version 2.0 or 2.1.

    Attributes:
        chunks_size: Episodes a folder.
    """

    chunks_size: int = _DEFAULT_CHUNKS_SIZE

    @classmethod
    def open(cls, folder: Folder, info: LeRobotInfo) -> LeRobotV2:
        """Reads the task strings; the list of episodes is read by a worker.

        Raises:
            SourceError: the template of video files, chunks_size or the task strings cannot be used.
        """
        chunks_size = info.content.get("chunks_size", _DEFAULT_CHUNKS_SIZE)
        if not _is_count(chunks_size) or chunks_size == 0:
            raise SourceError(
                f"{info.where}: expected chunks_size to be 1 or more, got {chunks_size!r:.80}. {SOURCE_REMEDY}"
            )
        version = "v{}.{}".format(*info.version)
        template = video_template(info, ("video_key", "episode_chunk", "episode_index"))
        texts = {"task_index": _read_tasks(folder)}
        return cls(folder, version, info.fps, info.features, info.inherited_json, texts, template, int(chunks_size))

    def is_data_file(self, path: str) -> bool:
        """As lerobot, which reads all Parquet files below `data`."""
        return path.endswith(".parquet")

    def metadata_files(self) -> Iterator[str]:
        """The one file that lists the episodes.

        Raises:
            SourceError: it is missing.
        """
        if self.folder.size(_EPISODES_PATH) is None:
            raise SourceError(
                f"{self.folder.path(_EPISODES_PATH)}: expected the list of episodes, found no such file. "
                f"{SOURCE_REMEDY}"
            )
        yield _EPISODES_PATH

    def read_episode_metadata(self, path: str) -> Iterator[tuple[int, EpisodeMetadata]]:
        """The entries of the list of episodes.

        Raises:
            SourceError: a line is no JSON object with an episode_index.
        """
        for where, entry in _lines(self.folder, path):
            index, length, tasks = entry.get("episode_index"), entry.get("length"), entry.get("tasks")
            if not _is_count(index):
                raise SourceError(
                    f"{where}: expected an episode_index of 0 or more, got {index!r:.80}. {SOURCE_REMEDY}"
                )
            num_frames = length if _is_count(length) else 0
            problem = "" if num_frames else f"{where}: expected a length of 1 or more, got {length!r:.80}."
            texts = tuple(text for text in tasks if isinstance(text, str)) if isinstance(tasks, list) else ()
            videos = tuple(self._span(camera, index) for camera in self.video_cameras)
            yield index, EpisodeMetadata(num_frames, texts, videos, problem)

    def _span(self, camera: str, episode_index: int) -> VideoSpan:
        assert self.video_path is not None, "there are cameras, so there is a template"
        chunk = episode_index // self.chunks_size
        path = self.video_path.path(video_key=camera, episode_chunk=chunk, episode_index=episode_index)
        return VideoSpan(camera, path, 0.0, math.inf)


def _read_tasks(folder: Folder) -> tuple[str | None, ...]:
    """Task strings by task_index, which is how lerobot looks them up in these versions."""
    if folder.size(_TASKS_PATH) is None:
        raise SourceError(f"{folder.path(_TASKS_PATH)}: expected the task strings, found no such file. {SOURCE_REMEDY}")
    texts: dict[int, str] = {}
    for where, entry in _lines(folder, _TASKS_PATH):
        index, text = entry.get("task_index"), entry.get("task")
        if not _is_count(index) or index > _MAX_TASK_INDEX or not isinstance(text, str):
            raise SourceError(
                f"{where}: expected a task_index of 0 or more and its task, got {entry!r:.120}. {SOURCE_REMEDY}"
            )
        texts[index] = text
    return tuple(texts.get(index) for index in range(max(texts, default=-1) + 1))


def _lines(folder: Folder, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with what to call its line in messages."""
    with folder.open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{folder.path(path)}: line {number}"
            try:
                entry = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise SourceError(
                    f"{where}: expected a JSON object, got {line!r:.80}: {error}. {SOURCE_REMEDY}"
                ) from error
            if not isinstance(entry, dict):
                raise SourceError(f"{where}: expected a JSON object, got {entry!r:.80}. {SOURCE_REMEDY}")
            yield where, entry


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MAX_INTEGER
