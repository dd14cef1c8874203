"""What a dataset holds per frame: its features, as `meta/info.json` declares them.

The rules are those of LeRobot's format (v2.0 to v3.0); the dtypes that an item has follow lerobot's own conversion to
tensors: floats become float32, integers int64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from predecode.transforms.errors import SOURCE_REMEDY, SourceError, UsageError, did_you_mean

MAX_NAME_LENGTH = 76
"""Characters: KEY (13) + "." + camera + ".frames" or ".npy.zst" must fit the 100 characters of a plain tar header."""

MAX_ELEMENTS = 1 << 24
"""Values of one feature in one frame: what is larger is an absurd declaration, not a sensor."""

_ITEM_DTYPES = {
    "bool": "bool",
    **dict.fromkeys(("float16", "float32", "float64"), "float32"),
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), "int64"),
}


MAX_DIMENSIONS = 8


class Kind(StrEnum):
    """How a feature's values are stored in the source and in the output."""

    VIDEO = "video"
    IMAGE = "image"
    NUMBER = "number"
    STRING = "string"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a dataset.

    Attributes:
        name: As in info.json.
        kind: How it is stored.
        dtype: As declared: "float32", "video", ...
        shape: As declared, without time. For cameras not to be trusted: the decoded frame decides.
        item_dtype: numpy name of the dtype that an item holds: "float32", "int64", "bool"; "" where not a number.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    item_dtype: str = ""

    @property
    def is_camera(self) -> bool:
        """Whether its values are images."""
        return self.kind in (Kind.VIDEO, Kind.IMAGE)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one frame's value in an item: a declared (1,) is a scalar, as lerobot returns it.

        >>> Feature("next.reward", Kind.NUMBER, "float32", (1,)).item_shape
        ()
        >>> Feature("action", Kind.NUMBER, "float32", (7,)).item_shape
        (7,)
        """
        return () if self.shape == (1,) else self.shape


def parse_features(specs: object, *, where: str, excluded: frozenset[str] = frozenset()) -> tuple[Feature, ...]:
    """Reads the `features` of an info.json, in order.

    Args:
        specs: The decoded JSON value.
        where: What to call the file in messages.
        excluded: Names that are left out, whatever they are.

    Raises:
        SourceError: an unsafe name, or a dtype or shape that cannot be materialized.
        UsageError: a feature is excluded that is not there.
    """
    if not isinstance(specs, Mapping) or not specs:
        raise SourceError(
            f"{where}: expected `features` to be an object of at least one feature, got {specs!r:.80}. {SOURCE_REMEDY}"
        )
    if unknown := excluded - specs.keys():
        raise UsageError(
            f"{where}: cannot exclude {', '.join(sorted(unknown))}: no such feature."
            f"{did_you_mean(min(unknown), specs)} There are: {', '.join(specs)}."
        )
    features = tuple(_parse_feature(name, spec, where) for name, spec in specs.items() if name not in excluded)
    _check_cameras([feature.name for feature in features if feature.is_camera], where)
    return features


def _check_cameras(names: Sequence[str], where: str) -> None:
    """Camera names become names of tar members, which webdataset gives in lower case."""
    for name in names:
        if not name.isascii():
            raise SourceError(
                f"{where}: expected the name of a camera in ASCII letters, got {name!r}. "
                f"Leave it out with --exclude-features {name}."
            )
    if len({name.lower() for name in names}) != len(names):
        raise SourceError(
            f"{where}: expected names of cameras that differ in more than case, got {', '.join(names)}. "
            "Leave one out with --exclude-features."
        )


def _parse_feature(name: str, spec: object, where: str) -> Feature:
    check_name(name, where)
    remedy = f"Leave it out with --exclude-features {name}."
    if not isinstance(spec, Mapping):
        raise SourceError(
            f"{where}: feature {name!r}: expected an object with dtype and shape, got {spec!r:.80}. {remedy}"
        )
    dtype, shape = spec.get("dtype"), spec.get("shape")
    if dtype == "language":
        raise SourceError(f"{where}: feature {name!r} has dtype 'language', which cannot be materialized. {remedy}")
    if _is_depth(spec):
        raise SourceError(f"{where}: feature {name!r} is a depth map, which cannot be materialized. {remedy}")
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    is_shape = 1 <= len(sizes) <= MAX_DIMENSIONS and all(type(size) is int and size > 0 for size in sizes)
    if not is_shape or math.prod(sizes) > MAX_ELEMENTS:
        raise SourceError(
            f"{where}: feature {name!r}: expected a shape of 1 to {MAX_DIMENSIONS} positive sizes (at most "
            f"{MAX_ELEMENTS} values), got {shape!r:.80}. {remedy}"
        )
    if dtype in (Kind.VIDEO, Kind.IMAGE, Kind.STRING):
        return Feature(name, Kind(dtype), str(dtype), sizes)
    if not isinstance(dtype, str) or dtype not in _ITEM_DTYPES:
        known = ", ".join((*_ITEM_DTYPES, "string", "image", "video"))
        raise SourceError(f"{where}: feature {name!r} has dtype {dtype!r:.80}; known are {known}. {remedy}")
    return Feature(name, Kind.NUMBER, dtype, sizes, _ITEM_DTYPES[dtype])


def check_name(name: object, where: str) -> None:
    """Refuses names that could leave their folder or break a tar: they become parts of paths and member names.

    Raises:
        SourceError: the name is not safe.
    """
    if not isinstance(name, str) or not name or len(name.encode(errors="replace")) > MAX_NAME_LENGTH:
        raise SourceError(
            f"{where}: expected a feature name of 1 to {MAX_NAME_LENGTH} bytes, got {name!r:.120}. Leave the "
            "feature out with --exclude-features, or give it another name in the dataset."
        )
    if not name.isprintable() or name[0] in "._" or ".." in name or any(letter in name for letter in "/\\"):
        raise SourceError(
            f"{where}: feature name {name!r:.120} is not safe in a path: it must be printable, without '/', '\\' and "
            "'..', and must not begin with '.' or '_'. Leave the feature out with --exclude-features, or give it "
            "another name in the dataset."
        )


def _is_depth(spec: Mapping[str, object]) -> bool:
    """Whether a camera is declared a depth map, in any of the three places where lerobot's versions put it."""
    infos = [info for key in ("info", "video_info") if isinstance(info := spec.get(key), Mapping)]
    return any(info.get(key) is True for info in infos for key in ("is_depth_map", "video.is_depth_map"))
