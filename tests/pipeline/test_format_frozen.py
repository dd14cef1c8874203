"""Format version 1, frozen: bytes written today must be the bytes written tomorrow.

These values may change only with FORMAT_VERSION and docs/format.md, or where a new field, column or file is
*added*, which docs/format.md allows under the same number. Another version of safetensors or Pillow may
change them too: then the versions in plan.json differ, and outputs of the two are not byte-identical.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from predecode.transforms.format import FORMAT_VERSION
from tests.pipeline.running import manifest, run

TARS = {
    "one anchor a sample": "a827ced3d83c4f653a2ff65019ffc24b7017b24ba437f2f01726ad1698561511",
    "runs of anchors": "d09bc3210503d3ab1bcba43cccc5d05458eadc695b2254fc20994e1156bd780e",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "one anchor a sample": {"delta_indices": (("action", (0, 1, 2)), ("observation.state", (-1, 1)))},
    "runs of anchors": {
        "delta_indices": (("observation.image", (-1, 0)), ("action", (0, 1, 2))),
        "anchors_per_sample": 10,
    },
}
MANIFEST = [
    "format_version", "plan", "fps", "features", "text_features", "item_keys", "delta_indices", "anchor_stride",
    "drop_last_frames", "anchors_per_sample", "has_runs", "image", "splits", "frames", "files", "digest",
]  # fmt: skip
INDEX = {
    "key": "string",
    "episode_index": "int64",
    "frame_index": "int64",
    "anchors": "int32",
    "data.safetensors/offset": "int64",
    "data.safetensors/size": "int64",
    "data.safetensors/xxh3": "uint64",
    "json/offset": "int64",
    "json/size": "int64",
    "json/xxh3": "uint64",
    "observation.image.frames/offset": "int64",
    "observation.image.frames/size": "int64",
    "observation.image.frames/xxh3": "uint64",
    "observation.image.frames/frame": "list<item: int64>",
    "observation.image.frames/frame_offset": "list<item: int64>",
    "observation.image.frames/frame_xxh3": "list<item: uint64>",
}
ORDER = {
    "episode_index": "int64",
    "first_anchor": "int64",
    "anchors": "int64",
    "shard": "int32",
    "first_sample": "int32",
    "samples": "int32",
}
SHARDS = {
    "anchors": "int64",
    "samples": "int64",
    "tar_bytes": "int64",
    "tar_sha256": "string",
    "index_bytes": "int64",
    "index_sha256": "string",
    "plan_hash": "string",
    "record_sha256": "string",
}


@pytest.mark.parametrize("case", TARS)
def test_tars_are_those_of_version_1(case: str, data_dir: Path, tmp_path: Path) -> None:
    assert FORMAT_VERSION == 1
    run(data_dir / "pusht_images_v30", tmp_path / "out", image_codec="raw", episodes="0:2", **OPTIONS[case])
    sha256 = hashlib.sha256()
    for tar in sorted(tmp_path.glob("out/train/*.tar")):
        sha256.update(tar.read_bytes())
    assert sha256.hexdigest() == TARS[case]


def test_tables_and_manifest_have_the_columns_of_version_1(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(data_dir / "pusht_images_v30", output, image_codec="raw", episodes="0:2", **OPTIONS["runs of anchors"])
    assert list(manifest(output)) == MANIFEST
    for name, expected in (("shard-00000.index", INDEX), ("order", ORDER), ("shards", SHARDS)):
        schema = pa.ipc.open_file(output / f"train/{name}.arrow").schema
        assert {field.name: str(field.type) for field in schema} == expected
