"""Finding episodes: the files of the source, the runs of rows in its data files, the entries of its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from predecode.transforms.episodes import UNREADABLE, EpisodeMetadata, FrameRun
from predecode.transforms.errors import SourceError
from predecode.transforms.options import is_selected, parse_episodes
from predecode.transforms.recipe import Recipe
from predecode.transforms.spread import Spread

STEP = "read_source"


def read_frame_runs(path: str, recipe: Recipe) -> Iterator[tuple[int, FrameRun]]:
    """The runs of the selected episodes in one data file."""
    selection = parse_episodes(recipe.options.episodes)
    Metrics.counter(STEP, "data_files").inc()
    for episode_index, run in recipe.source.read_frame_runs(path):
        if is_selected(episode_index, selection):
            Metrics.counter(STEP, "rows").inc(run.num_frames)
            yield episode_index, run


def read_episode_metadata(path: str, recipe: Recipe) -> Iterator[tuple[int, EpisodeMetadata]]:
    """The entries of the selected episodes in one metadata file."""
    selection = parse_episodes(recipe.options.episodes)
    for episode_index, entry in recipe.source.read_episode_metadata(path):
        if is_selected(episode_index, selection):
            Metrics.counter(STEP, "metadata_entries").inc()
            yield episode_index, entry


@dataclass(kw_only=True)
class ReadFrameRuns(beam.PTransform[Any, Any]):
    """Reads the data files, each by one worker; row values stay there.

    Attributes:
        recipe: Side input: the source.
        has_workers: As of `Spread`.
    """

    recipe: Any
    has_workers: bool

    def expand(self, recipe: beam.PCollection[Recipe]) -> beam.PCollection[tuple[int, FrameRun]]:
        """The recipe in, (episode_index, FrameRun) out."""
        return (
            recipe
            | "ListDataFiles" >> beam.FlatMap(_data_files)
            | "SpreadDataFiles" >> Spread(has_workers=self.has_workers)
            | "ReadRuns" >> beam.FlatMap(_read_runs, beam.pvalue.AsSingleton(self.recipe))
        )


@dataclass(kw_only=True)
class ReadEpisodeMetadata(beam.PTransform[Any, Any]):
    """Reads the metadata files.

    Attributes:
        recipe: Side input: the source.
        has_workers: As of `Spread`.
    """

    recipe: Any
    has_workers: bool

    def expand(self, recipe: beam.PCollection[Recipe]) -> beam.PCollection[tuple[int, EpisodeMetadata]]:
        """The recipe in, (episode_index, EpisodeMetadata) out."""
        return (
            recipe
            | "ListMetadataFiles" >> beam.FlatMap(_metadata_files)
            | "SpreadMetadataFiles" >> Spread(has_workers=self.has_workers)
            | "ReadEntries" >> beam.FlatMap(_read_entries, beam.pvalue.AsSingleton(self.recipe))
        )


def _data_files(recipe: Recipe) -> Iterator[str]:
    return recipe.source.data_files()


def _metadata_files(recipe: Recipe) -> Iterator[str]:
    return recipe.source.metadata_files()


def _read_runs(path: str, recipe: Recipe) -> Iterator[tuple[int, FrameRun | EpisodeMetadata]]:
    yield from _or_unreadable(read_frame_runs(path, recipe), recipe)


def _read_entries(path: str, recipe: Recipe) -> Iterator[tuple[int, FrameRun | EpisodeMetadata]]:
    yield from _or_unreadable(read_episode_metadata(path, recipe), recipe)


def _or_unreadable(found: Iterator[tuple[int, Any]], recipe: Recipe) -> Iterator[tuple[int, Any]]:
    """In a job that runs elsewhere the error travels on, to where such jobs end: `PlanLayout`."""
    try:
        yield from found
    except SourceError as error:
        if not recipe.job_id:
            raise
        yield UNREADABLE, EpisodeMetadata(0, (), (), problem=str(error))
