"""Arrow columns as numpy arrays, by the rules by which lerobot makes tensors of them.

A value is first cast to the dtype that info.json declares (integers that do not fit and fractions that would be lost
are errors), then to the dtype of an item. Lists may be of variable, large or fixed size, or extension types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predecode.transforms.errors import DataError
from predecode.transforms.features import Feature, Kind

Where: TypeAlias = Callable[[int], str]
"""Says where a position of a column is, for messages: episode, frame and file."""


def type_problem(column_type: pa.DataType, feature: Feature) -> str:
    """Why a column of this type cannot hold a feature; "" where it can.

    The length of variable lists shows in the values only.
    """
    element = _storage_type(column_type)
    if feature.kind is Kind.IMAGE:
        return "" if _holds_images(element) else _mismatch(column_type, feature)
    for size in feature.shape:
        if not _is_list(element):
            if feature.shape == (1,):
                break
            return _mismatch(column_type, feature)
        if pa.types.is_fixed_size_list(element) and element.list_size != size:
            return _mismatch(column_type, feature)
        element = element.value_type
    holds = _holds_text if feature.kind is Kind.STRING else _holds_numbers
    return "" if holds(element) else _mismatch(column_type, feature)


def number_values(column: pa.Array, feature: Feature, where: Where) -> NDArray[Any]:
    """Values of a number feature.

    Returns:
        (len(column), *feature.item_shape) of `feature.item_dtype`.

    Raises:
        DataError: another type of column, a null, a vector of another length, a number the declared dtype cannot hold.
    """
    flat = _elements(column, feature, where)
    declared = pa.from_numpy_dtype(np.dtype(feature.dtype))
    try:
        values = flat.cast(declared).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        position = _first_failing(flat, declared) * len(column) // len(flat)
        raise DataError(
            f"{where(position)}: feature {feature.name!r} holds a value that its dtype {feature.dtype} cannot: {error}"
        ) from error
    if feature.dtype == "uint64" and (values > np.iinfo(np.int64).max).any():
        position = int(np.argmax(values > np.iinfo(np.int64).max)) * len(column) // len(flat)
        raise DataError(f"{where(position)}: feature {feature.name!r} holds a number that an int64 tensor cannot.")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as it does in a tensor
        return values.astype(feature.item_dtype).reshape(len(column), *feature.item_shape)


def string_values(column: pa.Array, feature: Feature, where: Where) -> list[str]:
    """Values of a string feature, one a row.

    Raises:
        DataError: another type of column, a null, a list that does not hold exactly one string, not UTF-8.
    """
    texts = _elements(column, feature, where).cast(pa.string())
    try:
        return [str(text) for text in texts.to_pylist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{where(0)} or behind it: feature {feature.name!r} is not valid UTF-8: {error}.") from error


def whole_numbers(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A plain numeric column as int64, and which rows are valid: neither null, nor NaN, nor a fraction."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if not pa.types.is_floating(column.type):
        return column.fill_null(False if pa.types.is_boolean(column.type) else 0).cast(
            pa.int64(), safe=False
        ).to_numpy(), valid
    numbers = float_numbers(column)
    valid &= np.isfinite(numbers) & (np.floor(numbers) == numbers) & (np.abs(numbers) < 2.0**53)
    return np.where(valid, numbers, 0).astype(np.int64), valid


def float_numbers(column: pa.Array) -> NDArray[np.float64]:
    """A plain numeric column as float64, NaN where it is null."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def is_plain_number(column_type: pa.DataType) -> bool:
    """Whether a column holds one number a row, not a list."""
    return _holds_numbers(column_type)


def _elements(column: pa.Array, feature: Feature, where: Where) -> pa.Array:
    """All elements, one behind the other: the lists taken away, after checks of nulls and lengths."""
    if problem := type_problem(column.type, feature):
        raise DataError(f"{where(0)}: {problem}")
    num_rows = len(column)
    values = column.storage if isinstance(column, pa.ExtensionArray) else column
    for size in feature.shape:
        _refuse_nulls(values, num_rows, feature, where)
        if not _is_list(values.type):
            break
        if not pa.types.is_fixed_size_list(values.type):
            wrong = pc.not_equal(pc.list_value_length(values), size).to_numpy(zero_copy_only=False)
            if wrong.any():
                first = int(np.argmax(wrong))
                raise DataError(
                    f"{where(first * num_rows // len(values))}: feature {feature.name!r}: expected shape "
                    f"{feature.shape}, got a list of {len(values[first])} where {size} are declared."
                )
        values = values.flatten()
    _refuse_nulls(values, num_rows, feature, where)
    return values


def _refuse_nulls(values: pa.Array, num_rows: int, feature: Feature, where: Where) -> None:
    if values.null_count:
        first = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{where(first * num_rows // len(values))}: feature {feature.name!r} is null.")


def _first_failing(values: pa.Array, declared: pa.DataType) -> int:
    """The first element that cannot be cast; only called when one cannot."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            values[low:middle].cast(declared)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _mismatch(column_type: pa.DataType, feature: Feature) -> str:
    return (
        f"feature {feature.name!r}: expected {feature.dtype} of shape {feature.shape}, as info.json declares, got a "
        f"column of type {column_type!s:.120}. Mend info.json, or leave it out with --exclude-features {feature.name}."
    )


def _storage_type(column_type: pa.DataType) -> pa.DataType:
    return column_type.storage_type if isinstance(column_type, pa.BaseExtensionType) else column_type


def _is_list(column_type: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(column_type) or types.is_large_list(column_type) or types.is_fixed_size_list(column_type))


def _holds_numbers(column_type: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(column_type) or types.is_floating(column_type) or types.is_boolean(column_type))


def _holds_text(column_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(column_type):
        column_type = column_type.value_type
    return bool(pa.types.is_string(column_type) or pa.types.is_large_string(column_type))


def _holds_images(column_type: pa.DataType) -> bool:
    """As `datasets.Image` has it: encoded bytes, a path, or a struct of both."""
    if pa.types.is_struct(column_type):
        return any(column_type.get_field_index(name) >= 0 for name in ("bytes", "path"))
    return bool(_holds_text(column_type) or pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type))
