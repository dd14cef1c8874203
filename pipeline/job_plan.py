"""The planning steps of the job, without Beam and without an output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from predecode.transforms.assemble import assemble_episode
from predecode.transforms.decoder_library import check_decoder
from predecode.transforms.episodes import Episode, EpisodeMetadata, FrameRun, Quarantine
from predecode.transforms.features import Kind
from predecode.transforms.layout import Layout
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.plan_layout import plan_layout
from predecode.transforms.plan_shards import GroupKey
from predecode.transforms.probe import CANDIDATE_EPISODES, Probe, probe_source
from predecode.transforms.read_source import read_episode_metadata, read_frame_runs
from predecode.transforms.recipe import Recipe, open_recipe
from predecode.transforms.shards import Segment, deal_segments, files_of
from predecode.transforms.windows import count_anchors

_FILES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Shard:
    """What one shard would hold.

    Attributes:
        split: "train" or "val".
        number: Within the split.
        segments: Those whose files are all there.
        num_anchors: Of these.
    """

    split: str
    number: int
    segments: tuple[Segment, ...]
    num_anchors: int


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What the planning steps find.

    Attributes:
        recipe: What to make.
        probe: What a first look at the pixels showed.
        layout: Groups and numbers of shards.
        episodes: The sound ones, by number, ascending.
        file_sizes: Bytes of every file of these; None where it is missing.
        dealt: Per group the segments of each of its shards.
        lost: Episodes with a file that is missing, which the job only finds when it opens it.
        left_out: All that would be quarantined, these too.
    """

    recipe: Recipe
    probe: Probe
    layout: Layout
    episodes: Mapping[int, Episode]
    file_sizes: Mapping[str, int | None]
    dealt: Mapping[GroupKey, Sequence[tuple[Segment, ...]]]
    lost: Sequence[Quarantine]
    left_out: Sequence[Quarantine]

    def shards(self) -> Iterator[Shard]:
        """Every shard, by split and number."""
        lost = {part.episode_index for part in self.lost}
        for (split, group), dealt in self.dealt.items():
            for number, segments in enumerate(dealt, start=self.layout.groups[split][group].first_shard):
                kept = tuple(segment for segment in segments if segment.episode_index not in lost)
                yield Shard(split, number, kept, sum(segment.num_anchors for segment in kept))


def plan_job(options: MaterializeOptions) -> JobPlan:
    """Runs the planning steps of a job.

    Args:
        options: Of the job. What fails it on errors is listed in any case.

    Raises:
        PredecodeError: the source or the options cannot be used, or nothing of the source is sound.
    """
    recipe = open_recipe(replace(options, on_error="quarantine"))
    if any(camera.kind is Kind.VIDEO for camera in recipe.cameras):
        check_decoder()
    episodes, bad = find_episodes(recipe)
    probe = probe_source(recipe, list(islice(episodes.values(), CANDIDATE_EPISODES)))
    layout = plan_layout(recipe, probe, [(index, episode.num_frames) for index, episode in episodes.items()], bad)
    paths = sorted({path for episode in episodes.values() for path in files_of(episode)})
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        file_sizes = dict(zip(paths, pool.map(recipe.source.file_size, paths), strict=True))
    lost = list(_find_lost(layout, episodes, {path for path, size_bytes in file_sizes.items() if size_bytes is None}))
    dealt = _deal(recipe, layout, episodes)
    return JobPlan(recipe, probe, layout, episodes, file_sizes, dealt, lost, [*bad, *layout.gaps, *lost])


def find_episodes(recipe: Recipe) -> tuple[dict[int, Episode], list[Quarantine]]:
    """The episodes of the source by number, ascending, and those that the audit leaves out.

    Raises:
        SourceError: a file of rows or metadata cannot be read.
    """
    parts: dict[int, list[FrameRun | EpisodeMetadata]] = defaultdict(list)
    for path in recipe.source.data_files():
        for index, run in read_frame_runs(path, recipe):
            parts[index].append(run)
    for path in recipe.source.metadata_files():
        for index, entry in read_episode_metadata(path, recipe):
            parts[index].append(entry)
    episodes, bad = {}, []
    options = recipe.options
    for index in sorted(parts):
        found = parts.pop(index)
        assembled = assemble_episode(index, found)
        if isinstance(assembled, Episode):
            episodes[index] = assembled
            continue
        num_rows = sum(part.num_frames for part in found if isinstance(part, FrameRun))
        anchors = count_anchors(num_rows, stride=options.anchor_stride, drop_last=options.drop_last_frames)
        bad.append(Quarantine(index, 0, anchors, assembled))
    return episodes, bad


def _find_lost(layout: Layout, episodes: Mapping[int, Episode], missing: set[str]) -> Iterator[Quarantine]:
    for episode in episodes.values() if missing else ():
        if path := next((path for path in files_of(episode) if path in missing), None):
            anchors = layout.rule.count_anchors(episode.num_frames)
            yield Quarantine(episode.index, 0, anchors, f"{path}: there is no such file. Is the download complete?")


def _deal(
    recipe: Recipe, layout: Layout, episodes: Mapping[int, Episode]
) -> dict[GroupKey, Sequence[tuple[Segment, ...]]]:
    members: dict[GroupKey, list[tuple[int, int]]] = defaultdict(list)
    for index, episode in episodes.items():
        if layout.rule.count_anchors(episode.num_frames):
            split = recipe.split_of(index)
            members[split, layout.group_of(split, index)].append((index, episode.num_frames))
    return {
        (split, group): deal_segments(
            sizes, layout.rule, num_shards=layout.groups[split][group].num_shards, seed=recipe.options.seed
        )
        for (split, group), sizes in sorted(members.items())
    }
