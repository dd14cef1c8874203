"""Key frames from the index of an MP4 file: those that a scan finds, and nothing believed of files that lie."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchcodec.decoders import VideoDecoder

from predecode.transforms.far_file import BLOCK_BYTES, FarFile
from predecode.transforms.mp4_index import key_frame_indices
from predecode.transforms.video import VideoFile

BUNDLED = Path(__file__).parent / "data/aloha_v30/videos/observation.images.top/chunk-000/file-000.mp4"
ENCODERS = {
    "no B-frames": ("-c:v", "libx264", "-g", "7", "-bf", "0"),
    "B-frames": ("-c:v", "libx264", "-g", "12", "-bf", "3"),
    "index first": ("-c:v", "libx264", "-g", "5", "-movflags", "+faststart"),
    "key frames only": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "one key frame": ("-c:v", "libx264", "-g", "1000"),
    "times as they are": ("-c:v", "libx264", "-g", "12", "-bf", "3", "-use_editlist", "0"),
}
UNUSUAL = {
    "fragmented": ("-c:v", "libx264", "-g", "7", "-movflags", "+frag_keyframe+empty_moov"),
    "begins later": ("-c:v", "libx264", "-g", "7", "-output_ts_offset", "3"),
}


def scanned(path: Path) -> list[int]:
    return [int(index) for index in VideoDecoder(str(path))._get_key_frame_indices()]


def make(path: Path, *options: str) -> Path:
    picture = ("-f", "lavfi", "-i", "testsrc2=size=80x64:rate=25:duration=2")
    subprocess.run(["ffmpeg", "-v", "error", *picture, *options, str(path)], check=True)
    return path


def test_bundled_videos(data_dir: Path) -> None:
    paths = sorted(data_dir.rglob("*.mp4"))
    assert len(paths) > 10
    for path in paths:
        with path.open("rb") as file:
            found = key_frame_indices(file)
        assert found is not None
        assert found.tolist() == scanned(path), path


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS.keys())
def test_what_a_scan_finds(options: tuple[str, ...], tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *options)
    with path.open("rb") as file:
        file.seek(5)
        found = key_frame_indices(file)
        assert file.tell() == 5
    assert found is not None
    assert found.tolist() == scanned(path)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
@pytest.mark.parametrize("options", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_is_unusual_is_left_to_the_scan(options: tuple[str, ...], tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *options)
    assert key_frame_indices(io.BytesIO(path.read_bytes())) is None
    with VideoFile(str(path), "clip.mp4") as video:
        assert video.key_frame_offsets(0.0, np.inf, 25)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
def test_other_containers_are_left_to_the_scan(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", "-c:v", "libx264", "-g", "7")
    assert key_frame_indices(io.BytesIO(path.read_bytes())) is None


def test_little_is_read_of_a_large_file() -> None:
    """Ten blocks stand before the index, as the frames do where an encoder does not move it."""
    content = BUNDLED.read_bytes()
    index, head = box(content, b"moov"), box(content, b"ftyp")
    filler = struct.pack(">I4s", 10 * BLOCK_BYTES, b"mdat") + bytes(10 * BLOCK_BYTES - 8)
    large = head + filler + index
    fetched = []

    def fetch(first: int, behind: int) -> bytes:
        fetched.append(behind - first)
        return large[first:behind]

    found = key_frame_indices(FarFile(fetch, len(large)))
    assert found is not None
    assert found.tolist() == scanned(BUNDLED)
    assert sum(fetched) <= 2 * BLOCK_BYTES


def box(content: bytes, wanted: bytes) -> bytes:
    """The first box of a kind at the top of a file."""
    start = 0
    while True:
        size, kind = struct.unpack_from(">I4s", content, start)
        if kind == wanted:
            return content[start : start + size]
        start += size


def test_a_cut_off_file_has_no_index() -> None:
    content = box(BUNDLED.read_bytes(), b"ftyp") + box(BUNDLED.read_bytes(), b"moov")
    assert key_frame_indices(io.BytesIO(content)) is not None
    for length in (0, 5, 12, 40, len(content) // 2, len(content) - 200):
        assert key_frame_indices(io.BytesIO(content[:length])) is None


@pytest.mark.parametrize("name", [b"stts", b"stss"])
def test_absurd_counts_take_no_memory(name: bytes) -> None:
    content = bytearray(BUNDLED.read_bytes())
    at = content.index(name)
    content[at + 8 : at + 12] = b"\xff\xff\xff\xff"  # how many entries
    assert key_frame_indices(io.BytesIO(content)) is None
    content = bytearray(BUNDLED.read_bytes())
    at = content.index(name)
    content[at + 12 : at + 16] = b"\xff\xff\xff\xff"  # how many frames, or the number of one
    assert key_frame_indices(io.BytesIO(content)) is None


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_no_crash(changes: list[tuple[int, int]]) -> None:
    head, index = box(BUNDLED.read_bytes(), b"ftyp"), bytearray(box(BUNDLED.read_bytes(), b"moov"))
    for place, value in changes:
        index[place % len(index)] = value
    content = head + index
    found = key_frame_indices(io.BytesIO(content))
    assert found is None or (found.min() >= 0 and np.all(np.diff(found) > 0))
