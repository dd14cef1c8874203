"""What a manifest says of items: their keys, dtypes and windows, and which members a sample has.

A manifest may be made up. What it says is checked here once, so that nothing that is computed from it can fail, leave
the output, or ask for more memory than an item may need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predecode.transforms.errors import FormatError
from predecode.transforms.features import MAX_DIMENSIONS, MAX_ELEMENTS, Kind, check_name
from predecode.transforms.format import DATA_MEMBER, FRAMES_EXTENSION, JSON_MEMBER
from predecode.transforms.images import MAX_PIXELS, image_codec
from predecode.transforms.windows import MAX_DELTA_FRAMES, MAX_DELTAS

MAX_ITEM_BYTES = 1 << 32
"""A small sample can declare a huge item, since a window may show one value many times."""

_MAX_COUNT = 1 << 31
_NUMBER_DTYPES = ("float32", "int64", "bool")


@dataclass(frozen=True, slots=True)
class StoredFeature:
    """One feature as it is stored.

    Attributes:
        name: As in the source.
        kind: How its values are stored.
        dtype: numpy name of what an item holds; "uint8" for stored frames, "string" for text.
        shape: Of one value: () for scalars; (H, W, C) for cameras.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_camera(self) -> bool:
        """Whether its values are images."""
        return self.kind in (Kind.VIDEO, Kind.IMAGE)


@dataclass(frozen=True, slots=True)
class ItemFormat:
    """What must be known of an output to give items back; the same for all of its samples.

    Attributes:
        features: In the source's order.
        text_features: Strings of an item, the task's included.
        item_keys: Keys of an item, in order.
        delta_indices: Per windowed feature its deltas in frames, in the order of the masks.
        fps: Frames per second.
        anchor_stride: Frames from one anchor of a sample to the next.
        anchors_per_sample: Anchors of every sample but the last of a segment.
        has_runs: Whether a camera's frames are one `frames` member; else one image.
        image_codec: Of the frames.
        extension: Of a member that is one image.
    """

    features: tuple[StoredFeature, ...]
    text_features: tuple[str, ...]
    item_keys: tuple[str, ...]
    delta_indices: Mapping[str, tuple[int, ...]]
    fps: float
    anchor_stride: int
    anchors_per_sample: int
    has_runs: bool
    image_codec: str
    extension: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ItemFormat:
        """From the content of a manifest.

        Raises:
            FormatError: the manifest lacks something.
        """
        try:
            found = cls(
                features=tuple(_stored_feature(name, spec) for name, spec in manifest["features"].items()),
                text_features=tuple(manifest["text_features"]),
                item_keys=tuple(manifest["item_keys"]),
                delta_indices=_delta_indices(manifest["delta_indices"]),
                fps=float(manifest["fps"]),
                anchor_stride=manifest["anchor_stride"],
                anchors_per_sample=manifest["anchors_per_sample"],
                has_runs=manifest["has_runs"],
                image_codec=manifest["image"]["image_codec"],
                extension=manifest["image"]["extension"],
            )
            found._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(
                f"The manifest does not describe items as format version 1 does: {error!r:.200}. "
                "Was it written by another version of predecode?"
            ) from error
        return found

    def _check(self) -> None:
        """What one field says must fit what the others say."""
        _require(math.isfinite(self.fps) and self.fps > 0, "frames per second", self.fps)
        for count in (self.anchor_stride, self.anchors_per_sample):
            _require(_is_whole(count, 1, _MAX_COUNT), "a count of anchors or frames", count)
        _require(type(self.has_runs) is bool, "has_runs as true or false", self.has_runs)
        for name in self.text_features:
            check_name(name, "text_features")
        known = image_codec(self.image_codec).extension
        _require(self.extension == known, f"the extension {known}", self.extension)
        stacked = {feature.name: feature for feature in self.features if feature.kind is not Kind.STRING}
        _require(self.delta_indices.keys() <= stacked.keys(), "windows of features", list(self.delta_indices))
        single = self.anchors_per_sample == 1 and all(
            len(self.delta_indices.get(camera.name, (0,))) == 1 for camera in self.cameras
        )
        _require(self.has_runs or single, "has_runs for samples of several frames", self.has_runs)
        keys = [*stacked, *(f"{name}_is_pad" for name in self.delta_indices), *self.text_features]
        _require(sorted(keys) == sorted(set(self.item_keys)), "each key of an item once", self.item_keys)
        _require(len(keys) == len(self.item_keys), "each key of an item once", self.item_keys)
        item_bytes = sum(
            math.prod(feature.shape) * len(self.delta_indices.get(name, (0,))) * (4 if feature.is_camera else 8)
            for name, feature in stacked.items()
        )
        _require(item_bytes <= MAX_ITEM_BYTES, f"an item of at most {MAX_ITEM_BYTES} bytes", item_bytes)

    @property
    def cameras(self) -> tuple[StoredFeature, ...]:
        """Video and image features, in order."""
        return tuple(feature for feature in self.features if feature.is_camera)

    @property
    def numbers(self) -> tuple[StoredFeature, ...]:
        """Number features, in order."""
        return tuple(feature for feature in self.features if feature.kind is Kind.NUMBER)

    @property
    def members(self) -> tuple[str, ...]:
        """The extensions that every sample has."""
        return (JSON_MEMBER, DATA_MEMBER, *(self.camera_member(camera.name) for camera in self.cameras))

    def camera_member(self, camera: str) -> str:
        """The extension of the member that holds a camera's frames."""
        return f"{camera}.{FRAMES_EXTENSION if self.has_runs else self.extension}"


def _stored_feature(name: str, spec: Mapping[str, Any]) -> StoredFeature:
    check_name(name, "features")
    feature = StoredFeature(name, Kind(spec["kind"]), spec["dtype"], tuple(spec["shape"]))
    _require(
        len(feature.shape) <= MAX_DIMENSIONS and all(_is_whole(size, 1, MAX_ELEMENTS) for size in feature.shape),
        f"the shape of {name}",
        feature.shape,
    )
    if feature.is_camera:
        height, width, channels = feature.shape
        _require(height * width <= MAX_PIXELS and channels in (1, 3, 4), f"an image {name}", feature.shape)
        _require(feature.dtype == "uint8", f"{name} as uint8", feature.dtype)
    elif feature.kind is Kind.NUMBER:
        _require(math.prod(feature.shape) <= MAX_ELEMENTS, f"the shape of {name}", feature.shape)
        _require(feature.dtype in _NUMBER_DTYPES, f"{name} as one of {_NUMBER_DTYPES}", feature.dtype)
    return feature


def _delta_indices(content: list[Any]) -> dict[str, tuple[int, ...]]:
    found = {name: tuple(deltas) for name, deltas in content}
    _require(len(found) == len(content), "one window of each feature", [name for name, _ in content])
    for name, deltas in found.items():
        sound = all(_is_whole(delta, -MAX_DELTA_FRAMES, MAX_DELTA_FRAMES) for delta in deltas)
        _require(sound and 1 <= len(deltas) <= MAX_DELTAS, f"deltas of {name}", deltas)
    return found


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _require(condition: bool, expected: str, got: object) -> None:  # noqa: FBT001 - As `assert`.
    if not condition:
        raise ValueError(f"expected {expected}, got {got!r:.80}")
