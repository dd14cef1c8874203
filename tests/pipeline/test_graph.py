"""`Materialize` in somebody else's pipeline, and what it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import fsspec
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns

from predecode.pipeline import Materialize, MaterializeOptions
from predecode.pipeline.runner import pipeline_options
from tests.pipeline.running import TWO_THREADS, manifest, run, tree

WINDOWS: dict[str, Any] = {"delta_indices": (("action", (0, 1)),)}


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reference") / "out"
    run(data_dir / "zoo_v30", output, **WINDOWS)
    return output


def counters(result: Any, step: str) -> dict[str, int]:
    """The committed counters of one step's namespace."""
    found = result.metrics().query(MetricsFilter().with_namespace(step))["counters"]
    return {entry.key.metric.name: entry.committed for entry in found}


@pytest.mark.parametrize("flags", [[], ["--runtime_type_check"]])
def test_twice_in_one_pipeline_among_other_steps(
    flags: list[str], data_dir: Path, tmp_path: Path, reference: Path
) -> None:
    seen = tmp_path / "seen"
    with beam.Pipeline(options=pipeline_options([*TWO_THREADS, *flags])) as pipeline:
        one = pipeline | "One" >> Materialize(
            options=MaterializeOptions(source=str(data_dir / "zoo_v30"), output=str(tmp_path / "one"), **WINDOWS)
        )
        other = pipeline | "Other" >> Materialize(
            options=MaterializeOptions(
                source=str(data_dir / "zoo_v30"), output=str(tmp_path / "other"), episodes="0:2", image_codec="png"
            )
        )
        counts = (one, other) | beam.Flatten() | beam.Map(lambda content: str(content["splits"]["train"]["anchors"]))
        _ = counts | beam.combiners.ToList() | beam.Map(sorted) | beam.Map(lambda found: seen.write_text(str(found)))
    assert seen.read_text() == "['19', '58']"
    assert tree(tmp_path / "one") == tree(reference)
    assert manifest(tmp_path / "other")["splits"]["train"]["episodes"] == 2


def test_the_runner_is_the_pipelines_own_business(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = pipeline | Materialize(
            options=MaterializeOptions(source=str(data_dir / "zoo_v30"), output=str(tmp_path / "out"), **WINDOWS)
        )
    assert tree(tmp_path / "out") == tree(reference)


@pytest.mark.parametrize(("num_threads", "num_shuffles"), [(None, 3), (2, 0)])
def test_elements_are_spread_where_there_are_workers(
    num_threads: int | None, num_shuffles: int, data_dir: Path, tmp_path: Path
) -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    options = MaterializeOptions(source=str(data_dir / "zoo_v30"), output=str(tmp_path / "out"), **WINDOWS)
    _ = pipeline | Materialize(options=options, num_threads=num_threads)
    steps = pipeline.to_runner_api().components.transforms.values()
    assert sum(step.spec.urn == common_urns.composites.RESHUFFLE.urn for step in steps) == num_shuffles


def test_counters(data_dir: Path, tmp_path: Path) -> None:
    options = MaterializeOptions(source=str(data_dir / "zoo_v30"), output=str(tmp_path / "out"), **WINDOWS)
    results = []
    for _ in range(2):
        pipeline = beam.Pipeline(options=pipeline_options(TWO_THREADS))
        _ = pipeline | Materialize(options=options)
        results.append(pipeline.run())
        results[-1].wait_until_finish()
    split = manifest(tmp_path / "out")["splits"]["train"]
    first, second = (counters(result, "materialize_shards") for result in results)
    assert first["shards_written"] == split["shards"] == counters(results[0], "plan_shards")["shards"]
    assert first["anchors_written"] == 58
    assert first["frames_written"] == 3 * 58
    assert first["bytes_written"] > split["tar_bytes"]
    assert first["segments_lost"] == 0
    assert first["milliseconds"] > 0
    assert second == {"shards_skipped": split["shards"]}
    assert counters(results[0], "read_source") == {"data_files": 2, "rows": 58, "metadata_entries": 7}
    assert counters(results[0], "assemble_episodes") == {"episodes": 7}


def test_an_output_that_is_no_local_folder(data_dir: Path, reference: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        run(data_dir / "zoo_v30", "memory://bucket/out", **WINDOWS)
        found = {path.removeprefix("/bucket/out/"): memory.cat_file(path) for path in memory.find("/bucket/out")}
    finally:
        memory.rm("/bucket", recursive=True)
    assert found == {
        str(path.relative_to(reference)): path.read_bytes() for path in reference.rglob("*") if path.is_file()
    }


def test_a_source_that_is_no_local_folder(data_dir: Path, tmp_path: Path, reference: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{data_dir}/zoo_v30/", "/bucket/zoo/", recursive=True)
    try:
        run("memory://bucket/zoo", tmp_path / "out", **WINDOWS)
    finally:
        memory.rm("/bucket", recursive=True)
    assert tree(tmp_path / "out") == tree(reference)
