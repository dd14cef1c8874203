"""A first look at the pixels: a few frames of the first episodes, stored for real, to know sizes before planning."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np

from predecode.transforms.decoder_library import frame_source_versions
from predecode.transforms.episodes import Episode
from predecode.transforms.errors import DataError, with_remedy
from predecode.transforms.failure_record import ends_quietly
from predecode.transforms.features import Feature, Kind
from predecode.transforms.format import TAR_BLOCK_BYTES, TAR_HEADER_BYTES
from predecode.transforms.images import image_codec, library_versions
from predecode.transforms.layout import Camera
from predecode.transforms.recipe import Recipe
from predecode.transforms.resize import resize

if TYPE_CHECKING:
    from predecode.transforms.sources.base import SourceReader

CANDIDATE_EPISODES = 16
"""Only the first episodes are looked at, so that a dataset that grows at its end keeps its probe."""

PROBED_EPISODES = 4
FRAMES_PER_EPISODE = 4

USUAL_GOP_FRAMES = 250
"""What encoders use when not told otherwise; assumed where an episode is too short to tell."""

_ENOUGH_GOPS = 4
"""So many key frames in an episode tell how far apart they are."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was seen.

    Attributes:
        cameras: Frames as stored, in feature order.
        gop_frames: Greatest distance of key frames over the video cameras; 1 where there is none.
        versions: Of the libraries that make the bytes, by name.
    """

    cameras: tuple[Camera, ...]
    gop_frames: int
    versions: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for plan.json."""
        return {"cameras": [asdict(camera) for camera in self.cameras], "gop_frames": self.gop_frames}


def probe_source(recipe: Recipe, episodes: Sequence[Episode]) -> Probe:
    """Decodes, resizes and encodes some frames of the first episodes that can be read.

    Cameras are looked at side by side: with few key frames it takes a second until a frame is decoded.

    Args:
        recipe: What to make.
        episodes: The first ones, in order.

    Raises:
        DataError: one cannot be read and the job fails on errors, or none can be read.
    """
    versions = tuple(sorted(byte_versions(recipe).items()))
    if not recipe.cameras or not episodes:
        return Probe((), 1, versions)
    seen: list[list[_Look]] = []
    first_error: DataError | None = None
    threads = min(len(recipe.cameras), os.cpu_count() or 1)
    with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
        sources = [
            stack.enter_context(recipe.source.reader(tolerance_s=recipe.options.tolerance_s)) for _ in recipe.cameras
        ]
        for episode in episodes:
            try:
                begun = [pool.submit(_look, recipe, episode, *one) for one in zip(recipe.cameras, sources, strict=True)]
                wait(begun)  # Also for those behind an error: a reader serves one at a time.
                looks = [look.result() for look in begun]
            except DataError as error:
                # A plan made without this episode would not be the plan of the mended source.
                if recipe.options.on_error == "fail":
                    raise with_remedy(error) from error
                first_error = first_error or error
                continue
            seen.append(looks)
            if len(seen) == PROBED_EPISODES:
                break
    if not seen:
        raise DataError(
            f"None of the first {len(episodes)} episodes can be read. Mend the source, or leave them out with "
            f"--episodes. The first error: {first_error}"
        )
    cameras = tuple(
        _camera(camera.name, looks) for camera, looks in zip(recipe.cameras, zip(*seen, strict=True), strict=True)
    )
    return Probe(cameras, max(look.gop_frames for looks in seen for look in looks), versions)


def byte_versions(recipe: Recipe) -> dict[str, str]:
    """Versions of the libraries whose change could change a stored byte."""
    versions = {"safetensors": importlib.metadata.version("safetensors")}
    if recipe.cameras:
        versions |= library_versions()
    if any(camera.kind is Kind.VIDEO for camera in recipe.cameras):
        versions |= frame_source_versions()
    return versions


@dataclass(frozen=True, slots=True)
class _Look:
    """What one camera showed in one episode: shape and encoded size of each frame, and its key frames' distance."""

    frames: tuple[tuple[tuple[int, ...], int], ...]
    gop_frames: int


def _look(recipe: Recipe, episode: Episode, camera: Feature, reader: SourceReader) -> _Look:
    options = recipe.options
    codec = image_codec(options.image_codec, jpeg_quality=options.jpeg_quality)
    key_frames = reader.key_frames(episode, camera.name)
    frames = []
    for image in reader.frames(episode, camera.name, _cheap_sample(episode.num_frames, key_frames)):
        stored = resize(image, options.image_size, options.resize_mode) if options.image_size else image
        frames.append((stored.shape, len(codec.encode(np.ascontiguousarray(stored)))))
    return _Look(tuple(frames), _gop(episode.num_frames, key_frames) if camera.kind is Kind.VIDEO else 1)


def _cheap_sample(num_frames: int, key_frames: Sequence[int]) -> list[int]:
    """Numbers of some frames that lie evenly, as far as the key frames do: others cost all from the last key frame.

    >>> _cheap_sample(1000, range(0, 1000, 250))
    [0, 250, 500, 750]
    """
    wanted = np.linspace(0, num_frames - 1, FRAMES_PER_EPISODE).astype(np.int64)
    known = np.array([0, *key_frames])
    return np.unique(known[np.searchsorted(known[1:], wanted, side="right")]).tolist()


def _camera(name: str, looks: Sequence[_Look]) -> Camera:
    frames = [frame for look in looks for frame in look.frames]
    height, width, channels = frames[0][0]
    return Camera(name, height, width, channels, round(sum(size for _, size in frames) / len(frames)))


def _gop(num_frames: int, key_frames: Sequence[int]) -> int:
    """Greatest distance of key frames within an episode."""
    bounds = sorted({0, *key_frames, num_frames})
    distances = [high - low for low, high in pairwise(bounds)]
    if len(distances) > _ENOUGH_GOPS or max(distances[:-1], default=0) >= distances[-1]:
        return max(distances[:-1])  # The last may be long because the video ends before its rows.
    # The episode ended before the next key frame could come.
    return max(USUAL_GOP_FRAMES, *distances)


def row_bytes_per_anchor(recipe: Recipe, anchors_per_sample: int) -> int:
    """Bytes that an anchor takes in a tar besides the images themselves, nearly: rows, masks, headers, padding."""
    window_bytes = 0
    tensors = 0
    for feature in recipe.numbers:
        deltas = recipe.deltas.get(feature.name)
        value_bytes = int(np.prod(feature.item_shape)) * np.dtype(feature.item_dtype).itemsize
        rows = anchors_per_sample
        if deltas is not None:
            rows += max(deltas) - min(deltas) if len(deltas) > 1 else 0
            window_bytes += anchors_per_sample * len(deltas) * 5
            tensors += 2
        tensors += 1
        window_bytes += rows * value_bytes
    members = 2 + len(recipe.cameras)
    text_bytes = 100 + 40 * anchors_per_sample * len(recipe.source.text_features)
    headers = members * (TAR_HEADER_BYTES + TAR_BLOCK_BYTES // 2) + 80 * tensors
    return -(-(window_bytes + headers + text_bytes) // anchors_per_sample)


class _Probe(beam.DoFn):
    @ends_quietly
    def process(self, episodes: Sequence[Episode], recipe: Recipe) -> Iterator[Probe]:
        """One list of the first episodes in, one probe out."""
        yield probe_source(recipe, episodes)


@dataclass(kw_only=True)
class ProbeSource(beam.PTransform[Any, Any]):
    """Probes the first episodes.

    Attributes:
        recipe: Side input: what to make.
    """

    recipe: Any

    def expand(self, episodes: beam.PCollection[Episode]) -> beam.PCollection[Probe]:
        """Episodes in, one probe out, also where there are no episodes."""
        return (
            episodes
            | "FirstEpisodes" >> beam.CombineGlobally(_FirstEpisodes())
            | "Probe" >> beam.ParDo(_Probe(), beam.pvalue.AsSingleton(self.recipe)).with_output_types(Probe)
        )


class _FirstEpisodes(beam.CombineFn):
    """The first few episodes by number."""

    def create_accumulator(self) -> list[Episode]:
        return []

    def add_input(self, accumulator: list[Episode], episode: Episode) -> list[Episode]:
        return _first([*accumulator, episode])

    def merge_accumulators(self, accumulators: Iterable[list[Episode]]) -> list[Episode]:
        return _first(episode for accumulator in accumulators for episode in accumulator)

    def extract_output(self, accumulator: list[Episode]) -> list[Episode]:
        return accumulator


def _first(episodes: Iterable[Episode]) -> list[Episode]:
    return list(islice(sorted(episodes, key=lambda episode: episode.index), CANDIDATE_EPISODES))
