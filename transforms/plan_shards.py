"""From a group's episodes to the plans of its shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from predecode.transforms.episodes import Episode
from predecode.transforms.errors import OutputError
from predecode.transforms.failure_record import ends_quietly
from predecode.transforms.format import FORMAT_VERSION
from predecode.transforms.layout import Layout
from predecode.transforms.probe import Probe
from predecode.transforms.recipe import Recipe
from predecode.transforms.shards import ShardPlan, deal_segments, files_of, plan_shards
from predecode.transforms.spread import Spread

GroupKey = tuple[str, int]
"""Split and number of a group."""


def shard_content(recipe: Recipe, probe: Probe, layout: Layout) -> dict[str, Any]:
    """What determines every shard's bytes alike; part of each plan hash."""
    return {
        "format_version": FORMAT_VERSION,
        "source": recipe.source.summary(),
        "features": [[f.name, f.kind, f.item_dtype, f.item_shape] for f in recipe.source.features],
        "text_features": recipe.source.text_features,
        "deltas": list(recipe.deltas.items()),
        "pixels": recipe.pixel_options(),
        "cameras": [[camera.name, camera.height, camera.width, camera.channels] for camera in layout.cameras],
        "stride": layout.rule.stride,
        "anchors_per_sample": layout.rule.anchors_per_sample,
        "has_runs": layout.has_runs,
        "tolerance_s": recipe.options.tolerance_s,
        "versions": dict(probe.versions),
    }


class _AssignGroup(beam.DoFn):
    def process(self, episode: Episode, recipe: Recipe, layout: Layout | None) -> Iterator[tuple[GroupKey, Episode]]:
        """Keys an episode with its group; one without anchors belongs to none."""
        # There is no layout where a step has ended the job: see failure_record.py.
        if layout is not None and layout.rule.count_anchors(episode.num_frames):
            split = recipe.split_of(episode.index)
            yield (split, layout.group_of(split, episode.index)), episode


class _PlanGroup(beam.DoFn):
    @ends_quietly
    def process(
        self, element: tuple[GroupKey, Iterable[Episode]], recipe: Recipe, probe: Probe, layout: Layout
    ) -> Iterator[ShardPlan]:
        """One group's episodes in, its shards' plans out."""
        (split, number), episodes = element[0], sorted(element[1], key=lambda episode: episode.index)
        group = layout.groups[split][number]
        if len(episodes) != group.num_episodes:
            raise OutputError(
                f"Group {number} of {split}: the runner lost episodes: expected {group.num_episodes}, got "
                f"{len(episodes)}. Run the same command again; if it stays so, choose another runner."
            )
        dealt = deal_segments(
            [(episode.index, episode.num_frames) for episode in episodes],
            layout.rule,
            num_shards=group.num_shards,
            seed=recipe.options.seed,
        )
        paths = sorted({path for episode in episodes for path in files_of(episode)})
        Metrics.counter("plan_shards", "shards").inc(len(dealt))
        Metrics.counter("plan_shards", "segments").inc(sum(map(len, dealt)))
        yield from plan_shards(
            split,
            group.first_shard,
            dealt,
            {episode.index: episode for episode in episodes},
            file_sizes={path: recipe.source.file_size(path) for path in paths},
            content=shard_content(recipe, probe, layout),
        )


@dataclass(kw_only=True)
class PlanShards(beam.PTransform[Any, Any]):
    """Groups the episodes by the layout and deals their segments to shards.

    Only descriptions of episodes cross the shuffle, not segments: there are hundreds of these in a long episode.

    Attributes:
        recipe: Side input: what to make.
        probe: Side input: versions of what makes the bytes.
        layout: Side input: groups and shards.
        has_workers: As of `Spread`.
    """

    recipe: Any
    probe: Any
    layout: Any
    has_workers: bool

    def expand(self, episodes: beam.PCollection[Episode]) -> beam.PCollection[ShardPlan]:
        """Episodes in, shard plans out, spread over the workers."""
        recipe = beam.pvalue.AsSingleton(self.recipe)
        probe, layout = (beam.pvalue.AsSingleton(side, default_value=None) for side in (self.probe, self.layout))
        return (
            episodes
            | "AssignGroup" >> beam.ParDo(_AssignGroup(), recipe, layout).with_output_types(tuple[GroupKey, Episode])
            # ((split, group), [Episode, ...])
            | "GroupByGroup" >> beam.GroupByKey()
            | "PlanGroup" >> beam.ParDo(_PlanGroup(), recipe, probe, layout).with_output_types(ShardPlan)
            | "SpreadShards" >> Spread(has_workers=self.has_workers)
        )
