"""What of a planned job is in its output already."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from predecode.pipeline.job_plan import JobPlan
from predecode.transforms.commits import find_commit
from predecode.transforms.plan_file import describe_mismatch, plan_bytes, read_plan
from predecode.transforms.plan_layout import plan_content
from predecode.transforms.plan_shards import shard_content
from predecode.transforms.shards import ShardPlan, files_of, plan_shards
from predecode.transforms.staging import staging_of

_READERS = 16


def find_kept(plan: JobPlan) -> frozenset[tuple[str, int]]:
    """Split and number of the shards that the output has, written from the same plan; none where it has no plan at all.

    Raises:
        OSError: storage fails.
    """
    output = plan.recipe.output
    if read_plan(output) is None:
        return frozenset()
    places = (output, staging_of(output))

    def is_there(shard: ShardPlan) -> bool:
        commit = find_commit(places, shard.split, shard.number, shard.plan_hash)
        return commit is not None and not (plan.recipe.options.extend and commit[1].lost)  # Those are tried again.

    with ThreadPoolExecutor(_READERS) as pool:
        shards = list(_shard_plans(plan))
        found = zip(shards, pool.map(is_there, shards), strict=True)
        return frozenset((shard.split, shard.number) for shard, there in found if there)


def find_difference(plan: JobPlan) -> str:
    """How the plan that the output has differs from this one, and what to do; "" where it has none or the same.

    Raises:
        OSError: storage fails.
    """
    existing = read_plan(plan.recipe.output)
    sizes = [(index, episode.num_frames) for index, episode in plan.episodes.items()]
    content = plan_content(plan.recipe, plan.probe, plan.layout, sizes)
    if existing is None or existing.get("digest") == plan_bytes(content)[0]:
        return ""
    return describe_mismatch(plan.recipe.output, existing, content)


def _shard_plans(plan: JobPlan) -> Iterator[ShardPlan]:
    content = shard_content(plan.recipe, plan.probe, plan.layout)
    for (split, number), dealt in plan.dealt.items():
        touched = {segment.episode_index for segments in dealt for segment in segments}
        episodes = {index: plan.episodes[index] for index in sorted(touched)}
        paths = {path for episode in episodes.values() for path in files_of(episode)}
        yield from plan_shards(
            split,
            plan.layout.groups[split][number].first_shard,
            dealt,
            episodes,
            file_sizes={path: plan.file_sizes[path] for path in sorted(paths)},
            content=content,
        )
