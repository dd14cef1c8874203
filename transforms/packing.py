"""Tensors as one safetensors file in memory."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from predecode.transforms.format import TENSORS_LENGTH

_Shape: TypeAlias = tuple[str, str, tuple[int, ...]]
"""Name, dtype as numpy's `str` has it, and shape of a tensor."""


def pack_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The same bytes as `safetensors.numpy.save`, in a seventh of its time.

    Most samples of a job have tensors of the same names, dtypes and shapes, of which everything follows but the values.

    Args:
        tensors: By name; little-endian.
    """
    head, order = _frame(tuple([(name, tensor.dtype.str, tensor.shape) for name, tensor in tensors.items()]))
    return b"".join([head, *[tensors[name].tobytes() for name in order]])


@functools.lru_cache(maxsize=1024)
def _frame(shapes: tuple[_Shape, ...]) -> tuple[bytes, tuple[str, ...]]:
    """What stands before the values of tensors, and the order in which these follow: the library's own."""
    content = save({name: np.zeros(shape, dtype) for name, dtype, shape in shapes})
    start = TENSORS_LENGTH.size + TENSORS_LENGTH.unpack_from(content)[0]
    places = json.loads(content[TENSORS_LENGTH.size : start])
    return content[:start], tuple(sorted(places, key=lambda name: places[name]["data_offsets"]))
