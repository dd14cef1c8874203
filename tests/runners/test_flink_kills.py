"""Whatever is killed in mid-shard: the same bytes, nothing left over, nothing done twice that was done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED
from tests.pipeline.running import tree
from tests.runners.flink import FlinkCluster, LongJob, finish, frozen
from tests.runners.watching import Watch

pytestmark = [pytest.mark.needs_flink, pytest.mark.slow]

SHARDS_BEFORE, SLOTS = 4, 4


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """A reader that tries to open the output all the while, and counts what is written."""
    with Watch(tmp_path / "out") as watch:
        yield watch


def check(output: Path, watch: Watch, committed: set[str], job: LongJob) -> None:
    """The output is whole, and a reader never saw it otherwise; what was committed was not written again."""
    watch.wait_until_opened()
    assert tree(output) == job.tree
    assert all(found == job.tree for found in watch.opened)
    assert watch.refused, "the reader came too late to see anything"
    again = watch.written_again
    assert not committed.intersection(again)
    # Whoever is writing a shard when its attempt ends may publish it beside the next attempt; nobody else.
    assert len(again) <= SLOTS, again


def test_a_worker_is_killed(cluster: FlinkCluster, watch: Watch, long_job: LongJob, tmp_path: Path) -> None:
    with cluster.start(long_job.source, tmp_path / "out", *long_job.options) as client:
        committed = watch.wait_for_commits(SHARDS_BEFORE)
        cluster.member("taskmanager-1", is_worker=True).kill()
        done = finish(client)
    assert done.returncode == EXIT_DONE, done.stderr
    check(tmp_path / "out", watch, committed, long_job)
    job = cluster.last_job()
    assert job["state"] == "FINISHED"
    assert job["failures"] > 0, "the kill was not noticed: nothing was tested"


def test_a_taskmanager_is_killed_and_a_new_one_joins(
    cluster: FlinkCluster, watch: Watch, long_job: LongJob, tmp_path: Path
) -> None:
    with cluster.start(long_job.source, tmp_path / "out", *long_job.options) as client:
        committed = watch.wait_for_commits(SHARDS_BEFORE)
        workers = [one for one in cluster.workers() if one.role == "taskmanager-1"]
        assert workers
        cluster.member("taskmanager-1").kill()
        cluster.repair()
        cluster.wait_until_gone(workers)
        done = finish(client)
    assert done.returncode == EXIT_DONE, done.stderr
    check(tmp_path / "out", watch, committed, long_job)
    assert cluster.last_job()["failures"] > 0, "the kill was not noticed: nothing was tested"


def test_the_jobmanager_is_killed_and_the_next_run_goes_on(
    cluster: FlinkCluster, watch: Watch, long_job: LongJob, tmp_path: Path
) -> None:
    with cluster.start(long_job.source, tmp_path / "out", *long_job.options) as client:
        committed = watch.wait_for_commits(SHARDS_BEFORE)
        # TaskManagers work on until they miss the JobManager: frozen, their workers don't finish the job meanwhile.
        with frozen(cluster.workers()):
            cluster.member("jobmanager").kill()
            cluster.repair()
            failed = finish(client)
            cluster.wait_for_free_slots()
    assert failed.returncode == EXIT_FAILED, failed.stdout
    assert "FlinkJobNotFoundException: Could not find Flink job" in failed.stderr.splitlines()[-1]
    assert not watch.opened
    done = cluster.run(long_job.source, tmp_path / "out", *long_job.options)
    assert done.returncode == EXIT_DONE, done.stderr
    check(tmp_path / "out", watch, committed, long_job)


def test_the_client_is_killed_and_the_next_one_joins_its_job(
    cluster: FlinkCluster, watch: Watch, long_job: LongJob, tmp_path: Path
) -> None:
    with cluster.start(long_job.source, tmp_path / "out", *long_job.options) as client:
        committed = watch.wait_for_commits(SHARDS_BEFORE)
        client.kill()
    done = cluster.run(long_job.source, tmp_path / "out", *long_job.options)
    assert done.returncode == EXIT_DONE, done.stderr
    check(tmp_path / "out", watch, committed, long_job)
    cluster.wait_until_idle()
    assert tree(tmp_path / "out") == long_job.tree
