"""The cluster that tests marked `needs_flink` run on: brought up beforehand, one for all of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from predecode.pipeline.cli import EXIT_DONE, main
from tests.conftest import FLINK
from tests.pipeline.running import tree
from tests.runners.flink import FlinkCluster, LongJob


@pytest.fixture
def cluster() -> Iterator[FlinkCluster]:
    """The cluster, whole, idle, and for one test alone; what that kills is started again."""
    with Path(os.environ[FLINK], "cluster.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = FlinkCluster(os.environ[FLINK])
        cluster.repair()
        cluster.wait_until_idle()
        yield cluster
        cluster.repair()


@pytest.fixture(scope="session")
def long_job(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LongJob:
    """A job that takes 15 seconds on two cores beyond its start, with what one machine writes for it."""
    source, options = data_dir / "pusht_images_v30", ["--image-codec=webp", "--image-size=448", "--min-shards=40"]
    output = tmp_path_factory.mktemp("reference") / "out"
    arguments = ["materialize", str(source), str(output), *options, "--no-progress", "--direct_num_workers=2"]
    assert main(arguments) == EXIT_DONE
    return LongJob(source, options, num_shards=40, tree=tree(output))
