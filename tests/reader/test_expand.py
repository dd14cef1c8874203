"""Reading through a plain webdataset pipeline."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import webdataset

from predecode.reader import expand_windows
from predecode.transforms.errors import FormatError
from tests.readback import read_items, read_samples
from tests.reader.conftest import Materialized
from tests.reader.damage import index_rows
from tests.reader.pipelines import pipeline, read_all, tars


@pytest.fixture
def output(materialized: Materialized) -> Path:
    return materialized("zoo_v30", "far", 7)


def first_sample(output: Path) -> dict[str, Any]:
    tar = output / "train" / "shard-00000.tar"
    return {**next(read_samples(tar)), "__key__": "000001-000000", "__url__": str(tar)}


def test_webdataset_gives_every_item_in_tar_order(output: Path) -> None:
    expected = list(read_items(output))
    items = read_all(pipeline(tars(output)))
    assert len(items) == len(expected) == 58
    for item, other in zip(items, expected, strict=True):
        assert list(item) == list(other)
        assert all(np.array_equal(np.asarray(value), other[key]) for key, value in item.items())


def test_the_pipeline_can_be_sent_to_another_process(output: Path) -> None:
    assert len(read_all(pickle.loads(pickle.dumps(pipeline(tars(output)))))) == 58  # noqa: S301 - our own


@pytest.mark.slow
def test_items_can_be_batched_by_worker_processes(output: Path) -> None:
    loader = torch.utils.data.DataLoader(
        pipeline(tars(output)), batch_size=8, num_workers=2, multiprocessing_context="spawn"
    )
    batches = read_all(loader)
    assert sum(len(batch["task"]) for batch in batches) == 58
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(58))
    assert batches[0]["observation.images.wrist"].shape == (8, 3, 3, 32, 40)


def test_an_empty_shard_gives_nothing(output: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    with webdataset.TarWriter(str(copy / "train" / "shard-00000.tar")):
        pass
    assert 0 < len(read_all(pipeline(tars(copy)))) < 58


def test_extensions_in_lower_case_are_found(output: Path, tmp_path: Path) -> None:
    """As webdataset gives them."""
    sample = first_sample(output)
    manifest = json.loads((output / "manifest.json").read_text().replace("observation.images.cam", "Cam"))
    sample = {key.replace("observation.images.cam", "cam"): value for key, value in sample.items()}
    tensors = safetensors.numpy.load(sample["data.safetensors"])
    renamed = {key.replace("observation.images.cam", "Cam"): value for key, value in tensors.items()}
    sample["data.safetensors"] = safetensors.numpy.save(renamed)
    write_manifest(tmp_path, manifest)
    item = next(expand_windows(sample, root=str(tmp_path), verify=False))
    assert isinstance(item["Cam"], torch.Tensor)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    from predecode.transforms.manifest import manifest_bytes

    content.pop("digest", None)
    (folder / "manifest.json").write_bytes(manifest_bytes(content))


def test_the_output_can_be_named(output: Path) -> None:
    sample = first_sample(output) | {"__url__": "pipe:cat somewhere"}
    with pytest.raises(FormatError, match="Name the output"):
        next(expand_windows(sample))
    assert next(partial(expand_windows, root=str(output))(sample))["task"] == "task1"


def test_a_tar_of_something_else_is_refused(output: Path, tmp_path: Path) -> None:
    sample = first_sample(output) | {"__url__": str(tmp_path / "train" / "shard-00000.tar")}
    with pytest.raises(FormatError, match=r"has no manifest\.json"):
        next(expand_windows(sample))


def test_an_older_description_of_items_is_refused(output: Path, tmp_path: Path) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["has_runs"]
    write_manifest(tmp_path, manifest)
    with pytest.raises(FormatError, match="has_runs"):
        next(expand_windows(first_sample(output), root=str(tmp_path)))


def test_decoded_members_are_refused(output: Path) -> None:
    sample = first_sample(output)
    sample["json"] = json.loads(sample["json"])
    with pytest.raises(FormatError, match=r"expected json as bytes, got dict\..*\.decode\(\)"):
        next(expand_windows(sample))


def with_tensor(sample: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    tensors = safetensors.numpy.load(sample["data.safetensors"])
    return sample | {"data.safetensors": safetensors.numpy.save(tensors | {name: value})}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("action/index", np.full((7, 5), 999, np.int32), r"action/index below \d+, got 999"),
        ("action/index", np.full((7, 5), -1, np.int32), "got -1"),
        ("action/index", np.zeros((7, 4), np.int32), r"expected the tensor action/index as torch.int32 \(7, 5\)"),
        ("action_is_pad", np.zeros((7, 5), np.int32), "expected the tensor action_is_pad as torch.bool"),
        ("timestamp", np.zeros(6, np.float32), r"expected the tensor timestamp as torch.float32 \(7\)"),
        ("observation.images.cam/index", np.full((7, 2), 99, np.int32), "observation.images.cam/index below"),
        ("observation.images.cam/offsets", np.array([0, 5, 5]), "to ascend from 0"),
        ("observation.images.cam/offsets", np.array([0, 99, 999]), "expected 999 bytes of frames"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(output: Path, name: str, value: Any, message: str) -> None:
    sample = with_tensor(first_sample(output), "observation.images.cam/index", np.zeros((7, 2), np.int32))
    with pytest.raises(FormatError, match=message) as caught:
        list(expand_windows(with_tensor(sample, name, value), verify=False))
    assert "sample 000001-000000" in str(caught.value)


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("json", b"{", "a member is damaged"),
        ("json", b'{"anchors":7,"frame_index":0,"note":["n"],"task":["t"]}', "as many strings as anchors"),
        ("json", b"[]", "a member is damaged"),
        ("data.safetensors", b"12345678", "a member is damaged"),
        ("observation.img.frames", b"", "expected .* bytes of frames of observation.img, got 0"),
        ("observation.img.frames", None, "missing: .*observation.img.frames"),
    ],
)
def test_damaged_members_are_refused(output: Path, member: str, content: bytes | None, message: str) -> None:
    sample = first_sample(output)
    if content is None:
        del sample[member]
    else:
        sample[member] = content
    with pytest.raises(FormatError, match=message):
        list(expand_windows(sample, verify=False))
    with pytest.raises(
        FormatError, match="missing: " if content is None else rf"{member}: bytes \d+ to \d+ .* damaged"
    ):
        list(expand_windows(sample))


def test_a_damaged_frame_is_named(output: Path) -> None:
    sample = first_sample(output)
    content = sample["observation.img.frames"]
    sample["observation.img.frames"] = b"\0" * 40 + content[40:]
    with pytest.raises(FormatError, match=r"observation\.img, frame 0 of the sample: Cannot decode"):
        next(expand_windows(sample, verify=False))


@pytest.mark.parametrize(("dataset", "golden", "anchors"), [("zoo_v30", "far", 7), ("zoo_v30", "single", 1)])
def test_every_member_is_checked_before_an_item_is_given(
    materialized: Materialized, dataset: str, golden: str, anchors: int
) -> None:
    output = materialized(dataset, golden, anchors)
    for sample in pipeline_samples(output):
        for member, content in sample.items():
            if member.startswith("__"):
                continue
            damaged = sample | {member: content[:-1] + bytes([content[-1] ^ 1])}
            with pytest.raises(FormatError, match=rf"{sample['__key__']}, {member}: bytes \d+ to \d+ of the shard"):
                next(expand_windows(damaged))


def pipeline_samples(output: Path) -> list[dict[str, Any]]:
    return read_all(webdataset.WebDataset(tars(output), shardshuffle=False))


@pytest.mark.parametrize("key", ["000001-000007", "000001-000001", "000001-000008", "000099-000000", "../x", "1-0", ""])
def test_a_sample_under_another_key_is_refused(output: Path, key: str) -> None:
    with pytest.raises(FormatError, match="damaged" if key == "000001-000007" else "the output has no such sample"):
        next(expand_windows(first_sample(output) | {"__key__": key}))


def test_a_tar_cut_short_between_two_samples_is_found(output: Path, tmp_path: Path) -> None:
    """Those who read a tar in sequence take it for a whole one."""
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    tar = copy / "train/shard-00000.tar"
    second = index_rows(copy, 0)[1]
    stop = min(value for name, value in second.items() if name.endswith("/offset")) - 512
    tar.write_bytes(tar.read_bytes()[:stop])
    assert len(pipeline_samples(copy)) == len(pipeline_samples(output)) - len(index_rows(copy, 0)) + 1
    with pytest.raises(FormatError, match=r"shard-00000\.tar: expected \d+ bytes, got"):
        read_all(pipeline(tars(copy)))


def test_items_do_not_share_memory(output: Path) -> None:
    first, second = itertools.islice(expand_windows(first_sample(output)), 2)
    tensors = [key for key, value in first.items() if isinstance(value, torch.Tensor)]
    for key in tensors:
        left, right = first[key], second[key]
        assert isinstance(left, torch.Tensor)
        assert isinstance(right, torch.Tensor)
        assert left.untyped_storage().data_ptr() != right.untyped_storage().data_ptr()
        assert left.untyped_storage().nbytes() == left.nbytes
