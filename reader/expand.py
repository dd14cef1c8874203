"""Items from a plain webdataset pipeline, which knows nothing of windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from predecode.reader.item_format import ItemFormat
from predecode.reader.items import Item, sample_items
from predecode.reader.opening import open_output
from predecode.reader.ranges import REMEDY
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import FormatError
from predecode.transforms.format import SPLITS
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder

_TAR = re.compile(rf"(?:(?P<root>.+)/)?(?:{'|'.join(SPLITS)})/shard-\d+\.tar")
_KEY = re.compile(r"(\d{6,12})-(\d{6,12})")
_OUTPUTS_KEPT = 32


def expand_windows(
    sample: Mapping[str, Any],
    *,
    root: str | None = None,
    verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Item]:
    """Gives the items of one sample of a webdataset pipeline: one per anchor.

    One sample makes one item or many, so that in a pipeline what `map` gives is chained:

        import itertools
        import webdataset

        dataset = webdataset.WebDataset(tars, shardshuffle=100, empty_check=False)
        dataset = dataset.map(expand_windows).compose(itertools.chain.from_iterable).shuffle(1000)

    Don't call `.decode()` before: members come as bytes. `empty_check=False` because a shard whose segments were all
    quarantined is a valid empty tar, and because a worker may get no shard.

    What it gives is right; what the pipeline never hands over it cannot know of. A damaged header in a tar looks like
    its end to those who read it in sequence: compare the number of items with the manifest's where that matters.

    Args:
        sample: What webdataset makes of a key: the members' bytes by extension, `__key__` and `__url__`.
        root: The output that the sample belongs to, where `__url__` is no path or URL below it (as with `pipe:`).
        verify: Whether every member is checked against its checksum, which stands in the index of its shard: the
            output's tables and that index are read too, and the shard must have its size.
        storage_options: For fsspec, to read all that but the tars.

    Yields:
        The same items as lerobot's map-style dataset.

    Raises:
        FormatError: the sample is not of a complete output, or is damaged.
        OSError: storage fails.
    """
    url = str(sample.get("__url__", ""))
    where = f"{url or root}, sample {sample.get('__key__')}"
    options_json = json.dumps(dict(storage_options or {}), sort_keys=True)
    output = (_find_root(url) if root is None else root, options_json)
    item_format = _read_format(*output)
    members = _members(sample, item_format, where)
    if verify:
        _check_members(str(sample.get("__key__")), members, _open_splits(*output), item_format, where)
    yield from sample_items(members, item_format, where=where)


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


@lru_cache(maxsize=_OUTPUTS_KEPT)
def _open_splits(root: str, options_json: str) -> tuple[SplitIndex, ...]:
    return open_output(
        Folder.of(root, json.loads(options_json)),
        lambda folder, manifest: tuple(
            SplitIndex(folder, manifest, split) for split in SPLITS if split in manifest["splits"]
        ),
    )


def _check_members(
    key: str, members: Mapping[str, bytes], splits: Iterable[SplitIndex], item_format: ItemFormat, where: str
) -> None:
    """Checks what there is of a sample: an episode is in one split, so that the key alone says where it lies."""
    match = _KEY.fullmatch(key)
    episode_index, first_frame = (int(match[1]), int(match[2])) if match else (-1, 0)
    first_anchor, between = divmod(first_frame, item_format.anchor_stride)
    for split in splits:
        place = None if between else split.find_sample(episode_index, first_anchor)
        if place is not None:
            index, row = split.shard_index(place[0]), place[1]
            for member, content in members.items():
                index.check_member(content, row, member)
            return
    raise FormatError(f"{where}: the output has no such sample. {REMEDY}")


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
