"""What is to be made of which source: the options resolved against the opened dataset, once, for every step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from predecode.transforms.errors import UsageError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.layout import split_of
from predecode.transforms.options import MaterializeOptions, parse_episodes
from predecode.transforms.sources.base import Source
from predecode.transforms.sources.opening import open_source
from predecode.transforms.storage import Folder
from predecode.transforms.windows import resolve_deltas

_SAMPLE_KEYS = ("anchors",)
"""Keys of a sample's JSON member that a string feature must not take."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The source, the options and the windows in frames; a side input of every step.

    Attributes:
        options: As asked for.
        source: The opened dataset.
        deltas: Per windowed feature its offsets in frames, in the order asked for, which is the order of the masks.
        job_id: Names the job that runs elsewhere, in what its workers record for the client; "" where it runs here.
    """

    options: MaterializeOptions
    source: Source
    deltas: dict[str, tuple[int, ...]]
    job_id: str = ""

    @property
    def output(self) -> Folder:
        """Where shards go."""
        return Folder.of(self.options.output, json.loads(self.options.storage_options_json))

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """Video and image features, in feature order."""
        return tuple(feature for feature in self.source.features if feature.is_camera)

    @property
    def numbers(self) -> tuple[Feature, ...]:
        """Number features, in feature order."""
        return tuple(feature for feature in self.source.features if feature.kind is Kind.NUMBER)

    @property
    def camera_deltas(self) -> dict[str, tuple[int, ...]]:
        """Per camera the deltas of its window; (0,), the anchor's own frame, where none was asked for."""
        return {camera.name: self.deltas.get(camera.name, (0,)) for camera in self.cameras}

    @property
    def item_keys(self) -> tuple[str, ...]:
        """The keys of an item in lerobot's order: videos, columns, masks, task strings."""
        features = self.source.features
        videos = [feature.name for feature in features if feature.kind is Kind.VIDEO]
        columns = [feature.name for feature in features if feature.kind is not Kind.VIDEO]
        masks = [f"{name}_is_pad" for name in self.deltas]
        extra = [name for name in self.source.text_features if name not in columns]
        return (*videos, *columns, *masks, *extra)

    @property
    def is_whole_source(self) -> bool:
        """Whether the train split has every frame of every episode as an anchor, nothing quarantined."""
        options = self.options
        return (
            options.episodes is None
            and options.anchor_stride == 1
            and options.drop_last_frames == 0
            and options.validation_fraction == 0
        )

    def split_of(self, episode_index: int) -> str:
        """The split that an episode belongs to."""
        options = self.options
        return split_of(episode_index, validation_fraction=options.validation_fraction, seed=options.seed)

    def content_options(self) -> dict[str, Any]:
        """The options that decide what is in the output, as plain JSON: part of plan.json."""
        options = self.options
        return {
            "delta_indices": [[name, list(deltas)] for name, deltas in self.deltas.items()],
            "exclude_features": sorted(options.exclude_features),
            "episodes": options.episodes and [list(part) for part in parse_episodes(options.episodes) or ()],
            "tolerance_s": options.tolerance_s,
            **self.pixel_options(),
            "shard_bytes": options.shard_bytes,
            "min_shards": options.min_shards,
            "anchor_stride": options.anchor_stride,
            "drop_last_frames": options.drop_last_frames,
            "anchors_per_sample": options.anchors_per_sample,
            "validation_fraction": options.validation_fraction,
            "seed": options.seed,
        }

    def pixel_options(self) -> dict[str, Any]:
        """The options that decide the bytes of a stored frame."""
        options = self.options
        return {
            "image_size": list(options.image_size) if options.image_size else None,
            "resize_mode": options.resize_mode if options.image_size else None,
            "image_codec": options.image_codec,
            "jpeg_quality": options.jpeg_quality if options.image_codec == "jpeg" else None,
        }


def open_recipe(options: MaterializeOptions, job_id: str = "") -> Recipe:
    """Opens the source and resolves the options against it.

    Args:
        options: As asked for.
        job_id: Of a job that runs elsewhere.

    Raises:
        SourceError: the source cannot be used.
        UsageError: an option names what is not there.
    """
    storage_options = json.loads(options.storage_options_json)
    Folder.of(options.output, storage_options).check_writable()
    folder = Folder.of(options.source, storage_options)
    source = open_source(
        folder,
        excluded=frozenset(options.exclude_features),
        renames=dict(options.rename),
        fps=options.fps,
        task=options.task,
    )
    deltas = resolve_deltas(
        dict(options.delta_timestamps),
        dict(options.delta_indices),
        source.features,
        fps=source.fps,
        tolerance_s=options.tolerance_s,
    )
    for name in set(source.text_features) & set(_SAMPLE_KEYS):
        raise UsageError(
            f"The string feature {name!r} has the name of a field of every sample. Leave it out: "
            f"--exclude-features {name}."
        )
    return Recipe(options, source, deltas, job_id)
