"""Manifests, plans and metadata made up by somebody who can compute checksums: what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader, expand_windows
from predecode.reader.inspection import inspect_output
from predecode.reader.item_format import ItemFormat
from predecode.reader.preview import draw_preview
from predecode.transforms.errors import FormatError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder
from tests.readback import read_samples
from tests.reader.conftest import Materialized
from tests.reader.damage import put_manifest, refused
from tests.reader.mutations import seal, seal_plan, table_bytes

CAMERA = "observation.images.cam"


@pytest.fixture
def runs(materialized: Materialized, tmp_path: Path) -> Path:
    """A copy, which may be changed, of an output whose samples hold runs."""
    return Path(shutil.copytree(materialized("zoo_v30", "far", 4), tmp_path / "runs"))


def feature(name: str, **spec: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Declares one feature otherwise."""
    return lambda manifest: {"features": manifest["features"] | {name: manifest["features"][name] | spec}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (feature("action", shape=[1 << 24, 2]), "the shape of action"),
        (feature("action", shape=[1 << 20, 1 << 20]), "the shape of action"),
        (feature("action", shape=["2"]), "the shape of action"),
        (feature("action", shape=[2.0]), "the shape of action"),
        (feature("action", shape=[0]), "the shape of action"),
        (feature("action", shape=[1] * 20), "the shape of action"),
        (feature("action", dtype="O"), "action as one of"),
        (feature("action", dtype="S1000000000"), "action as one of"),
        (feature("action", kind="program"), "program"),
        (feature(CAMERA, shape=[60000, 60000, 3]), f"an image {CAMERA}"),
        (feature(CAMERA, shape=[48, 64]), "values to unpack"),
        (feature(CAMERA, dtype="float32"), f"{CAMERA} as uint8"),
        (lambda manifest: {"features": {"../../x": manifest["features"]["action"]}}, "not safe in a path"),
        (lambda manifest: {"features": {"\x1b[31m": manifest["features"]["action"]}}, "not safe in a path"),
        (lambda _: {"features": []}, "AttributeError"),
        (lambda manifest: {"text_features": [*manifest["text_features"], "a/b"]}, "not safe in a path"),
        (lambda manifest: {"item_keys": manifest["item_keys"][1:]}, "each key of an item once"),
        (lambda manifest: {"item_keys": [*manifest["item_keys"], "task"]}, "each key of an item once"),
        (lambda manifest: {"item_keys": [[], *manifest["item_keys"]]}, "unhashable"),
        (lambda _: {"delta_indices": [["nothing", [0]]]}, "windows of features"),
        (lambda _: {"delta_indices": [["task", [0]]]}, "windows of features"),
        (lambda _: {"delta_indices": [["action", [0]], ["action", [1]]]}, "one window of each feature"),
        (lambda _: {"delta_indices": [["action", [0] * 10_001]]}, "deltas of action"),
        (lambda _: {"delta_indices": [["action", [1 << 40]]]}, "deltas of action"),
        (lambda _: {"delta_indices": [["action", []]]}, "deltas of action"),
        (lambda _: {"delta_indices": [["action", "0"]]}, "deltas of action"),
        (lambda _: {"fps": 0}, "frames per second"),
        (lambda _: {"fps": -10}, "frames per second"),
        (lambda _: {"anchor_stride": 0}, "a count of anchors or frames"),
        (lambda _: {"anchors_per_sample": 1 << 40}, "a count of anchors or frames"),
        (lambda _: {"anchors_per_sample": "4"}, "a count of anchors or frames"),
        (lambda _: {"has_runs": 1}, "has_runs as true or false"),
        (lambda _: {"has_runs": False}, "has_runs for samples of several frames"),
        (lambda manifest: {"image": manifest["image"] | {"image_codec": "gif"}}, "Unknown image codec"),
        (lambda manifest: {"image": manifest["image"] | {"extension": "../x"}}, "the extension png"),
        (lambda _: {"image": []}, "TypeError"),
        (lambda _: {"plan": None}, "lacks its plan or its splits"),
        (lambda _: {"splits": 1 << 100}, "lacks its plan or its splits"),
        (lambda _: {"splits": {"../../x": {}}}, "has no split 'train'. It has: "),
        (
            lambda manifest: {
                "files": manifest["files"] | {"train/shards.arrow": {"size_bytes": 1 << 60, "sha256": ""}}
            },
            "expected 1152921504606846976",
        ),
    ],
)
def test_made_up_manifests_are_refused(runs: Path, change: Callable[[Any], Mapping[str, Any]], message: str) -> None:
    put_manifest(runs, change(read_manifest(Folder.of(str(runs)))))
    refused(runs, message)
    sample = next(read_samples(runs / "train/shard-00000.tar"))
    with pytest.raises(FormatError):
        next(expand_windows({**sample, "__key__": "000001-000000", "__url__": str(runs / "train/shard-00000.tar")}))


def test_a_small_sample_may_not_declare_a_huge_item(runs: Path) -> None:
    manifest = read_manifest(Folder.of(str(runs)))
    wide = feature("action", shape=[1 << 20])(manifest) | {"delta_indices": [["action", [0] * 1000]]}
    keys = [key for key in manifest["item_keys"] if not key.endswith("_is_pad")] + ["action_is_pad"]
    with pytest.raises(FormatError, match="at most 4294967296 bytes"):
        ItemFormat.of(manifest | wide | {"item_keys": keys})


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "meta/info.json", "meta/stats.json"])
@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"[]", b"7", b"null", b"{}", b"\xff", b""])
def test_json_of_nothing_or_of_great_depth_is_refused(runs: Path, name: str, content: bytes) -> None:
    (runs / name).write_bytes(content)
    if name.startswith("meta/"):
        seal(runs)
        refused(runs, f"{name} is damaged") if content != b"{}" or "info" in name else WindowDataset(str(runs))
    elif name == "manifest.json":
        refused(runs, "is damaged")
    else:
        with pytest.raises((FormatError, OSError), match=r"plan\.json"):
            inspect_output(str(runs))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("info", {"features": None}, "AttributeError"),
        ("info", {"features": {"action": {"dtype": "float32", "shape": 3, "names": None}}}, "not iterable"),
        ("info", {"features": {"action": {}}}, "dtype|names"),
        ("stats", {"action": {"mean": [[1.0], [1.0, 2.0]]}}, "inhomogeneous"),
        ("stats", {"action": {"mean": {"a": 1}}}, "expected numbers"),
        ("stats", {"action": [1]}, "AttributeError"),
    ],
)
def test_made_up_metadata_is_refused(runs: Path, name: str, change: dict[str, Any], message: str) -> None:
    path = runs / f"meta/{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    seal(runs)
    refused(runs, rf"{name}\.json is damaged: .*({message})")


def test_inspection_neither_fails_nor_steers_the_terminal(runs: Path) -> None:
    manifest = read_manifest(Folder.of(str(runs)))
    plan = json.loads((runs / "plan.json").read_text())
    plan.pop("digest")
    plan["source"]["codebase_version"] = "\x1b]0;title\x07\ud800v3"
    seal_plan(runs, plan, manifest)
    put_manifest(runs, {"plan": manifest["plan"]})
    text = str(inspect_output(str(runs)))
    assert "LeRobot \N{REPLACEMENT CHARACTER}]0;title" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    trains: tuple[Any, ...] = ({"tar_bytes": 10**400, "anchors": 1}, [])
    for train in trains:
        put_manifest(runs, {"splits": {"train": train}})
        with pytest.raises(FormatError, match="lacks something"):
            inspect_output(str(runs))


def test_a_split_without_windows_is_an_empty_one(runs: Path, tmp_path: Path) -> None:
    for name in ("order", "shards"):
        path = runs / f"train/{name}.arrow"
        path.write_bytes(table_bytes(pa.ipc.open_file(path.read_bytes()).read_all().slice(0, 0)))
    train = dict.fromkeys(("anchors", "episodes", "samples", "shards", "tar_bytes", "anchors_quarantined"), 0)
    put_manifest(runs, {"splits": {"train": train}})
    seal(runs)
    dataset = WindowDataset(str(runs))
    assert len(dataset) == len(list(dataset)) == 0
    orders: tuple[Any, ...] = (True, False, "windowed")
    for shuffle in orders:
        assert list(WindowLoader(dataset, 4, shuffle=shuffle)) == []
    assert list(StreamingWindowDataset("name", str(runs))) == []
    assert "0 windows" in str(inspect_output(str(runs)))
    with pytest.raises(FormatError, match="'train' has no windows"):
        draw_preview(str(runs), str(tmp_path / "preview.png"))
