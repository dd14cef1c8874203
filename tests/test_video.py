"""Reading video frames by time, against what the ffmpeg program decodes."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from predecode.transforms import video as video_module
from predecode.transforms.errors import DataError
from predecode.transforms.video import VideoFile

TOLERANCE_S = 1e-4
Clip = Callable[..., Path]


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """Gives a function that makes a clip of FFmpeg's moving test picture: a name, then options of ffmpeg."""

    def make(name: str, *options: str, seconds: float = 2, fps: int = 25, size: str = "80x64") -> Path:
        path = tmp_path / name
        source = f"testsrc2=size={size}:rate={fps}:duration={seconds}"
        run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, str(path))
        return path

    return make


H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
B_FRAMES = (*H264, "-g", "250", "-bf", "3", "-x264-params", "b-adapt=0:scenecut=0")


def run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


def ffmpeg_frames(path: Path, stream: str = "v:0") -> NDArray[np.uint8]:
    """All frames as the ffmpeg program decodes them: uint8, (N, H, W, 3)."""
    select = ("-v", "error", "-select_streams", stream, "-show_entries", "stream=width,height", "-of", "csv=p=0")
    width, height = (int(text) for text in run("ffprobe", *select, str(path)).split()[0].split(b","))
    output = ("-map", f"0:{stream}", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(run("ffmpeg", "-v", "error", "-i", str(path), *output), np.uint8).reshape(-1, height, width, 3)


def read(
    path: Path, seconds: Sequence[float] | NDArray[np.float64], tolerance: float = TOLERANCE_S
) -> NDArray[np.uint8]:
    with VideoFile(str(path), path.name) as video:
        return np.stack(list(video.frames(seconds, tolerance)))


def test_bundled_videos_decode_as_ffmpeg_does(data_dir: Path) -> None:
    paths = sorted(data_dir.glob("*_v30/videos/**/*.mp4"))
    assert len(paths) > 4
    for path in paths:
        fps = 50 if "aloha" in str(path) else 10
        expected = ffmpeg_frames(path)
        np.testing.assert_array_equal(read(path, np.arange(len(expected)) / fps), expected)


@pytest.mark.parametrize(
    "options",
    [
        B_FRAMES,
        (*B_FRAMES, "-x264-params", "open-gop=1:keyint=20:scenecut=0"),
        ("-c:v", "libsvtav1", "-g", "2", "-preset", "12", "-pix_fmt", "yuv420p"),
        ("-c:v", "mpeg4", "-g", "12", "-bf", "2"),
    ],
    ids=["h264", "h264-open-gop", "av1", "mpeg4"],
)
def test_any_frames_in_order_are_the_right_ones(clip: Clip, options: tuple[str, ...]) -> None:
    path = clip("clip.mp4", *options)
    expected = ffmpeg_frames(path)
    assert len(expected) == 50
    random = np.random.default_rng(0)
    with VideoFile(str(path), "clip.mp4") as video:
        picks = [sorted(random.integers(0, 50, count).tolist()) for count in (1, 3, 20, 50)]
        for indices in [*picks, range(50), [49], [0], [7, 7, 8], range(0, 50, 7)]:
            frames = list(video.frames(np.array(indices) / 25, TOLERANCE_S))
            np.testing.assert_array_equal(np.stack(frames), expected[list(indices)])


def test_an_even_rate_needs_no_search(clip: Clip) -> None:
    with VideoFile(str(clip("clip.mp4", *B_FRAMES)), "clip.mp4") as video:
        assert len(list(video.frames(np.arange(0, 50, 3) / 25, TOLERANCE_S))) == 17
        assert not video._must_search
        assert not video._is_scanned


def test_a_file_object_is_read_like_a_path_and_closed(clip: Clip) -> None:
    path = clip("clip.mp4", *B_FRAMES)
    file = io.BytesIO(path.read_bytes())
    with VideoFile(file, "clip.mp4") as video:
        np.testing.assert_array_equal(np.stack(list(video.frames([0.4, 1.0], TOLERANCE_S))), read(path, [0.4, 1.0]))
    assert file.closed


def test_no_times_give_no_frames(clip: Clip) -> None:
    with VideoFile(str(clip("clip.mp4", *H264)), "clip.mp4") as video:
        assert list(video.frames([], TOLERANCE_S)) == []


def test_times_may_be_off_by_the_tolerance_and_no_more(clip: Clip) -> None:
    path = clip("clip.mp4", *B_FRAMES)
    expected = ffmpeg_frames(path)
    np.testing.assert_array_equal(read(path, [0.4 + 0.9e-4, 0.8 - 0.9e-4]), expected[[10, 20]])
    with pytest.raises(
        DataError, match=r"clip\.mp4: no frame at 0\.41\d* s: the nearest is at 0\.40\d* s.*--tolerance-s"
    ):
        read(path, [0.4, 0.41])
    np.testing.assert_array_equal(read(path, [0.4, 0.41], tolerance=0.011), expected[[10, 10]])


def test_each_time_has_its_own_tolerance(clip: Clip) -> None:
    with VideoFile(str(clip("clip.mp4", *H264)), "clip.mp4") as video:
        assert len(list(video.frames([0.0, 0.45], [1e-4, 0.02]))) == 2
        with pytest.raises(DataError, match=r"no frame at 0\.450000"):
            list(video.frames([0.0, 0.45], [0.02, 1e-4]))


@pytest.mark.parametrize("seconds", [-0.5, 2.0, 100.0, 1e9, np.inf, np.nan])
def test_times_outside_the_video_are_data_errors(clip: Clip, seconds: float) -> None:
    with pytest.raises(DataError, match=r"clip\.mp4: "):
        read(clip("clip.mp4", *H264), [seconds])


def test_a_bad_time_does_not_spoil_the_video(clip: Clip) -> None:
    path = clip("clip.mp4", *B_FRAMES)
    with VideoFile(str(path), "clip.mp4") as video:
        with pytest.raises(DataError):
            list(video.frames([5.0], TOLERANCE_S))
        np.testing.assert_array_equal(np.stack(list(video.frames([0.4], TOLERANCE_S))), ffmpeg_frames(path)[[10]])


def test_a_variable_rate_is_searched(clip: Clip) -> None:
    """Frames 0 to 49 of which some are dropped, shown at uneven times."""
    drop = "select='not(mod(n\\,3))+not(mod(n\\,7))'"
    path = clip("variable.mp4", "-vf", drop, "-fps_mode", "vfr", *B_FRAMES)
    kept = [n for n in range(50) if n % 3 == 0 or n % 7 == 0]
    expected = ffmpeg_frames(path)
    assert len(expected) == len(kept)
    np.testing.assert_array_equal(read(path, np.array(kept) / 25), expected)
    # Between two frames the nearer one counts, on either side, however many are within reach.
    for tolerance in (0.07, 1.0):
        nearest = expected[[kept.index(3), kept.index(6), kept.index(9)]]
        np.testing.assert_array_equal(read(path, [4.4 / 25, 4.6 / 25, 9.6 / 25], tolerance), nearest)


def test_a_video_that_begins_late_is_found(clip: Clip) -> None:
    path = clip("late.mp4", *B_FRAMES, "-output_ts_offset", "1.5")
    np.testing.assert_array_equal(read(path, 1.5 + np.arange(50) / 25), ffmpeg_frames(path))


def test_the_first_of_several_video_streams_is_read(clip: Clip, tmp_path: Path) -> None:
    small, large = clip("small.mp4", *H264), clip("large.mp4", *H264, "-vf", "negate", size="320x240")
    path = tmp_path / "both.mp4"
    sound = ("-f", "lavfi", "-i", "sine=duration=2")
    inputs = (*sound, "-i", str(small), "-i", str(large))
    run("ffmpeg", "-v", "error", *inputs, "-map", "0", "-map", "1", "-map", "2", "-c:v", "copy", str(path))
    np.testing.assert_array_equal(read(path, np.arange(50) / 25), ffmpeg_frames(small))


@pytest.mark.parametrize(
    "options",
    [
        (*H264[:-1], "yuvj420p"),
        (*H264, "-color_range", "tv", "-colorspace", "bt709"),
        ("-c:v", "libx265", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le"),
        (*H264[:-1], "yuv444p"),
    ],
    ids=["full-range", "bt709", "10-bit", "444"],
)
def test_other_pixel_formats_decode_as_ffmpeg_does(clip: Clip, options: tuple[str, ...]) -> None:
    path = clip("clip.mp4", *options, seconds=0.4)
    np.testing.assert_array_equal(read(path, np.arange(10) / 25), ffmpeg_frames(path))


def test_a_truncated_video_gives_what_is_there(clip: Clip, tmp_path: Path) -> None:
    path = clip("whole.mp4", *B_FRAMES, "-movflags", "+faststart", size="320x240", seconds=8)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    np.testing.assert_array_equal(read(cut, np.arange(20) / 25), ffmpeg_frames(path)[:20])
    with VideoFile(str(cut), "cut.mp4") as video:
        with pytest.raises(DataError, match=r"cut\.mp4"):
            list(video.frames([199 / 25], TOLERANCE_S))
        np.testing.assert_array_equal(next(video.frames([0.0], TOLERANCE_S)), ffmpeg_frames(path)[0])


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\0" * 5000])
def test_what_is_no_video_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.mp4: the video cannot be decoded: it cannot be opened.*get it again"):
        read(path, [0.0])


def test_a_video_without_its_index_is_a_data_error(clip: Clip) -> None:
    path = clip("clip.mp4", *H264)
    path.write_bytes(path.read_bytes()[:-2000])  # The index is last.
    with pytest.raises(DataError, match="cannot be opened"):
        read(path, [0.0])


def test_sound_alone_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=1", str(path))
    with pytest.raises(DataError, match="cannot be opened"):
        read(path, [0.0])


def test_damaged_content_is_a_data_error_or_a_frame(clip: Clip) -> None:
    path = clip("clip.mp4", *B_FRAMES, "-movflags", "+faststart", size="320x240")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mp4"):
        read(path, np.arange(50) / 25)


def test_huge_pictures_are_refused(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "MAX_PIXELS", 80 * 64 - 1)
    with pytest.raises(DataError, match="80 x 64"):
        read(clip("clip.mp4", *H264), [0.0])


def test_chunks_are_bounded_in_bytes(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip("clip.mp4", *B_FRAMES)
    monkeypatch.setattr(video_module, "_CHUNK_BYTES", 3 * 80 * 64 * 5)
    with VideoFile(str(path), "clip.mp4") as video:
        frames = list(video.frames(np.arange(12) / 25, TOLERANCE_S))
    assert [len(frame.base) for frame in frames if frame.base is not None][::5] == [5, 5, 2]
    np.testing.assert_array_equal(np.stack(frames), ffmpeg_frames(path)[:12])


def test_missing_files_are_not_data_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.mp4", [0.0])


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError("slow"), MemoryError("full")])
@pytest.mark.parametrize("reads_before", [0, 1, 2, 3])
def test_failing_reads_are_not_data_errors(clip: Clip, error: Exception, reads_before: int) -> None:
    """Whenever it happens, the error of the file comes out as it was."""

    class Failing(io.BytesIO):
        left = reads_before

        def read(self, size: int | None = -1, /) -> bytes:
            if not self.left:
                raise error
            self.left -= 1
            return super().read(size)

    content = clip("clip.mp4", *B_FRAMES, "-crf", "5", size="640x480").read_bytes()
    assert len(content) > 4 << 16
    with VideoFile(Failing(content), "clip.mp4") as video, pytest.raises(type(error)) as caught:
        list(video.frames(np.arange(50) / 25, TOLERANCE_S))
    assert caught.value is error


def test_key_frames_are_counted_from_the_start_of_the_stretch(clip: Clip) -> None:
    path = clip("clip.mp4", *H264, "-g", "10", "-x264-params", "scenecut=0")
    with VideoFile(str(path), "clip.mp4") as video:
        assert video.key_frame_offsets(0.0, np.inf, 25) == [0, 10, 20, 30, 40]
        assert video.key_frame_offsets(0.4, 1.2, 25) == [0, 10]
        assert video.key_frame_offsets(0.44, 1.24, 25) == [9, 19]
        assert len(list(video.frames([0.4], TOLERANCE_S))) == 1
        assert not video._must_search


def test_frames_follow_a_scan_of_a_bundled_video(data_dir: Path) -> None:
    path = next(data_dir.glob("aloha_v30/videos/*top/**/*.mp4"))
    with VideoFile(str(path), "top.mp4") as video:
        assert video.key_frame_offsets(0.9, 1.8, 50) == list(range(0, 45, 2))
