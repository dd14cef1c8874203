"""Opens a dataset, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping

from predecode.transforms.errors import UsageError
from predecode.transforms.sources.base import Source
from predecode.transforms.sources.lerobot_info import read_info
from predecode.transforms.sources.lerobot_v2 import LeRobotV2
from predecode.transforms.sources.lerobot_v3 import LeRobotV3
from predecode.transforms.sources.renamed import rename_features
from predecode.transforms.sources.zarr_listing import is_zarr
from predecode.transforms.storage import Folder


def open_source(
    folder: Folder,
    *,
    excluded: frozenset[str] = frozenset(),
    renames: Mapping[str, str] | None = None,
    fps: float | None = None,
    task: str | None = None,
) -> Source:
    """Opens the dataset in a folder by what its name and its metadata say of it.

    Args:
        folder: Where it lies; for a .zip the file.
        excluded: Names of features that are left out, as in the source.
        renames: Names of features in the source to names in items.
        fps: Frames per second, of a source that does not know.
        task: The task string of every frame, of a source that has none.

    Raises:
        SourceNotFoundError: there is no dataset.
        SourceError: it is of a version, or holds features, that cannot be read, or its metadata are broken.
        UsageError: a feature is excluded or renamed that is not there or that nothing works without; fps or task are
            given where the source has its own, or fps is missing.
    """
    if is_zarr(folder):
        from predecode.transforms.sources.zarr import ZarrSource  # And tensorstore, which no other source needs.

        return ZarrSource.open(folder, excluded=excluded, renames=renames or {}, fps=fps, task=task or "")
    if fps is not None or task is not None:
        raise UsageError("--fps and --task are for Zarr replay buffers: a LeRobot dataset has its own.")
    info = read_info(folder, excluded)
    source = LeRobotV3.open(folder, info) if info.version >= (3, 0) else LeRobotV2.open(folder, info)
    return rename_features(source, renames) if renames else source
