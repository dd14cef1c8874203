"""Short videos that are cheap to make and look like a simulator's or a camera's, for `make_dataset`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BUNDLED_VIDEOS = Path(__file__).resolve().parent.parent / "tests/data/aloha_v30/videos"
VIEWS = ("observation.images.top", "observation.images.angle")
FRAMES_PER_STATISTIC = 10
"""Statistics are taken from every tenth frame."""

Frame: TypeAlias = NDArray[np.uint8]
"""RGB, (height, width, 3)."""

Stats: TypeAlias = dict[str, NDArray[Any]]
"""min, max, mean and std per channel or number, and how many values of each there were."""


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """What all clips have in common.

    Attributes:
        content: "sim" or "natural".
        codec: "av1" or "h264".
        gop: Frames from one key frame to the next.
        frames: Frames of each clip.
        fps: Frames per second.
        height: Pixels, even.
        width: Pixels, even.
        seed: Decides all that is random.
    """

    content: str
    codec: str
    gop: int
    frames: int
    fps: int
    height: int
    width: int
    seed: int


@dataclass(frozen=True)
class Clip:
    """An encoded video , and the statistics of what is seen in it."""

    path: Path
    stats: Stats


def encode_clip(settings: VideoSettings, camera: int, folder: Path, number: int) -> Clip:
    """Encodes one clip of one camera.

    Raises:
        ChildProcessError: ffmpeg failed; it has said why on stderr.
    """
    rng = np.random.default_rng([settings.seed, camera, number])
    make = sim_frames if settings.content == "sim" else natural_frames
    path = folder / f"camera{camera}-{number:06d}.mp4"
    size = f"{settings.width}x{settings.height}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(settings.fps), "-i", "-"]
    command = ["ffmpeg", "-v", "error", *source, *encoder(settings), "-pix_fmt", "yuv420p", str(path)]
    seen = []
    errors_only = os.environ | {"SVT_LOG": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=errors_only) as process, suppress(BrokenPipeError):
        assert process.stdin
        for index, image in enumerate(make(settings, camera, rng)):
            process.stdin.write(np.ascontiguousarray(image).data)
            if index % FRAMES_PER_STATISTIC == 0:
                seen.append(image[::4, ::4].reshape(-1, 3) / 255)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(command)} failed with exit status {process.returncode}.")
    return Clip(path, moments(np.concatenate(seen)))


def encoder(settings: VideoSettings) -> list[str]:
    """ffmpeg's options: AV1 as lerobot writes it; H.264 with B-frames and key frames only where the GOP says so."""
    if settings.codec == "av1":
        return ["-c:v", "libsvtav1", "-preset", "12", "-crf", "30", "-g", str(settings.gop)]
    quality = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-threads", "1"]
    return [*quality, "-bf", "3", "-sc_threshold", "0", "-g", str(settings.gop)]


def join(clips: list[Clip], path: Path) -> None:
    """Writes clips one behind the other, by stream copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as names:
        escaped = (str(clip.path.absolute()).replace("'", "'\\''") for clip in clips)
        names.writelines(f"file '{name}'\n" for name in escaped)
        names.flush()
        source = ["-f", "concat", "-safe", "0", "-i", names.name]
        subprocess.run(
            ["ffmpeg", "-v", "error", *source, "-c", "copy", "-movflags", "+faststart", str(path)], check=True
        )


def moments(values: NDArray[Any]) -> Stats:
    """Statistics over the first axis."""
    wide = values.reshape(len(values), -1).astype(np.float64)
    return {name: getattr(wide, name)(axis=0) for name in ("min", "max", "mean", "std")} | {
        "count": np.array([len(wide)])
    }


def sim_frames(settings: VideoSettings, camera: int, rng: np.random.Generator) -> Iterator[Frame]:
    """The bundled simulator's video, to and fro without end, with a piece of the picture that moves across it."""
    height, width = settings.height, settings.width
    video = BUNDLED_VIDEOS / VIEWS[camera % len(VIEWS)] / "chunk-000/file-000.mp4"
    margin = 1.125  # Each clip shows another part.
    large = (int(height * margin), int(width * margin))
    command = ["ffmpeg", "-v", "error", "-i", str(video), "-vf", f"scale={large[1]}:{large[0]}:flags=bicubic"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, stdout=subprocess.PIPE)
    source = np.frombuffer(raw.stdout, np.uint8).reshape(-1, *large, 3)
    top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(large, (height, width), strict=True))
    source = source[:, top : top + height, left : left + width]
    there_and_back = np.concatenate([np.arange(len(source)), np.arange(len(source) - 2, 0, -1)])
    start = int(rng.integers(0, len(there_and_back)))
    piece = source[0, : height // 6, : width // 6].copy() ^ 0x40
    rows, columns = (smooth_path(rng, settings, room) for room in (height - piece.shape[0], width - piece.shape[1]))
    for frame, (row, column) in enumerate(zip(rows, columns, strict=True)):
        image = source[there_and_back[(start + frame) % len(there_and_back)]].copy()
        image[row : row + piece.shape[0], column : column + piece.shape[1]] = piece
        yield image


def natural_frames(settings: VideoSettings, camera: int, rng: np.random.Generator) -> Iterator[Frame]:
    """A textured scene under a camera that pans, with a sensor's noise: as hard to compress as a real camera's."""
    del camera  # All cameras see such a scene.
    height, width, room = settings.height, settings.width, 128
    scene = texture(rng, height + room, width + room)
    fine = rng.normal(0, 6, ((height + room) // 2, (width + room) // 2, 3)).astype(np.int16)
    noise = fine.repeat(2, axis=0).repeat(2, axis=1)  # As coarse as a colour sensor's pattern.
    rows, columns = (smooth_path(rng, settings, room) for _ in range(2))
    for row, column in zip(rows, columns, strict=True):
        shifted_row, shifted_column = rng.integers(0, room, 2)
        grain = noise[shifted_row : shifted_row + height, shifted_column : shifted_column + width]
        view = scene[row : row + height, column : column + width]
        yield np.clip(view + grain, 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.int16]:
    """Smooth noise of many scales, mostly grey, behind boxes with sharp edges. (height, width, 3), 0 to 255."""
    image = np.zeros((height, width, 3))
    for scale in (128, 64, 32, 16, 8, 4, 2):
        shape = (height // scale + 2, width // scale + 2)
        grid = rng.uniform(-1, 1, (*shape, 1)) + rng.uniform(-0.3, 0.3, (*shape, 3))
        for axis, size in enumerate((height, width)):
            position = np.arange(size) / scale
            low = position.astype(int)
            weight = (position - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            grid = grid.take(low, axis) * (1 - weight) + grid.take(low + 1, axis) * weight
        image += grid * 4 * scale**0.5
    for _ in range(40):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + rng.integers(8, 120), left : left + rng.integers(8, 120)] += rng.uniform(-60, 60, 3)
    return np.clip(127 + image, 0, 255).astype(np.int16)


def smooth_path(rng: np.random.Generator, settings: VideoSettings, room: int) -> NDArray[np.int64]:
    """A smooth way between 0 and `room`, inclusive: (frames,)."""
    seconds = np.arange(settings.frames) / settings.fps
    wave = np.sin(seconds * rng.uniform(0.5, 2.5) + rng.uniform(0, 2 * np.pi))
    return np.rint((wave + 1) / 2 * room).astype(np.int64)
