"""Beam's threads on this machine, without what loses elements; and what is lost all the same is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from predecode.pipeline.runner import local_pipeline, pipeline_options
from predecode.transforms import plan_shards, shards
from predecode.transforms.errors import OutputError
from predecode.transforms.shards import ShardPlan
from tests.pipeline.running import run

NUMBERS = {"exclude_features": ("observation.image",)}


@pytest.mark.parametrize("flags", [[], ["--runner=DirectRunner"], ["--direct_num_workers=3"]])
def test_threads_have_no_flush_timer(flags: list[str]) -> None:
    runner = local_pipeline(pipeline_options(flags)).runner
    assert isinstance(runner, FnApiRunner)
    environment = runner._default_environment
    assert isinstance(environment, EmbeddedPythonGrpcEnvironment)
    assert environment.data_buffer_time_limit_ms == -1


def test_processes_are_left_as_they_are_asked_for() -> None:
    options = pipeline_options(["--direct_running_mode=multi_processing"])
    local_pipeline(options)
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"


def test_a_lost_shard_plan_is_an_error(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(*arguments: Any, **options: Any) -> Iterator[ShardPlan]:
        return (plan for plan in shards.plan_shards(*arguments, **options) if plan.number != 5)

    monkeypatch.setattr(plan_shards, "plan_shards", forgetful)
    with pytest.raises(OutputError, match=r"lost the plans of the shards \[5\]: expected 16, got 15"):
        run(data_dir / "pusht_images_v30", tmp_path / "out", **NUMBERS)
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_lost_episode_is_an_error(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assign = plan_shards._AssignGroup.process

    def forgetful(self: Any, episode: Any, *sides: Any) -> Any:
        return assign(self, episode, *sides) if episode.index != 2 else iter(())

    monkeypatch.setattr(plan_shards._AssignGroup, "process", forgetful)
    with pytest.raises(OutputError, match="lost episodes: expected 6, got 5"):
        run(data_dir / "pusht_images_v30", tmp_path / "out", **NUMBERS)
