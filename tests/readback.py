"""A second reader, written from docs/format.md alone: slow, straight-forward, and without any of the project's code."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

Arrays = dict[str, NDArray[Any] | str]


def read_items(output: Path, split: str = "train") -> Iterator[Arrays]:
    """Every item of a split, in tar order; keys in item order, frames float32 (T, C, H, W) or (C, H, W)."""
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    for tar in sorted((output / split).glob("shard-*.tar")):
        for members in read_samples(tar):
            yield from items_of(members, manifest)


def read_samples(tar: Path) -> Iterator[dict[str, bytes]]:
    """The members of each sample by extension, and its key as `__key__`."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, extension = member.name.split(".", 1)
            file = archive.extractfile(member)
            assert file is not None
            samples.setdefault(key, {"__key__": key.encode()})[extension] = file.read()
    yield from samples.values()


def items_of(members: dict[str, bytes], manifest: dict[str, Any]) -> Iterator[Arrays]:
    text = json.loads(members["json"])
    tensors = safetensors.numpy.load(members["data.safetensors"])
    assert members["__key__"].decode() == f"{text['episode_index']:06d}-{text['frame_index']:06d}"
    deltas = dict(manifest["delta_indices"])
    for k in range(text["anchors"]):
        item: Arrays = {}
        for name, feature in manifest["features"].items():
            if feature["kind"] in ("video", "image"):
                frames = camera_frames(name, members, tensors, k, manifest)
                squeezed = name not in deltas or (feature["kind"] == "video" and len(deltas[name]) == 1)
                item[name] = frames[0] if squeezed else frames
            elif feature["kind"] == "number":
                value = tensors[name][tensors[f"{name}/index"][k]] if name in deltas else tensors[name][k]
                assert value.dtype == feature["dtype"]
                item[name] = value
        for name in deltas:
            item[f"{name}_is_pad"] = tensors[f"{name}_is_pad"][k]
        for name in manifest["text_features"]:
            item[name] = text[name][k]
        yield {key: item[key] for key in manifest["item_keys"]}


def camera_frames(
    name: str, members: dict[str, bytes], tensors: dict[str, NDArray[Any]], k: int, manifest: dict[str, Any]
) -> NDArray[np.float32]:
    """The frames of anchor k: float32 in [0, 1], (T, C, H, W)."""
    if manifest["has_runs"]:
        content, offsets = members[f"{name}.frames"], tensors[f"{name}/offsets"]
        encoded = [content[offsets[i] : offsets[i + 1]] for i in tensors[f"{name}/index"][k]]
    else:
        encoded = [members[f"{name}.{manifest['image']['extension']}"]]
    images = []
    for content in encoded:
        image = np.asarray(Image.open(io.BytesIO(content)))
        images.append(image.reshape(manifest["features"][name]["shape"]).transpose(2, 0, 1))
    return np.stack(images).astype(np.float32) / np.float32(255)
