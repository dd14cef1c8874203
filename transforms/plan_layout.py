"""Deciding the layout once for the whole dataset, and writing it down before any shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam

from predecode.transforms.commits import describe_lost
from predecode.transforms.episodes import UNREADABLE, Quarantine
from predecode.transforms.errors import DataError, SourceError, UsageError
from predecode.transforms.extension import publish_grown_plan
from predecode.transforms.failure_record import ends_quietly
from predecode.transforms.format import FORMAT_VERSION, SPLITS
from predecode.transforms.layout import DEFAULT_MIN_SHARDS, Group, Layout, find_missing, plan_groups
from predecode.transforms.options import is_selected, parse_episodes
from predecode.transforms.plan_file import publish_plan
from predecode.transforms.probe import Probe, row_bytes_per_anchor
from predecode.transforms.recipe import Recipe
from predecode.transforms.segments import (
    SegmentRule,
    choose_anchors_per_sample,
    choose_segment_rule,
)
from predecode.transforms.staging import finish_extension

SAMPLE_SHARE_OF_SHARD = 4
"""A sample of many anchors takes at most this part of a shard."""


def choose_rule(recipe: Recipe, probe: Probe) -> SegmentRule:
    """How episodes are cut, from the windows, the key frames and the size of a frame."""
    options = recipe.options
    deltas = list(recipe.camera_deltas.values())
    frame_bytes = sum(camera.frame_bytes for camera in probe.cameras)
    anchors_per_sample = options.anchors_per_sample or choose_anchors_per_sample(
        deltas,
        stride=options.anchor_stride,
        max_anchors=max(1, options.shard_bytes // SAMPLE_SHARE_OF_SHARD // max(1, frame_bytes)),
    )
    return choose_segment_rule(
        deltas,
        gop_frames=probe.gop_frames,
        anchors_per_sample=anchors_per_sample,
        stride=options.anchor_stride,
        drop_last=options.drop_last_frames,
    )


def plan_layout(recipe: Recipe, probe: Probe, sizes: Sequence[tuple[int, int]], bad: Sequence[Quarantine]) -> Layout:
    """Plans groups and shards of all episodes; pure but for the options' checks.

    Args:
        recipe: What to make.
        probe: What a first look at the pixels showed.
        sizes: (episode_index, num_frames) of all sound episodes.
        bad: Episodes that the audit left out.

    Returns:
        The layout, without the digest of a plan file.

    Raises:
        DataError: something is bad and the job fails on errors, or nothing is left.
        UsageError: episodes are selected that are not there.
    """
    options = recipe.options
    gaps = _find_gaps(options.episodes, sorted([index for index, _ in sizes] + [part.episode_index for part in bad]))
    if options.on_error == "fail" and (bad or gaps):
        found = sorted([*bad, *gaps], key=lambda part: part.episode_index)
        raise DataError(
            f"{len(found)} episodes of the source cannot be used:\n{describe_lost(found)}\n"
            "Mend the source, leave them out with --episodes, or give --on-error=quarantine to go on without them."
        )
    rule = choose_rule(recipe, probe)
    frame_bytes = sum(camera.frame_bytes for camera in probe.cameras)
    anchor_bytes = frame_bytes + row_bytes_per_anchor(recipe, rule.anchors_per_sample)
    by_split = {
        split: plan_groups(
            (size for size in sizes if recipe.split_of(size[0]) == split),
            rule,
            anchors_per_shard=max(1, options.shard_bytes // anchor_bytes),
            min_shards=options.min_shards or DEFAULT_MIN_SHARDS,
        )
        for split in SPLITS
    }
    if not any(by_split.values()):
        reasons = f":\n{describe_lost(bad)}" if bad else "."
        raise DataError(
            f"There is nothing to write: none of {len(sizes) + len(bad)} episodes has an anchor and is sound{reasons} "
            "Ask for more --episodes, or for a smaller --drop-last-frames."
        )
    return Layout(
        plan_digest="",
        rule=rule,
        cameras=probe.cameras,
        has_runs=rule.anchors_per_sample > 1 or any(len(deltas) > 1 for deltas in recipe.camera_deltas.values()),
        groups={split: groups for split, groups in by_split.items() if groups},
        gaps=tuple(gaps),
    )


def plan_content(recipe: Recipe, probe: Probe, layout: Layout, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What plan.json says: plain JSON, the same for the same input and options."""
    return {
        "format_version": FORMAT_VERSION,
        "options": recipe.content_options(),
        "versions": dict(probe.versions),
        "source": {**recipe.source.summary(), "episodes": len(sizes), "frames": sum(frames for _, frames in sizes)},
        "probe": probe.to_json(),
        "cutting": asdict(layout.rule),
        "splits": {split: _split_content(groups) for split, groups in layout.groups.items()},
    }


def _split_content(groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "episodes": sum(group.num_episodes for group in groups),
        "anchors": sum(group.num_anchors for group in groups),
        "shards": sum(group.num_shards for group in groups),
        "groups": [list(asdict(group).values()) for group in groups],
    }


def _find_gaps(selection: str | None, indices: Sequence[int]) -> list[Quarantine]:
    """Episode numbers that should be there: they count up from 0, or from where a selected range begins."""
    gaps = []
    for start, stop in parse_episodes(selection) or ((0, None),):
        inside = [index - start for index in indices if is_selected(index, ((start, stop),))]
        if selection is not None and not inside:
            raise UsageError(
                f"--episodes {selection}: there is no episode {start}{'' if stop == start + 1 else ' or later'} "
                "in that range; `predecode inspect` or meta/info.json say how many there are."
            )
        gaps += [(start + low, start + high) for low, high in find_missing(inside)]
    return [
        Quarantine(
            low,
            0,
            0,
            f"Episode numbers must count up without gaps: {low}{f' to {high - 1}' if high - low > 1 else ''} "
            f"{'are' if high - low > 1 else 'is'} neither in the data files nor in the metadata.",
        )
        for low, high in gaps
    ]


class _PlanLayout(beam.DoFn):
    @ends_quietly
    def process(
        self,
        probe: Probe,
        recipe: Recipe,
        sizes: Iterable[tuple[int, int]],
        bad: Iterable[Quarantine],
    ) -> Iterator[Layout]:
        """One probe in, one layout out; plan.json is written on the way."""
        ordered, bad = sorted(sizes), list(bad)
        for part in bad:
            if part.episode_index == UNREADABLE:
                raise SourceError(part.reason)
        layout = plan_layout(recipe, probe, ordered, sorted(bad, key=lambda part: part.episode_index))
        plan = plan_content(recipe, probe, layout, ordered)
        output, options = recipe.output, recipe.options
        finish_extension(output)  # Of a run that was killed.
        staged = publish_grown_plan(output, plan) if options.extend else None
        overwrite = options.overwrite or options.extend
        digest = staged or publish_plan(output, plan, overwrite=overwrite)
        yield layout.written_down(digest, is_extension=staged is not None)


@dataclass(kw_only=True)
class PlanLayout(beam.PTransform[Any, Any]):
    """Plans the layout and publishes plan.json, or checks the one that is there.

    Attributes:
        recipe: Side input: what to make.
        sizes: Side input: (episode_index, num_frames) of all sound episodes.
        quarantine: Side input: episodes that the audit left out.
    """

    recipe: Any
    sizes: Any
    quarantine: Any

    def expand(self, probe: beam.PCollection[Probe]) -> beam.PCollection[Layout]:
        """One probe in, one layout out."""
        return probe | "Plan" >> beam.ParDo(
            _PlanLayout(),
            beam.pvalue.AsSingleton(self.recipe),
            beam.pvalue.AsIter(self.sizes),
            beam.pvalue.AsIter(self.quarantine),
        ).with_output_types(Layout)
