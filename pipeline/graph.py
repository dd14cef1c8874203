"""The graph of the job on one screen: shuffle the plan, never the pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam

from predecode.transforms.assemble import QUARANTINE, AssembleEpisodes
from predecode.transforms.commit_manifest import CommitManifest
from predecode.transforms.episodes import Episode
from predecode.transforms.materialize_shards import MaterializeShards
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.plan_layout import PlanLayout
from predecode.transforms.plan_shards import PlanShards
from predecode.transforms.probe import ProbeSource
from predecode.transforms.read_source import ReadEpisodeMetadata, ReadFrameRuns
from predecode.transforms.recipe import open_recipe
from predecode.transforms.storage import Folder


@dataclass(kw_only=True)
class Materialize(beam.PTransform[Any, Any]):
    """Materializes a dataset; usable inside any pipeline, more than once.

    Attributes:
        options: What to make of which source, and where to put it.
        num_threads: Threads that share the shards of a bundle, in a pipeline with one worker; None where the runner has
            workers of its own.
        job_id: Given, errors that no retry can mend are recorded for the client that waits for the job.
        worker_ram: Given, what the step that decodes asks of an engine that chooses machines, such as "8GB". Others
            would start workers of their own for that step.
    """

    options: MaterializeOptions
    num_threads: int | None = None
    job_id: str = ""
    worker_ram: str = ""

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Nothing in; one manifest out, when all of it is committed."""
        options = begin | "Options" >> beam.Create([_absolute(self.options)])
        recipe = options | "OpenSource" >> beam.Map(open_recipe, self.job_id)
        has_workers = self.num_threads is None
        found = (
            # (episode_index, FrameRun) and (episode_index, EpisodeMetadata)
            (
                recipe | "ReadFrameRuns" >> ReadFrameRuns(recipe=recipe, has_workers=has_workers),
                recipe | "ReadEpisodeMetadata" >> ReadEpisodeMetadata(recipe=recipe, has_workers=has_workers),
            )
            | "Flatten" >> beam.Flatten()
            | "AssembleEpisodes"
            >> AssembleEpisodes(stride=self.options.anchor_stride, drop_last=self.options.drop_last_frames)
        )
        episodes, bad = found.episodes, found[QUARANTINE]
        sizes = episodes | "Sizes" >> beam.Map(_index_and_frames)
        probe = episodes | "ProbeSource" >> ProbeSource(recipe=recipe)
        layout = probe | "PlanLayout" >> PlanLayout(recipe=recipe, sizes=sizes, quarantine=bad)
        write: beam.PTransform[Any, Any] = MaterializeShards(recipe=recipe, layout=layout, num_threads=self.num_threads)
        if self.worker_ram:
            write = write.with_resource_hints(min_ram=self.worker_ram)
        return (
            episodes
            | "PlanShards" >> PlanShards(recipe=recipe, probe=probe, layout=layout, has_workers=has_workers)
            | "MaterializeShards" >> write
            | "CommitManifest" >> CommitManifest(recipe=recipe, layout=layout, episodes=episodes, quarantine=bad)
        )


def _absolute(options: MaterializeOptions) -> MaterializeOptions:
    """Workers run in other folders."""
    return replace(options, source=Folder.of(options.source).url, output=Folder.of(options.output).url)


def _index_and_frames(episode: Episode) -> tuple[int, int]:
    return episode.index, episode.num_frames
