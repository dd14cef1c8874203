"""Opens a dataset, whatever its kind."""

from __future__ import annotations

from predecode.transforms.sources.base import Source
from predecode.transforms.sources.lerobot_info import read_info
from predecode.transforms.sources.lerobot_v2 import LeRobotV2
from predecode.transforms.sources.lerobot_v3 import LeRobotV3
from predecode.transforms.storage import Folder


def open_source(folder: Folder, *, excluded: frozenset[str] = frozenset()) -> Source:
    """Opens the dataset in a folder by what its metadata say of it.

    Args:
        folder: Where it lies.
        excluded: Names of features that are left out.

    Raises:
        SourceNotFoundError: there is no dataset.
        SourceError: it is of a version, or holds features, that cannot be read, or its metadata are broken.
        UsageError: a feature is excluded that nothing works without.
    """
    info = read_info(folder, excluded)
    return LeRobotV3.open(folder, info) if info.version >= (3, 0) else LeRobotV2.open(folder, info)
