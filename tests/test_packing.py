"""Tensors are packed as the library itself does it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.numpy import save

from predecode.transforms.packing import pack_tensors

DTYPES = st.sampled_from([np.dtype(name) for name in ("?", "u1", "<i4", "<i8", "<f4", "<f8")])
TENSORS = st.dictionaries(
    st.text(max_size=20).filter(lambda name: name != "__metadata__"),
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    max_size=8,
)


@given(TENSORS, st.randoms(use_true_random=False))
def test_bytes_are_the_librarys(tensors: dict[str, NDArray[Any]], random: Any) -> None:
    assert pack_tensors(tensors) == save(tensors)
    # Once more with other values, from the same frame.
    names = list(tensors)
    random.shuffle(names)
    others = {name: np.full_like(tensors[name], 1) for name in names}
    assert pack_tensors(others) == save(others)


def test_views_are_packed_by_their_values() -> None:
    values = np.arange(24, dtype=np.int64).reshape(4, 6)
    assert pack_tensors({"a": values[::2, 1::3]}) == save({"a": np.ascontiguousarray(values[::2, 1::3])})
