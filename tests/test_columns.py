"""Arrow columns as arrays: every type that lerobot loads, and every way in which a column can be wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from predecode.transforms.columns import number_values, string_values, type_problem, whole_numbers
from predecode.transforms.errors import DataError
from predecode.transforms.features import Feature, parse_features


def _feature(dtype: str, *shape: int) -> Feature:
    return parse_features({"x": {"dtype": dtype, "shape": list(shape)}}, where="test")[0]


def _where(position: int) -> str:
    return f"row {position}"


def _read(values: Any, kind: pa.DataType, feature: Feature) -> NDArray[Any]:
    return number_values(pa.array(values, type=kind), feature, _where)


@given(
    data=st.data(),
    num_rows=st.integers(1, 6),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    dtype=st.sampled_from(["float32", "float64", "int16", "int64", "uint8", "bool"]),
    sort=st.sampled_from(["list", "large_list", "fixed"]),
    start=st.integers(0, 2),
)
def test_values_are_those_of_the_lists(
    data: st.DataObject, num_rows: int, shape: list[int], dtype: str, sort: str, start: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    array = (rng.normal(size=(num_rows + start, *shape)) * 50).clip(0).astype(dtype)
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    for size in reversed(shape):
        kind = {"list": pa.list_, "large_list": pa.large_list, "fixed": lambda inner, size=size: pa.list_(inner, size)}[
            sort
        ](kind)
    feature = _feature(dtype, *shape)
    got = number_values(pa.array(array.tolist(), type=kind)[start:], feature, _where)
    assert got.dtype == feature.item_dtype
    assert got.shape == (num_rows, *feature.item_shape)
    assert np.array_equal(got, array[start:].astype(feature.item_dtype).reshape(got.shape))


class TestNumbers:
    def test_float64_is_rounded_and_overflows_to_infinity(self) -> None:
        got = _read([0.1, 1e300, math.nan], pa.float64(), _feature("float64", 1))
        assert got.dtype == np.float32
        assert got.tolist()[:2] == [float(np.float32(0.1)), math.inf]
        assert math.isnan(got[2])

    def test_the_declared_dtype_comes_first(self) -> None:
        assert _read([1.0, 2.0], pa.float64(), _feature("int64", 1)).tolist() == [1, 2]
        assert _read([0.1], pa.float64(), _feature("float16", 1)).tolist() == [float(np.float16(0.1))]
        assert _read([3, 4], pa.int32(), _feature("float32", 1)).dtype == np.float32

    @pytest.mark.parametrize(
        ("values", "kind", "dtype"),
        [
            ([1.0, 2.5], pa.float64(), "int64"),
            ([1, 300], pa.int64(), "uint8"),
            ([1, -1], pa.int64(), "uint64"),
            ([1, 2**63], pa.uint64(), "uint64"),
            ([1.0, math.nan], pa.float32(), "int32"),
        ],
    )
    def test_a_value_that_does_not_fit(self, values: list[Any], kind: pa.DataType, dtype: str) -> None:
        with pytest.raises(DataError, match=r"^row 1: feature 'x' holds"):
            _read(values, kind, _feature(dtype, 1))

    def test_a_value_that_does_not_fit_into_a_vector(self) -> None:
        with pytest.raises(DataError, match=r"^row 2: feature 'x' holds"):
            _read([[1, 2, 3], [4, 5, 6], [7, 8, 300]], pa.list_(pa.int64(), 3), _feature("uint8", 3))

    def test_scalars_may_be_lists_of_one(self) -> None:
        assert _read([[1.0], [2.0]], pa.list_(pa.float32()), _feature("float32", 1)).shape == (2,)
        assert _read([[1.0], [2.0]], pa.list_(pa.float32(), 1), _feature("float32", 1)).shape == (2,)
        assert _read([[[1.0]]], pa.list_(pa.list_(pa.float32())), _feature("float32", 1, 1)).shape == (1, 1, 1)

    @pytest.mark.parametrize(
        ("values", "kind", "shape"),
        [
            ([1.0, None], pa.float32(), (1,)),
            ([[1.0], None], pa.list_(pa.float32()), (1,)),
            ([[1.0, 2.0], None], pa.list_(pa.float32(), 2), (2,)),
            ([[1.0, 2.0], [1.0, None]], pa.list_(pa.float32(), 2), (2,)),
            ([[[1.0], [2.0]], [[1.0], None]], pa.list_(pa.list_(pa.float32())), (2, 1)),
        ],
    )
    def test_nulls(self, values: list[Any], kind: pa.DataType, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"^row 1: feature 'x' is null"):
            _read(values, kind, _feature("float32", *shape))

    def test_a_vector_of_another_length(self) -> None:
        with pytest.raises(DataError, match=r"^row 1: feature 'x': expected shape \(2,\), got a list of 3 where 2"):
            _read([[1.0, 2.0], [1.0, 2.0, 3.0]], pa.list_(pa.float32()), _feature("float32", 2))
        with pytest.raises(DataError, match=r"^row 1: feature 'x': expected shape \(2, 1\), got a list of 0 where 1"):
            _read([[[1], [2]], [[1], []]], pa.list_(pa.list_(pa.int8())), _feature("int8", 2, 1))

    def test_extension_types(self) -> None:
        class Matrix(pa.ExtensionType):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(pa.list_(pa.list_(pa.float32())), "tests.matrix")

            def __arrow_ext_serialize__(self) -> bytes:
                return b""

        storage = pa.array([[[1.0, 2.0]], [[3.0, 4.0]]], type=Matrix().storage_type)
        column = pa.ExtensionArray.from_storage(Matrix(), storage)
        assert number_values(column, _feature("float32", 1, 2), _where).tolist() == [[[1.0, 2.0]], [[3.0, 4.0]]]

    def test_the_result_may_be_written_to_or_not_but_is_no_view_of_another_dtype(self) -> None:
        got = _read([[1, 2]], pa.list_(pa.int64(), 2), _feature("int64", 2))
        assert got.tolist() == [[1, 2]]


class TestStrings:
    @pytest.mark.parametrize(
        "column",
        [
            pa.array(["a", "ü"]),
            pa.array(["a", "ü"], type=pa.large_string()),
            pa.array(["a", "ü"]).dictionary_encode(),
            pa.array([["a"], ["ü"]]),
        ],
    )
    def test_values(self, column: pa.Array) -> None:
        assert string_values(column, _feature("string", 1), _where) == ["a", "ü"]

    def test_nulls_and_other_types(self) -> None:
        with pytest.raises(DataError, match=r"^row 1: feature 'x' is null"):
            string_values(pa.array(["a", None]), _feature("string", 1), _where)
        with pytest.raises(DataError, match="expected string"):
            string_values(pa.array([1]), _feature("string", 1), _where)

    def test_not_utf8(self) -> None:
        column = pa.array([b"\xff"], type=pa.binary()).view(pa.string())
        with pytest.raises(DataError, match="not valid UTF-8"):
            string_values(column, _feature("string", 1), _where)


@pytest.mark.parametrize(
    ("kind", "feature", "is_sound"),
    [
        (pa.float32(), _feature("float32", 1), True),
        (pa.string(), _feature("float32", 1), False),
        (pa.null(), _feature("float32", 1), False),
        (pa.float32(), _feature("float32", 2), False),
        (pa.list_(pa.float32(), 3), _feature("float32", 2), False),
        (pa.list_(pa.float32()), _feature("float32", 2), True),
        (pa.list_(pa.list_(pa.float32())), _feature("float32", 2), False),
        (pa.float32(), _feature("string", 1), False),
        (pa.struct({"bytes": pa.binary(), "path": pa.string()}), _feature("image", 1, 1, 3), True),
        (pa.struct({"path": pa.string()}), _feature("image", 1, 1, 3), True),
        (pa.struct({"other": pa.string()}), _feature("image", 1, 1, 3), False),
        (pa.binary(), _feature("image", 1, 1, 3), True),
        (pa.list_(pa.uint8()), _feature("image", 1, 1, 3), False),
    ],
)
def test_types(kind: pa.DataType, feature: Feature, *, is_sound: bool) -> None:
    problem = type_problem(kind, feature)
    assert (problem == "") == is_sound
    assert is_sound or "--exclude-features x" in problem


def test_whole_numbers() -> None:
    numbers, valid = whole_numbers(pa.array([1.0, None, math.nan, 2.5, math.inf, -3.0]))
    assert numbers.tolist() == [1, 0, 0, 0, 0, -3]
    assert valid.tolist() == [True, False, False, False, False, True]
    numbers, valid = whole_numbers(pa.array([7, None], type=pa.uint8()))
    assert (numbers.tolist(), valid.tolist()) == ([7, 0], [True, False])
    numbers, valid = whole_numbers(pa.array([True, None]))
    assert (numbers.tolist(), valid.tolist()) == ([1, 0], [True, False])
