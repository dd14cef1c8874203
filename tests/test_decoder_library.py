"""torchcodec is found, quickly; and what is said where it, FFmpeg or the matching torch is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from predecode.transforms import decoder_library
from predecode.transforms.decoder_library import check_decoder, frame_source_versions
from predecode.transforms.errors import MissingDependencyError

DECODE = """
from predecode.transforms.video import VideoFile

with VideoFile(sys.argv[1], "a video") as video:
    frame = next(video.frames([0.0], 1e-4))
"""


def test_whatever_else_is_wanted_loads_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_library, "_COMPILER", "colorsys")
    assert decoder_library._NoCompiler("colorsys").rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)


def test_the_decoder_is_there() -> None:
    check_decoder()
    assert {"torch", "torchcodec", "libavcodec"} <= frame_source_versions().keys()


def test_missing_ffmpeg_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchcodec.ffmpeg_major_version", None)
    with pytest.raises(MissingDependencyError, match="apt-get install ffmpeg"):
        check_decoder.__wrapped__()


def test_a_missing_torchcodec_says_which_versions_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(MissingDependencyError, match=r"torchcodec 0\.11 needs torch 2\.11"):
        check_decoder.__wrapped__()


def _run(program: str, video: Path) -> str:
    command = [sys.executable, "-c", f"import sys\n{program}", str(video)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_decoding_does_not_load_the_compiler(data_dir: Path) -> None:
    """It takes as long to load as torch itself; whoever wants it afterwards has the real one."""
    shown = """
import torch

print(frame.shape, "torch._dynamo" in sys.modules)
print(torch._dynamo.__name__, torch.compile(lambda value: value + 1, backend="eager")(torch.ones(1)).item())
"""
    video = next(data_dir.glob("aloha_v30/videos/*top/**/*.mp4"))
    assert _run(DECODE + shown, video).splitlines() == ["(480, 640, 3) False", "torch._dynamo 2.0"]


def test_a_compiler_that_is_loaded_is_told(data_dir: Path) -> None:
    """torchcodec's own wish: functions that open a file are no part of a compiled graph."""
    shown = """
from torch._dynamo import trace_rules
from torchcodec._core.ops import create_from_file

print(trace_rules.is_callable_disallowed(create_from_file))
"""
    video = next(data_dir.glob("aloha_v30/videos/*top/**/*.mp4"))
    assert _run("import torch._dynamo\n" + DECODE + shown, video) == "True\n"
