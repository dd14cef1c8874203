"""Items from a plain webdataset pipeline, which knows nothing of windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from predecode.reader.item_format import ItemFormat
from predecode.reader.items import Item, sample_items
from predecode.transforms.errors import FormatError
from predecode.transforms.format import SPLITS
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder

_TAR = re.compile(rf"(?:(?P<root>.+)/)?(?:{'|'.join(SPLITS)})/shard-\d+\.tar")
_OUTPUTS_KEPT = 32


def expand_windows(
    sample: Mapping[str, Any], *, root: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Iterator[Item]:
    """Gives the items of one sample of a webdataset pipeline: one per anchor.

    One sample makes one item or many, so that in a pipeline what `map` gives is chained:

        import itertools
        import webdataset

        dataset = webdataset.WebDataset(tars, shardshuffle=100, empty_check=False)
        dataset = dataset.map(expand_windows).compose(itertools.chain.from_iterable).shuffle(1000)

    Don't call `.decode()` before: members come as bytes. `empty_check=False` because a shard whose segments were all
    quarantined is a valid empty tar, and because a worker may get no shard.

    Args:
        sample: What webdataset makes of a key: the members' bytes by extension, `__key__` and `__url__`.
        root: The output that the sample belongs to, where `__url__` is no path or URL below it (as with `pipe:`).
        storage_options: For fsspec, to read the manifest.

    Yields:
        The same items as lerobot's map-style dataset.

    Raises:
        FormatError: the sample is not of a complete output, or is damaged.
        OSError: storage fails.
    """
    url = str(sample.get("__url__", ""))
    where = f"{url or root}, sample {sample.get('__key__')}"
    options_json = json.dumps(dict(storage_options or {}), sort_keys=True)
    item_format = _read_format(_find_root(url) if root is None else root, options_json)
    yield from sample_items(_members(sample, item_format, where), item_format, where=where)


def _find_root(url: str) -> str:
    """The output that a tar belongs to.

    >>> _find_root("s3://bucket/out/train/shard-00000.tar"), _find_root("val/shard-00000.tar")
    ('s3://bucket/out', '.')
    """
    match = _TAR.fullmatch(url)
    if match is None:
        raise FormatError(
            f"Cannot tell which output a sample belongs to: expected `__url__` as OUTPUT/train/shard-00000.tar, got "
            f"{url!r:.200}. Name the output: functools.partial(expand_windows, root=OUTPUT)."
        )
    return match["root"] or "."


@lru_cache(maxsize=_OUTPUTS_KEPT)
def _read_format(root: str, options_json: str) -> ItemFormat:
    return ItemFormat.of(read_manifest(Folder.of(root, json.loads(options_json))))


def _members(sample: Mapping[str, Any], item_format: ItemFormat, where: str) -> dict[str, bytes]:
    """The members by their true extensions: webdataset gives them in lower case."""
    members = {}
    for extension in item_format.members:
        content = sample.get(extension, sample.get(extension.lower()))
        if content is None:
            continue
        if not isinstance(content, bytes):
            raise FormatError(
                f"{where}: expected {extension} as bytes, got {type(content).__name__}. "
                "Call expand_windows before, or instead of, webdataset's .decode()."
            )
        members[extension] = content
    return members
