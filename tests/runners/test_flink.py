"""The job on a real cluster: the same bytes as on one machine, and one message where it fails."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, main
from tests import dirty
from tests.pipeline.running import tree
from tests.runners.flink import FlinkCluster, LongJob, finish

pytestmark = [pytest.mark.needs_flink, pytest.mark.slow]

CopyDataset = Callable[[str], Path]

DATASETS = {
    "video, windows, validation": (
        "pusht_v30",
        ["--delta-indices", '{"observation.image": [-1, 0], "action": [0, 1, 2]}', "--validation-fraction=0.4"],
    ),
    "two data files, nested and odd features": ("zoo_v30", ["--on-error=quarantine"]),
}


@pytest.mark.parametrize(("dataset", "options"), DATASETS.values(), ids=DATASETS.keys())
def test_the_same_bytes_as_on_one_machine(
    dataset: str, options: list[str], cluster: FlinkCluster, data_dir: Path, tmp_path: Path
) -> None:
    arguments = ["materialize", str(data_dir / dataset), str(tmp_path / "here"), *options, "--no-progress"]
    assert main([*arguments, "--direct_num_workers=2"]) == EXIT_DONE
    there = cluster.run(data_dir / dataset, tmp_path / "there", *options)
    assert there.returncode == EXIT_DONE, there.stderr
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    assert cluster.last_job() == {"state": "FINISHED", "failures": 0}


def test_many_shards_and_their_progress(cluster: FlinkCluster, long_job: LongJob, tmp_path: Path) -> None:
    done = cluster.run(long_job.source, tmp_path / "out", *long_job.options)
    assert done.returncode == EXIT_DONE, done.stderr
    assert tree(tmp_path / "out") == long_job.tree
    found = [int(number) for number in re.findall(rf"^(\d+)/{long_job.num_shards} shards, ", done.stderr, re.MULTILINE)]
    assert found == sorted(found)
    assert found[0] < found[-1] == long_job.num_shards


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    """A failed job says why on the last line of standard error; what comes before is progress."""
    assert done.returncode == EXIT_FAILED, done.stderr
    *progress, message = done.stderr.strip().splitlines()
    assert all(re.match(r"\d+/\d+ shards|planning|all shards are there", line) for line in progress), done.stderr
    assert message.startswith("predecode: ")
    for noise in ("Traceback", "[while running", "java.", "BeamApp"):
        assert noise not in message
    return message


def test_a_data_error_is_told_as_on_one_machine_and_not_tried_again(
    cluster: FlinkCluster, copy_dataset: CopyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_dataset("pusht_images_v30")
    dirty.break_image(root, "observation.image", row=800)
    assert main(["materialize", str(root), str(tmp_path / "here"), "--no-progress"]) == EXIT_FAILED
    failed = cluster.run(root, tmp_path / "there")
    assert one_message(failed) == capsys.readouterr().err.strip()
    assert "row 800), camera 'observation.image': expected an image" in failed.stderr
    assert cluster.last_job() == {"state": "FINISHED", "failures": 0}
    assert not (tmp_path / "there/manifest.json").exists()
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_what_a_retry_may_mend_is_tried_again(cluster: FlinkCluster, data_dir: Path, tmp_path: Path) -> None:
    """Nothing can be written, until somebody clears the way: the job that failed meanwhile goes on by itself."""
    source, options = data_dir / "pusht_images_v30", ["--image-codec=png"]
    arguments = ["materialize", str(source), str(tmp_path / "here"), *options, "--no-progress"]
    assert main([*arguments, "--direct_num_workers=2"]) == EXIT_DONE
    output = tmp_path / "there"
    output.mkdir()
    (output / "plan.json").write_bytes((tmp_path / "here/plan.json").read_bytes())
    in_the_way = output / "train"
    in_the_way.touch()
    with cluster.start(source, output, *options) as client:
        cluster.wait_for_failures(1)
        in_the_way.unlink()
        done = finish(client)
    assert done.returncode == EXIT_DONE, done.stderr
    assert tree(output) == tree(tmp_path / "here")
