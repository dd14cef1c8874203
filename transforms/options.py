"""What a user asks for: one frozen value that travels with the job."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from predecode.transforms.errors import UsageError
from predecode.transforms.images import IMAGE_CODECS
from predecode.transforms.resize import RESIZE_MODES

OnError = Literal["fail", "quarantine"]

MIN_IMAGE_SIDE, MAX_IMAGE_SIDE = 8, 8192

MAX_FPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeOptions:
    """The options of `predecode materialize`; the command line's defaults are these.

    Attributes:
        source: Local path or fsspec URL of a LeRobot dataset, or local path or tensorstore URL of a Zarr replay buffer.
        output: Local path or fsspec URL of the folder to write.
        delta_timestamps: Per feature the offsets of its window in seconds, in item order; excludes `delta_indices`.
        delta_indices: The same in frames.
        exclude_features: Features to leave out, whatever they are, by their names in the source.
        rename: Pairs of a feature's name in the source and its name in items, which all other options use.
        fps: Frames per second, of a source that does not know: a Zarr replay buffer.
        task: The task string of every frame, of a source that has none; None for "".
        episodes: Which episodes, as `0:10,12,15:`; None for all.
        tolerance_s: How far a delta may be from a multiple of 1/fps, and a frame from its row's timestamp.
        image_size: Stored (height, width); None for the source's.
        resize_mode: "pad", "stretch" or "crop".
        image_codec: "jpeg", "png", "webp", "zstd" or "raw".
        jpeg_quality: 1 to 100.
        min_psnr_db: The job fails where a camera's encoding loses more than this, over all sampled frames.
        shard_bytes: Size to aim at.
        min_shards: At least so many per split, where there are enough anchors; None for 16.
        anchor_stride: Every so many frames is an anchor.
        drop_last_frames: So many last frames of each episode are no anchors.
        anchors_per_sample: Consecutive anchors that share one sample; None to choose.
        validation_fraction: Share of the episodes that become the split "val".
        seed: Of the shuffle and of the split.
        on_error: "fail", or "quarantine" to leave out what is bad, and list it.
        overwrite: Replace an output of another plan.
        extend: Take in what the source has got since the output was written; excludes `overwrite`.
        storage_options_json: Options for fsspec, as a JSON object; not shown, since it may hold credentials.
    """

    source: str
    output: str
    delta_timestamps: tuple[tuple[str, tuple[float, ...]], ...] = ()
    delta_indices: tuple[tuple[str, tuple[int, ...]], ...] = ()
    exclude_features: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    fps: float | None = None
    task: str | None = None
    episodes: str | None = None
    tolerance_s: float = 1e-4
    image_size: tuple[int, int] | None = None
    resize_mode: str = "pad"
    image_codec: str = "jpeg"
    jpeg_quality: int = 95
    min_psnr_db: float = 30.0
    shard_bytes: int = 256_000_000
    min_shards: int | None = None
    anchor_stride: int = 1
    drop_last_frames: int = 0
    anchors_per_sample: int | None = None
    validation_fraction: float = 0.0
    seed: int = 0
    on_error: OnError = "fail"
    overwrite: bool = False
    extend: bool = False
    storage_options_json: str = field(default="{}", repr=False)

    def __post_init__(self) -> None:
        """Checks what can be checked without the source.

        Raises:
            UsageError: an option outside its range.
        """
        for name, low, high in (
            ("tolerance_s", 0.0, 10.0),
            ("fps", 1e-3, MAX_FPS),
            ("jpeg_quality", 1, 100),
            ("min_psnr_db", 0.0, 1000.0),
            ("shard_bytes", 1, 1 << 40),
            ("min_shards", 1, 1 << 20),
            ("anchor_stride", 1, 1 << 31),
            ("drop_last_frames", 0, 1 << 31),
            ("anchors_per_sample", 1, 1 << 16),
            ("validation_fraction", 0.0, 0.99),
            ("seed", 0, (1 << 63) - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{_flag(name)}: expected {low} to {high}, got {value}.")
        _check_choice("resize_mode", self.resize_mode, RESIZE_MODES)
        _check_choice("image_codec", self.image_codec, IMAGE_CODECS)
        _check_choice("on_error", self.on_error, get_args(OnError))
        if self.image_size and not all(MIN_IMAGE_SIDE <= side <= MAX_IMAGE_SIDE for side in self.image_size):
            raise UsageError(
                f"--image-size: expected sides of {MIN_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels, got "
                f"{self.image_size[0]}x{self.image_size[1]} (height x width)."
            )
        if self.delta_timestamps and self.delta_indices:
            raise UsageError("--delta-timestamps and --delta-indices exclude each other: give one of them.")
        if self.overwrite and self.extend:
            raise UsageError("--overwrite and --extend exclude each other: give one of them.")
        if len({old for old, _ in self.rename}) != len(self.rename):
            olds = ", ".join(old for old, _ in self.rename)
            raise UsageError(f"--rename: expected each feature once, got {olds}.")
        parse_episodes(self.episodes)
        parse_storage_options(self.storage_options_json)


def parse_storage_options(text: str) -> dict[str, Any]:
    """The options for fsspec.

    Raises:
        UsageError: the text is no JSON object; the message does not repeat it, since it may hold credentials.
    """
    expected = '--storage-options: expected a JSON object such as {"anon": true}'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{expected}: {error}.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{expected}, got {type(found).__name__}.")
    return found


def parse_episodes(spec: str | None) -> tuple[tuple[int, int | None], ...] | None:
    """Reads a selection of episodes as half-open ranges; None for all.

    >>> parse_episodes("0:10,12,15:")
    ((0, 10), (12, 13), (15, None))

    Raises:
        UsageError: the text is no such list, or a range is empty.
    """
    if spec is None:
        return None
    ranges: list[tuple[int, int | None]] = []
    for part in spec.split(","):
        start, colon, stop = part.strip().partition(":")
        if not all(text == "" or (text.isascii() and text.isdigit() and len(text) <= 12) for text in (start, stop)):
            raise _bad_episodes(spec, part)
        if not colon:
            if not start:
                raise _bad_episodes(spec, part)
            ranges.append((int(start), int(start) + 1))
            continue
        first, last = int(start or 0), int(stop) if stop else None
        if last is not None and last <= first:
            raise _bad_episodes(spec, part)
        ranges.append((first, last))
    return tuple(ranges)


def is_selected(episode_index: int, ranges: tuple[tuple[int, int | None], ...] | None) -> bool:
    """Whether an episode is in a parsed selection.

    >>> [is_selected(episode, ((0, 2), (5, None))) for episode in (0, 2, 7)]
    [True, False, True]
    """
    return ranges is None or any(
        start <= episode_index and (stop is None or episode_index < stop) for start, stop in ranges
    )


def _bad_episodes(spec: str, part: str) -> UsageError:
    return UsageError(
        f"--episodes: expected episode numbers and half-open ranges such as 0:10,12,15: (not empty), "
        f"got {part.strip()!r} in {spec!r}."
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{_flag(name)}: expected one of {', '.join(choices)}, got {value!r}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
