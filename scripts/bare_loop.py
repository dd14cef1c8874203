#!/usr/bin/env python3
"""What the job cannot do without, and nothing else: every frame of a dataset decoded, resized, encoded, thrown away.

`benchmark_job` runs it as a process of its own; it prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torchcodec.decoders import VideoDecoder

from predecode.transforms.allocator import keep_freed_memory
from predecode.transforms.episodes import EpisodeMetadata, VideoSpan
from predecode.transforms.images import ImageCodec, image_codec
from predecode.transforms.options import MaterializeOptions
from predecode.transforms.recipe import open_recipe
from predecode.transforms.resize import resize
from predecode.transforms.video import VideoFile

if TYPE_CHECKING:
    from predecode.transforms.sources.base import Source

CHUNK_FRAMES = 9
"""Frames decoded by one call, as in the job where they are 480x640."""


def read_episodes(source: Source) -> dict[int, EpisodeMetadata]:
    """All episodes by number, with where their frames lie in the videos."""
    return {index: entry for path in source.metadata_files() for index, entry in source.read_episode_metadata(path)}


def decode_span(
    path: str, first: int, num_frames: int, chunk_frames: int = CHUNK_FRAMES
) -> Iterator[NDArray[np.uint8]]:
    """Frames of one video in their order: uint8, (H, W, 3), views of a few that are decoded at once."""
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
    for start in range(first, first + num_frames, chunk_frames):
        yield from decoder.get_frames_in_range(start, min(start + chunk_frames, first + num_frames)).data.numpy()


def encode_span(
    path: str,
    first: int,
    num_frames: int,
    codec: ImageCodec,
    size: tuple[int, int] | None,
    chunk_frames: int = CHUNK_FRAMES,
) -> int:
    """Decodes frames of one video in their order, resizes and encodes them; gives the bytes that came out."""
    size_bytes = 0
    for image in decode_span(path, first, num_frames, chunk_frames):
        stored = resize(image, size, "pad") if size else image
        size_bytes += len(codec.encode(np.ascontiguousarray(stored)))
    return size_bytes


def find_key_frames(source: Source, root: str, episode: EpisodeMetadata, span: VideoSpan) -> list[int]:
    """Numbers of the frames of an episode that decoding can begin at."""
    stop_seconds = min(span.stop_seconds, span.start_seconds + episode.num_frames / source.fps)
    with VideoFile(f"{root}/{span.path}", span.path) as video:
        return video.key_frame_offsets(span.start_seconds, stop_seconds, source.fps)


def measure(root: str, size: tuple[int, int] | None, threads: int, chunk_frames: int) -> dict[str, object]:
    """Runs the loop over a dataset, its episodes spread over threads."""
    source = open_recipe(MaterializeOptions(source=root, output="unused")).source
    episodes = read_episodes(source)
    codec = image_codec("jpeg", jpeg_quality=95)
    torch.set_num_threads(1)  # As in the job: it has threads of its own.

    def work(episode: EpisodeMetadata) -> int:
        places = [(f"{root}/{span.path}", round(span.start_seconds * source.fps)) for span in episode.videos]
        return sum(encode_span(path, first, episode.num_frames, codec, size, chunk_frames) for path, first in places)

    started, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with ThreadPoolExecutor(threads) as pool:
        size_bytes = sum(pool.map(work, episodes.values()))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "images": sum(episode.num_frames * len(episode.videos) for episode in episodes.values()),
        "bytes": size_bytes,
        "page faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
    }


def list_key_frames(root: str) -> dict[str, object]:
    """Per camera and episode its length and the numbers of its key frames."""
    source = open_recipe(MaterializeOptions(source=root, output="unused")).source
    found: dict[str, dict[int, object]] = {}
    for index, episode in read_episodes(source).items():
        for span in episode.videos:
            entry = {"frames": episode.num_frames, "key_frames": find_key_frames(source, root, episode, span)}
            found.setdefault(span.camera, {})[index] = entry
    return dict(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--image-size", type=int, help="default: the source's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chunk-frames", type=int, default=CHUNK_FRAMES, help="decoded by one call; %(default)s")
    parser.add_argument("--keep-memory", action="store_true", help="as the job does: what is freed stays here")
    parser.add_argument("--key-frames", action="store_true", help="list these instead")
    given = parser.parse_args(arguments)
    size = (given.image_size, given.image_size) if given.image_size else None
    if given.keep_memory:
        keep_freed_memory()
    if given.key_frames:
        result = list_key_frames(given.dataset)
    else:
        result = measure(given.dataset, size, given.threads, given.chunk_frames)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
