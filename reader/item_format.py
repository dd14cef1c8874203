"""What a manifest says of items: their keys, dtypes and windows, and which members a sample has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predecode.transforms.errors import FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import DATA_MEMBER, FRAMES_EXTENSION, JSON_MEMBER


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
            return cls(
                features=tuple(
                    StoredFeature(name, Kind(spec["kind"]), str(spec["dtype"]), tuple(map(int, spec["shape"])))
                    for name, spec in manifest["features"].items()
                ),
                text_features=tuple(manifest["text_features"]),
                item_keys=tuple(manifest["item_keys"]),
                delta_indices={name: tuple(map(int, deltas)) for name, deltas in manifest["delta_indices"]},
                fps=float(manifest["fps"]),
                anchor_stride=int(manifest["anchor_stride"]),
                anchors_per_sample=int(manifest["anchors_per_sample"]),
                has_runs=bool(manifest["has_runs"]),
                image_codec=str(manifest["image"]["image_codec"]),
                extension=str(manifest["image"]["extension"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"The manifest does not describe items as format version 1 does: {error!r:.200}. "
                "Was it written by another version of predecode?"
            ) from error

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
