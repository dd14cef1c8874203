"""The last step: everything reconciled, then the manifest, whose presence says that the output is complete."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam

from predecode.transforms.commits import describe_lost
from predecode.transforms.episodes import Episode, Quarantine
from predecode.transforms.errors import DataError, FidelityError, OutputError
from predecode.transforms.failure_record import ends_quietly
from predecode.transforms.fidelity import CameraMeter
from predecode.transforms.format import (
    CARD_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    PLAN_FILE,
    QUARANTINE_FILE,
    commit_file,
    index_file,
    order_file,
    shard_table_file,
    tar_file,
)
from predecode.transforms.hashing import canonical_json
from predecode.transforms.images import image_codec
from predecode.transforms.layout import TRAIN, Layout
from predecode.transforms.manifest import manifest_bytes
from predecode.transforms.materialize_shards import ShardCommit
from predecode.transforms.output_metadata import EpisodeEntry, dataset_card, metadata_files
from predecode.transforms.recipe import Recipe
from predecode.transforms.shard_writer import Written, write_bytes, write_table
from predecode.transforms.staging import publish_extension, remove_strays, shard_places, staging_of, target_of
from predecode.transforms.statistics import image_statistics
from predecode.transforms.storage import Folder
from predecode.transforms.tally import SplitTally, tally_split


def commit_manifest(
    recipe: Recipe,
    layout: Layout,
    commits: Iterable[ShardCommit],
    episodes: Iterable[tuple[int, tuple[str, ...]]],
    bad: Sequence[Quarantine],
) -> dict[str, Any]:
    """Reconciles the counts, checks fidelity and writes all that describes the output; the manifest last.

    Args:
        recipe: What was made.
        layout: How it was laid out.
        commits: Of every shard.
        episodes: (episode_index, tasks) of all sound episodes.
        bad: Episodes that the audit left out.

    Returns:
        The content of the manifest.

    Raises:
        OutputError: a shard is missing, or storage fails.
        DataError: nothing is left, or anchors are unaccounted for.
        FidelityError: encoding lost more than allowed.
    """
    output = recipe.output
    hashes: dict[str, dict[int, str]] = {split: {} for split in layout.groups}
    for commit in commits:
        hashes[commit.split][commit.number] = commit.plan_hash
    for split, found in hashes.items():
        if missing := sorted(set(range(layout.num_shards(split))) - found.keys()):
            raise OutputError(
                f"{output}, split {split}: the runner lost the plans of the shards {missing[:10]}: expected "
                f"{layout.num_shards(split)}, got {len(found)}. Run the same command again; if it stays so, choose "
                "another runner."
            )
    places = shard_places(output, layout)
    tallies = {split: tally_split(places, split, hashes[split]) for split in layout.groups}
    left_out = sorted([*bad, *layout.gaps], key=lambda part: part.episode_index)
    counts = _reconcile(recipe, layout, tallies, left_out)
    cameras = _merged_cameras(tallies)
    _check_fidelity(cameras, recipe)
    entries = _episode_entries(tallies, dict(episodes))
    lost = [part for tally in tallies.values() for part in tally.lost]
    files = dict(_write_descriptions(recipe, layout, tallies, entries, [*left_out, *lost]))
    content = {
        "format_version": FORMAT_VERSION,
        "plan": layout.plan_digest,
        **_window_content(recipe, layout),
        "splits": {
            split: {
                **counts[split],
                "episodes": sum(entry.split == split for entry in entries),
                "samples": tally.num_samples,
                "shards": len(tally.shards),
                "tar_bytes": tally.tar_bytes,
            }
            for split, tally in tallies.items()
        },
        "frames": {name: _frame_content(meter) for name, meter in cameras.items()},
        "files": files,
    }
    if layout.is_extension:
        publish_extension(output, content, {PLAN_FILE, *files, *_staged_shards(output, tallies)})
    else:
        remove_strays(output, content)
        output.publish(MANIFEST_FILE, manifest_bytes(content))
    return content


def _staged_shards(output: Folder, tallies: Mapping[str, SplitTally]) -> Iterator[str]:
    """Names of the files of all shards that an extension has written."""
    for split, tally in tallies.items():
        for number, place in enumerate(tally.places):
            if place == staging_of(output):
                yield from (name(split, number) for name in (tar_file, index_file, commit_file))


def _reconcile(
    recipe: Recipe, layout: Layout, tallies: Mapping[str, SplitTally], left_out: Sequence[Quarantine]
) -> dict[str, dict[str, int]]:
    """Counts per split; raises where an anchor is neither in the output nor quarantined, or all are quarantined."""
    counts = {}
    for split, tally in tallies.items():
        lost = sum(part.num_anchors for part in tally.lost)
        planned = layout.num_anchors(split)
        if planned != tally.num_anchors + lost:
            raise OutputError(
                f"{recipe.output}, split {split}: {planned} anchors were planned, {tally.num_anchors} written and "
                f"{lost} quarantined: some are unaccounted for. Remove the output and run again; please report this."
            )
        audited = sum(part.num_anchors for part in left_out if recipe.split_of(part.episode_index) == split)
        counts[split] = {"anchors": tally.num_anchors, "anchors_quarantined": lost + audited}
    if not any(count["anchors"] for count in counts.values()):
        everything = [part for tally in tallies.values() for part in tally.lost]
        raise DataError(f"Nothing is left: every anchor was quarantined.\n{describe_lost(everything)}")
    return counts


def _merged_cameras(tallies: Mapping[str, SplitTally]) -> dict[str, CameraMeter]:
    merged: dict[str, CameraMeter] = {}
    for tally in tallies.values():
        for name, meter in tally.cameras.items():
            merged.setdefault(name, CameraMeter()).add(meter)
    return merged


def _check_fidelity(cameras: Mapping[str, CameraMeter], recipe: Recipe) -> None:
    limit = recipe.options.min_psnr_db
    for name, meter in cameras.items():
        if meter.psnr_db is not None and meter.psnr_db < limit:
            raise FidelityError(
                f"{name}: encoding as {recipe.options.image_codec} leaves {meter.psnr_db:.1f} dB, expected at least "
                f"{limit:g} dB. Raise --jpeg-quality, choose a lossless --image-codec, or lower --min-psnr-db: the "
                "shards are kept, and lowering the limit encodes nothing again."
            )


def _episode_entries(tallies: Mapping[str, SplitTally], tasks: Mapping[int, tuple[str, ...]]) -> list[EpisodeEntry]:
    entries = []
    for split, tally in tallies.items():
        first_item = 0
        for index, num_anchors in tally.anchors_per_episode().items():
            entries.append(EpisodeEntry(index, split, tasks[index], first_item, num_anchors))
            first_item += num_anchors
    return sorted(entries, key=lambda entry: entry.index)


def _write_descriptions(
    recipe: Recipe,
    layout: Layout,
    tallies: Mapping[str, SplitTally],
    entries: Sequence[EpisodeEntry],
    left_out: Sequence[Quarantine],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes every file but shards, plan and manifest; yields names with size and checksum."""
    output = target_of(recipe.output, layout)

    def described(name: str, written: Written) -> tuple[str, dict[str, Any]]:
        return name, asdict(written)

    for split, tally in tallies.items():
        yield described(order_file(split), write_table(output, order_file(split), tally.order_table()))
        yield described(shard_table_file(split), write_table(output, shard_table_file(split), tally.shard_table()))
    stats = _statistics(recipe, layout, tallies)
    for name, content in metadata_files(recipe, layout.cameras, entries, stats):
        yield described(name, write_bytes(output, name, content))
    yield described(CARD_FILE, write_bytes(output, CARD_FILE, dataset_card(list(tallies))))
    if left_out:
        lines = b"".join(canonical_json(asdict(part)) + b"\n" for part in left_out)
        yield described(QUARANTINE_FILE, write_bytes(output, QUARANTINE_FILE, lines))


def _statistics(recipe: Recipe, layout: Layout, tallies: Mapping[str, SplitTally]) -> dict[str, Any]:
    """The source's own statistics where they still hold, else those of the train split's anchors and frames."""
    source_stats = recipe.source.stats()
    whole = recipe.is_whole_source and not any(tally.lost for tally in tallies.values())
    if TRAIN not in tallies:
        return source_stats or {}
    tally = tallies[TRAIN]
    stats = tally.rows.entries()
    stats |= {name: image_statistics(meter) for name, meter in tally.cameras.items() if meter.num_sampled}
    if whole and source_stats:
        resized = {camera.name for camera in layout.cameras} if recipe.options.image_size else set()
        stats |= {name: entry for name, entry in source_stats.items() if name not in resized}
    return stats


def _window_content(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """What a reader must know to give items back."""
    options = recipe.options
    stored = {camera.name: [camera.height, camera.width, camera.channels] for camera in layout.cameras}
    codec = image_codec(options.image_codec, jpeg_quality=options.jpeg_quality)
    return {
        "fps": recipe.source.fps,
        "features": {
            feature.name: {
                "kind": str(feature.kind),
                "dtype": "uint8" if feature.is_camera else feature.item_dtype or "string",
                "shape": stored.get(feature.name, list(feature.item_shape)),
            }
            for feature in recipe.source.features
        },
        "text_features": list(recipe.source.text_features),
        "item_keys": list(recipe.item_keys),
        "delta_indices": [[name, list(deltas)] for name, deltas in recipe.deltas.items()],
        "anchor_stride": layout.rule.stride,
        "drop_last_frames": layout.rule.drop_last,
        "anchors_per_sample": layout.rule.anchors_per_sample,
        "has_runs": layout.has_runs,
        "image": {**recipe.pixel_options(), "extension": codec.extension, "lossless": codec.lossless},
    }


def _frame_content(meter: CameraMeter) -> dict[str, Any]:
    """Frames of one camera: PSNR is null where nothing was lost or nothing compared."""
    psnr_db = meter.psnr_db
    finite = psnr_db is not None and math.isfinite(psnr_db)
    return {
        "stored": meter.num_frames,
        "compared": meter.num_sampled,
        "squared_error": meter.squared_error,
        "values": meter.num_values,
        "psnr_db": round(psnr_db, 3) if finite and psnr_db is not None else None,
    }


class _CommitManifest(beam.DoFn):
    @ends_quietly
    def process(
        self,
        _: int,
        recipe: Recipe,
        layout: Layout,
        commits: Iterable[ShardCommit],
        episodes: Iterable[tuple[int, tuple[str, ...]]],
        bad: Iterable[Quarantine],
    ) -> Iterator[dict[str, Any]]:
        """Runs once, when every shard is committed."""
        yield commit_manifest(recipe, layout, commits, episodes, list(bad))


@dataclass(kw_only=True)
class CommitManifest(beam.PTransform[Any, Any]):
    """Completes the output.

    It hangs on a constant, with all else as side inputs: a step behind an empty collection would never run.

    Attributes:
        recipe: Side input: what was made.
        layout: Side input: how it was laid out.
        episodes: Side input: the sound episodes.
        quarantine: Side input: episodes that the audit left out.
    """

    recipe: Any
    layout: Any
    episodes: Any
    quarantine: Any

    def expand(self, commits: beam.PCollection[ShardCommit]) -> beam.PCollection[dict[str, Any]]:
        """Commits in, the manifest's content out."""
        episodes = self.episodes | "Tasks" >> beam.Map(_index_and_tasks)
        return (
            commits.pipeline
            | "Once" >> beam.Create([0])
            | "Commit"
            >> beam.ParDo(
                _CommitManifest(),
                beam.pvalue.AsSingleton(self.recipe),
                beam.pvalue.AsSingleton(self.layout, default_value=None),
                beam.pvalue.AsIter(commits),
                beam.pvalue.AsIter(episodes),
                beam.pvalue.AsIter(self.quarantine),
            ).with_output_types(dict[str, Any])
        )


def _index_and_tasks(episode: Episode) -> tuple[int, tuple[str, ...]]:
    return episode.index, episode.tasks
