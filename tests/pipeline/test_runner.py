"""Where the job runs: threads of its own on this machine, or Beam's workers; and what a runner loses is an error."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PortableOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import Environment, ProcessEnvironment

from predecode.pipeline.cli import EXIT_FAILED
from predecode.pipeline.runner import local_pipeline, local_threads, pipeline_options
from predecode.transforms import materialize_shards, plan_shards, shards
from predecode.transforms.errors import OutputError, UsageError
from predecode.transforms.shards import ShardPlan
from tests.pipeline.running import run

NUMBERS = {"exclude_features": ("observation.image",)}


@pytest.mark.parametrize(
    ("flags", "num_threads"),
    [([], os.cpu_count()), (["--runner=DirectRunner"], os.cpu_count()), (["--direct_num_workers=3"], 3)],
)
def test_threads_are_the_jobs_own(flags: list[str], num_threads: int) -> None:
    options = pipeline_options(flags)
    assert local_threads(options) == num_threads
    assert isinstance(local_pipeline(options).runner, FnApiRunner)
    direct = options.view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("in_memory", 1)


@pytest.mark.parametrize("flags", [["--direct_running_mode=multi_processing"], ["--runner=PrismRunner"]])
def test_other_workers_are_left_as_they_are_asked_for(flags: list[str]) -> None:
    options = pipeline_options(flags)
    before = options.get_all_options()
    assert local_threads(options) is None
    local_pipeline(options)
    assert options.get_all_options() == before


def test_the_thread_that_is_free_takes_the_next_shard(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, all_others_done, done = materialize_shards.materialize_shard, threading.Event(), itertools.count(1)

    def slow_first_shard(plan: ShardPlan, *arguments: Any) -> Any:
        if plan.number == 0:
            assert all_others_done.wait(60)
        record = write(plan, *arguments)
        if plan.number != 0 and next(done) == 15:
            all_others_done.set()
        return record

    monkeypatch.setattr(materialize_shards, "materialize_shard", slow_first_shard)
    assert run(data_dir / "pusht_images_v30", tmp_path / "out", **NUMBERS).shards == 16


def test_after_a_failure_no_further_shard_is_begun(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def failing(plan: ShardPlan, *_: Any) -> Any:
        begun.append(plan.number)
        time.sleep(0.1)
        raise OutputError(f"Shard {plan.number} cannot be written.")

    monkeypatch.setattr(materialize_shards, "materialize_shard", failing)
    with pytest.raises(OutputError, match=r"^Shard \d+ cannot be written\.$"):
        run(data_dir / "pusht_images_v30", tmp_path / "out", flags=["--direct_num_workers=1"], **NUMBERS)
    assert len(begun) < 16


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        ([], Path(sys.executable).with_name("predecode-worker-boot")),
        (['--environment_config={"command": "/mine"}'], Path("/mine")),
    ],
)
def test_worker_processes_are_started_by_this_environment_unless_told_otherwise(
    flags: list[str], command: Path
) -> None:
    options = pipeline_options(["--runner=PortableRunner", "--environment_type=PROCESS", *flags])
    environment = Environment.from_options(options.view_as(PortableOptions))
    assert isinstance(environment, ProcessEnvironment)
    assert environment.command == str(command)


def test_an_environment_that_is_no_json() -> None:
    with pytest.raises(UsageError, match="--environment_config: expected JSON such as"):
        pipeline_options(["--runner=PortableRunner", "--environment_type=PROCESS", "--environment_config={"])


def test_a_job_for_elsewhere_is_not_sent_where_it_would_write_over_others_files(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("mine")
    with pytest.raises(OutputError, match=r"is not empty and holds no plan\.json"):
        run(data_dir / "zoo_v30", tmp_path, flags=["--runner=PortableRunner", "--job_endpoint=localhost:1"])


def test_nobody_answers(data_dir: Path, tmp_path: Path) -> None:
    # In a process of its own: Beam leaves the channel polling for ever, and a child that is forked meanwhile may abort.
    flags = ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1"]
    command = [sys.executable, "-m", "predecode.pipeline", "materialize", *flags]
    command += [str(data_dir / "zoo_v30"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == EXIT_FAILED
    assert "nobody answers at --job_endpoint" in done.stderr
    assert "Traceback" not in done.stderr


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
