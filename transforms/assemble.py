"""Joining what the data files and the metadata say of an episode; what does not agree is quarantined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from predecode.transforms.episodes import UNREADABLE, Episode, EpisodeMetadata, FrameRun, Quarantine
from predecode.transforms.windows import count_anchors

QUARANTINE = "quarantine"
"""Tag of the output with what was left out."""


def assemble_episode(index: int, parts: Iterable[FrameRun | EpisodeMetadata]) -> Episode | str:
    """Joins the parts of one episode.

    Args:
        index: `episode_index`.
        parts: All that was found of it, in any order.

    Returns:
        The episode, or why it cannot be used.
    """
    runs, entries = [], []
    for part in parts:
        if isinstance(part, FrameRun):
            runs.append(part)
        else:
            entries.append(part)
    runs.sort(key=lambda run: (run.first_frame, run.path, run.first_row))
    problem = (
        next((run.problem for run in runs if run.problem), "")
        or next((entry.problem for entry in entries if entry.problem), "")
        or _count_problem(runs, entries)
        or _order_problem(runs)
    )
    if problem:
        return f"Episode {index}: {problem}" if index != UNREADABLE else problem
    num_frames = sum(run.num_frames for run in runs)
    return Episode(index, num_frames, entries[0].tasks, tuple(runs), entries[0].videos)


def _count_problem(runs: list[FrameRun], entries: list[EpisodeMetadata]) -> str:
    num_rows = sum(run.num_frames for run in runs)
    if len(entries) != 1:
        return f"expected one entry in the metadata, found {len(entries)} ({num_rows} rows in the data files)."
    if num_rows != entries[0].num_frames:
        return f"the metadata say {entries[0].num_frames} frames, the data files have {num_rows} rows."
    return ""


def _order_problem(runs: list[FrameRun]) -> str:
    expected = 0
    for run in runs:
        if run.first_frame != expected:
            what = "again" if run.first_frame < expected else f"where {expected} was expected"
            return (
                f"frame_index must count up from 0, each once; frame {run.first_frame} comes {what} "
                f"({run.path}, row {run.first_row})."
            )
        expected += run.num_frames
    return ""


class _Assemble(beam.DoFn):
    def __init__(self, stride: int, drop_last: int) -> None:
        self._stride = stride
        self._drop_last = drop_last

    def process(self, element: tuple[int, Iterable[FrameRun | EpisodeMetadata]]) -> Iterator[Any]:
        """One episode's parts in, the episode or its quarantine out."""
        index, parts = element[0], list(element[1])
        assembled = assemble_episode(index, parts)
        if isinstance(assembled, Episode):
            Metrics.counter("assemble_episodes", "episodes").inc()
            yield assembled
            return
        Metrics.counter("assemble_episodes", "episodes_quarantined").inc()
        num_rows = sum(part.num_frames for part in parts if isinstance(part, FrameRun))
        num_anchors = count_anchors(num_rows, stride=self._stride, drop_last=self._drop_last)
        yield beam.pvalue.TaggedOutput(QUARANTINE, Quarantine(index, 0, num_anchors, assembled))


@dataclass(kw_only=True)
class AssembleEpisodes(beam.PTransform[Any, Any]):
    """Groups what was found by episode and audits it.

    Attributes:
        stride: Every so many frames is an anchor.
        drop_last: So many last frames of an episode are no anchors.
    """

    stride: int
    drop_last: int

    def expand(self, parts: beam.PCollection[tuple[int, Any]]) -> Any:
        """(episode_index, FrameRun | EpisodeMetadata) in; main output Episode, tagged output Quarantine."""
        return (
            parts
            # (episode_index, [FrameRun | EpisodeMetadata, ...])
            | "GroupByEpisode" >> beam.GroupByKey()
            | "Assemble"
            >> beam.ParDo(_Assemble(self.stride, self.drop_last))
            .with_output_types(Episode, **{QUARANTINE: Quarantine})
            .with_outputs(QUARANTINE, main="episodes")
        )
