"""What an output says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from predecode.pipeline.cli import main
from predecode.reader.inspection import inspect_output
from predecode.transforms.errors import FormatError
from tests.reader.conftest import Materialized


@pytest.fixture
def output(materialized: Materialized) -> Path:
    return materialized("zoo_v30", "far", 7)


def test_numbers_are_those_of_plan_and_shards(output: Path) -> None:
    content = inspect_output(str(output)).content
    plan = json.loads((output / "plan.json").read_text())
    split, planned = content["splits"]["train"], plan["splits"]["train"]
    assert {key: split[key] for key in ("episodes", "anchors", "shards")} == {
        key: planned[key] for key in ("episodes", "anchors", "shards")
    }
    assert split["tar_bytes"] == sum(tar.stat().st_size for tar in (output / "train").glob("*.tar"))
    assert split["bytes_per_anchor"] == round(split["tar_bytes"] / 58)
    indices = [pa.ipc.open_file(path.read_bytes()).read_all() for path in (output / "train").glob("*.index.arrow")]
    assert split["samples"] == sum(len(index) for index in indices)
    assert content["windows"] == dict(plan["options"]["delta_indices"])
    assert content["source"] == {"codebase_version": "v3.0", "episodes": 7, "frames": 58}
    assert content["cameras"]["observation.img"]["stored"] == 58
    assert content["anchors_quarantined"] == 0
    assert json.loads(json.dumps(content)) == content


def test_text_for_a_person(output: Path) -> None:
    text = str(inspect_output(str(output)))
    assert "format version 1, complete" in text
    assert "7 episodes, 58 frames, 10 fps" in text
    assert "train: 7 episodes, 58 windows in 11 samples, 3 shards" in text
    assert "runs of up to 7 windows that share their frames" in text
    assert "observation.images.wrist  video 32x40x3         -150, 0, 150\n" in text
    assert "observation.images.cam: 48x64x3, png, lossless" in text
    assert max(map(len, text.splitlines())) <= 140


def test_loss_and_size_are_told(materialized: Materialized) -> None:
    output = materialized("zoo_v30", "single", 1, image_codec="jpeg", image_size=(32, 48), min_psnr_db=0.0)
    text = str(inspect_output(str(output)))
    psnr_db = json.loads((output / "manifest.json").read_text())["frames"]["observation.images.cam"]["psnr_db"]
    assert f"observation.images.cam: 32x48x3 (pad), jpeg quality 95, {psnr_db:.1f} dB after encoding" in text
    assert "one window each" in text


def test_command(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == inspect_output(str(output)).content
    assert main(["inspect", str(output)]) == 0
    assert capsys.readouterr().out == f"{inspect_output(str(output))}\n"


def test_an_incomplete_output_is_refused(output: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no output of predecode"):
        inspect_output(str(tmp_path))
    shutil.copy(output / "plan.json", tmp_path)
    with pytest.raises(FormatError, match="not finished"):
        inspect_output(str(tmp_path))


def test_a_manifest_of_another_plan_is_refused(output: Path, tmp_path: Path) -> None:
    shutil.copy(output / "manifest.json", tmp_path)
    with pytest.raises(FormatError, match=r"plan\.json is missing"):
        inspect_output(str(tmp_path))
