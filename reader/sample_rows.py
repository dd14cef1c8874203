"""A sample without its frames: strings, rows and the windows into them, checked against the manifest.

The windows are a gather: which row or frame a delta shows, and whether it is padding, was decided when the sample was
written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from predecode.reader.item_format import ItemFormat, StoredFeature
from predecode.reader.ranges import REMEDY
from predecode.transforms.errors import FormatError


@dataclass(frozen=True, slots=True)
class SampleRows:
    """What the JSON and the safetensors member of a sample hold.

    Attributes:
        item_format: Of the output.
        text: Content of the JSON member.
        tensors: Content of the safetensors member.
        num_anchors: Items that the sample makes.
        where: What to call the sample in messages.
    """

    item_format: ItemFormat
    text: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    num_anchors: int
    where: str

    @classmethod
    def parse(cls, item_format: ItemFormat, text: bytes, tensors: bytes, *, where: str) -> SampleRows:
        """Reads the two members.

        Raises:
            FormatError: they are not what the format says.
        """
        try:
            content = json.loads(text)
            rows = cls(item_format, content, safetensors.torch.load(tensors), content["anchors"], where)
            sound = type(rows.num_anchors) is type(content["frame_index"]) is int and rows.num_anchors >= 1
            texts = [content[name] for name in item_format.text_features]
            sound = sound and all(_is_text_of(rows.num_anchors, values) for values in texts)
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise FormatError(f"{where}: a member is damaged: {error!r:.200}. {REMEDY}") from error
        if not sound:
            raise FormatError(f"{where}: expected, per text feature, as many strings as anchors. {REMEDY}")
        return rows

    def frame_number(self, anchor: int) -> int:
        """Which frame of its episode an anchor is, by its number within the sample."""
        return int(self.text["frame_index"]) + anchor * self.item_format.anchor_stride

    def value(self, feature: StoredFeature, anchor: int) -> torch.Tensor:
        """A number feature of one item: its value, or its window (T, ...).

        Raises:
            FormatError: the tensors are not what the format says.
        """
        deltas = self.item_format.delta_indices.get(feature.name)
        num_rows = self.num_anchors if deltas is None else None
        rows = self._tensor(feature.name, getattr(torch, feature.dtype), (num_rows, *feature.shape))
        if deltas is None:
            return rows[anchor].clone()
        index = self._tensor(f"{feature.name}/index", torch.int32, (self.num_anchors, len(deltas)))[anchor]
        self._check_index(feature.name, index.numpy(), len(rows))
        return rows[index]

    def is_pad(self, name: str, anchor: int) -> torch.Tensor:
        """The mask of a windowed feature of one item: bool (T,).

        Raises:
            FormatError: the tensors are not what the format says.
        """
        shape = (self.num_anchors, len(self.item_format.delta_indices[name]))
        return self._tensor(f"{name}_is_pad", torch.bool, shape)[anchor].clone()

    def frame_offsets(self, camera: str) -> NDArray[np.int64]:
        """Where the N frames of a `frames` member begin and end: N + 1 ascending offsets.

        Raises:
            FormatError: the tensors are not what the format says.
        """
        offsets = self._tensor(f"{camera}/offsets", torch.int64, (None,)).numpy()
        if len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
            raise FormatError(f"{self.where}: expected {camera}/offsets to ascend from 0. {REMEDY}")
        return offsets

    def frame_index(self, camera: str) -> NDArray[np.int32]:
        """Which frame of a `frames` member each delta of each anchor shows: (A, T).

        Raises:
            FormatError: the tensors are not what the format says.
        """
        deltas = self.item_format.delta_indices.get(camera, (0,))
        index = self._tensor(f"{camera}/index", torch.int32, (self.num_anchors, len(deltas))).numpy()
        self._check_index(camera, index, len(self.frame_offsets(camera)) - 1)
        return index

    def _check_index(self, name: str, index: NDArray[np.int32], num_stored: int) -> None:
        if index.min() < 0 or index.max() >= num_stored:
            raise FormatError(
                f"{self.where}: expected {name}/index below {num_stored}, got {index.min()} to {index.max()}. {REMEDY}"
            )

    def _tensor(self, name: str, dtype: torch.dtype, shape: Sequence[int | None]) -> torch.Tensor:
        """A tensor of this dtype and shape, where None is any size."""
        tensor = self.tensors.get(name)
        if (
            tensor is None
            or tensor.dtype != dtype
            or tensor.ndim != len(shape)
            or any(wanted not in (None, got) for got, wanted in zip(tensor.shape, shape, strict=True))
        ):
            got = "none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            expected = f"{dtype} ({', '.join('any' if size is None else str(size) for size in shape)})"
            raise FormatError(f"{self.where}: expected the tensor {name} as {expected}, got {got}. {REMEDY}")
        return tensor


def _is_text_of(num_anchors: int, values: object) -> bool:
    return isinstance(values, list) and len(values) == num_anchors and all(type(value) is str for value in values)
