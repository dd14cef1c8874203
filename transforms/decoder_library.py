"""torchcodec, which decodes videos: whether it can be had here, and which versions of what decide its pixels."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from predecode.transforms.errors import MissingDependencyError

_NO_FFMPEG = (
    "torchcodec cannot load FFmpeg's libraries. Install FFmpeg: `apt-get install ffmpeg` on Debian and Ubuntu, "
    "`brew install ffmpeg` on macOS, `conda install -c conda-forge ffmpeg` anywhere."
)
_PAIRS = (
    "torch and torchcodec must match: torchcodec 0.10 needs torch 2.10, torchcodec 0.11 needs torch 2.11, and "
    "torchcodec 0.12 or later needs torch 2.11 or later. constraints.txt names versions that are known good together."
)

_COMPILER = "torch._dynamo"

_importing = threading.Lock()


@functools.cache
def check_decoder() -> None:
    """Checks that videos can be decoded in this environment.

    Raises:
        MissingDependencyError: torch, torchcodec or FFmpeg is missing, or they do not match.
    """
    try:
        torchcodec = _import_torchcodec()
    except (ImportError, OSError, RuntimeError) as error:  # The latter two where shared libraries do not load.
        installed = ", ".join(f"{name} {_installed(name)}" for name in ("torch", "torchcodec"))
        raise MissingDependencyError(
            f"torchcodec cannot be imported ({installed}): {str(error)[:300]}\n{_PAIRS}\nIf they do match: {_NO_FFMPEG}"
        ) from error
    # Since 0.13 or so the import succeeds without FFmpeg.
    if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
        raise MissingDependencyError(f"{_NO_FFMPEG} The versions of it that work are in torchcodec's README.")


def frame_source_versions() -> dict[str, str]:
    """Versions of what decides the pixels of a decoded frame.

    Raises:
        MissingDependencyError: as `check_decoder`.
    """
    check_decoder()
    from torchcodec._core import get_ffmpeg_library_versions

    libraries: dict[str, list[int]] = get_ffmpeg_library_versions()
    return {
        **{name: _installed(name) for name in ("torch", "torchcodec")},
        **{name: ".".join(map(str, libraries[name])) for name in ("libavcodec", "libavfilter", "libavutil")},
    }


def _import_torchcodec() -> ModuleType:
    """Imports torchcodec, and PyTorch's compiler only if it is loaded already.

    torchcodec asks the compiler to leave some of its functions out of compiled graphs, and for this alone loads it,
    which takes longer than loading torch (docs/benchmarks.md). Should somebody use `torch.compile` later, it sees these
    functions as any others.
    """
    with _importing:
        attributes = vars(importlib.import_module("torch"))
        stand_in = _NoCompiler(_COMPILER)
        is_needed = attributes.setdefault("_dynamo", stand_in) is stand_in
        try:
            importlib.import_module("torchcodec.decoders")
        finally:
            if is_needed and attributes["_dynamo"] is stand_in:
                del attributes["_dynamo"]  # The real one comes when someone asks for it.
        return sys.modules["torchcodec"]


class _NoCompiler(ModuleType):
    """Stands in for torch's compiler; whatever else is wanted of it loads the real one."""

    @staticmethod
    def disallow_in_graph(function: Callable[..., Any]) -> Callable[..., Any]:
        """What torchcodec wants: that the compiler leaves a function alone."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(_COMPILER), name)


def _installed(name: str) -> str:
    """Version of an installed package, without the build: builds for other GPUs decode alike on the CPU."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
