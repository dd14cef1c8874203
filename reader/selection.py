"""Which of the materialized windows are wanted: fewer features, fewer deltas, in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from predecode.reader.item_format import ItemFormat, StoredFeature
from predecode.transforms.errors import UsageError
from predecode.transforms.features import Feature, Kind
from predecode.transforms.windows import resolve_deltas


@dataclass(frozen=True, slots=True)
class FeatureWindow:
    """What an item shows of one feature.

    Attributes:
        feature: As stored.
        deltas: Wanted offsets in frames; None for the anchor's own value, without a mask.
        columns: Per wanted delta its column of the stored index. None where the anchor's own value is wanted and is not
            found through one.
        has_index: Whether its rows are found through an index that samples store.
    """

    feature: StoredFeature
    deltas: tuple[int, ...] | None
    columns: tuple[int, ...] | None
    has_index: bool

    @property
    def num_slots(self) -> int:
        """Values per item: 1 where there are no deltas."""
        return 1 if self.deltas is None else len(self.deltas)

    @property
    def has_mask(self) -> bool:
        """Whether items have a mask for it."""
        return self.deltas is not None

    @property
    def keeps_time(self) -> bool:
        """Whether items have an axis of deltas: lerobot drops it for the single delta of a video."""
        return self.deltas is not None and not (self.feature.kind is Kind.VIDEO and len(self.deltas) == 1)


@dataclass(frozen=True, slots=True)
class Selection:
    """What items show.

    Attributes:
        item_format: Of the output.
        windows: Cameras and numbers, by name, in the source's order.
        item_keys: Keys of an item, in lerobot's order.
        cameras: Windows of video and image features.
        numbers: Windows of number features.
    """

    item_format: ItemFormat
    windows: Mapping[str, FeatureWindow]
    item_keys: tuple[str, ...]
    cameras: tuple[FeatureWindow, ...] = field(init=False)
    numbers: tuple[FeatureWindow, ...] = field(init=False)

    def __post_init__(self) -> None:
        windows = self.windows.values()
        object.__setattr__(self, "cameras", tuple(window for window in windows if window.feature.is_camera))
        object.__setattr__(self, "numbers", tuple(window for window in windows if not window.feature.is_camera))


def select_windows(
    item_format: ItemFormat, delta_timestamps: Mapping[str, Sequence[float]] | None, *, tolerance_s: float = 1e-4
) -> Selection:
    """Chooses among the materialized windows.

    Args:
        item_format: Of the output.
        delta_timestamps: Per feature the wanted offsets in seconds, in the order of the masks; None for all that was
            materialized. A feature that is not named gives the anchor's own value.
        tolerance_s: How far an offset may be from a multiple of 1/fps.

    Raises:
        UsageError: a feature that is not there, or a delta that was not materialized; the message lists what there is.
    """
    if delta_timestamps is None:
        deltas: Mapping[str, tuple[int, ...]] = item_format.delta_indices
    else:
        features = [Feature(f.name, f.kind, f.dtype, f.shape) for f in item_format.features]
        deltas = resolve_deltas(delta_timestamps, {}, features, fps=item_format.fps, tolerance_s=tolerance_s)
    windows = {
        feature.name: _window(feature, item_format.delta_indices.get(feature.name), deltas.get(feature.name))
        for feature in item_format.features
        if feature.kind is not Kind.STRING
    }
    stored_masks = {f"{name}_is_pad" for name in item_format.delta_indices}
    before = [key for key in item_format.item_keys if key not in stored_masks]
    names = {feature.name for feature in item_format.features}
    columns = [key for key in before if key in names]
    texts = [key for key in before if key not in names]
    return Selection(item_format, windows, (*columns, *(f"{name}_is_pad" for name in deltas), *texts))


def _window(feature: StoredFeature, stored: tuple[int, ...] | None, wanted: tuple[int, ...] | None) -> FeatureWindow:
    if stored is None:
        if wanted is not None and set(wanted) != {0}:
            raise UsageError(
                f"{feature.name!r} was materialized without a window: only the delta 0 is there, not {list(wanted)}. "
                "Materialize again with the deltas you need."
            )
        return FeatureWindow(feature, wanted, None, has_index=False)
    if wanted is None:
        if feature.is_camera and 0 not in stored:
            raise UsageError(
                f"{feature.name!r} was materialized at the deltas {list(stored)} (frames): the anchor's own frame is "
                "not there. Name some of these deltas, or materialize again with 0 among them."
            )
        return FeatureWindow(feature, None, (stored.index(0),) if 0 in stored else None, has_index=True)
    if missing := sorted(set(wanted) - set(stored)):
        raise UsageError(
            f"{feature.name!r} was not materialized at the deltas {missing} (frames). There are: {list(stored)}."
        )
    return FeatureWindow(feature, wanted, tuple(stored.index(delta) for delta in wanted), has_index=True)
