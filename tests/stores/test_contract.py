"""From store to store the job writes what it writes locally, goes on after a kill, and the reader reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader
from predecode.transforms.errors import FormatError
from predecode.transforms.storage import Folder
from tests.pipeline.running import tree
from tests.stores.conftest import DATASET, NEEDS, STORES, Proxied
from tests.stores.servers import BUCKET, Store

FLAGS = ("--no-progress", "--direct_num_workers=2")
KILLING = Path(__file__).with_name("killing.py")


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_from_store_to_store(
    store: Store, data_dir: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = store.upload(data_dir / DATASET, "contract/source")
    output = f"{store.url}/contract/out"
    options = ["--storage-options", json.dumps(store.options)]
    assert main(["materialize", source, output, *options, *FLAGS]) == EXIT_DONE, capsys.readouterr().err
    assert store.tree("contract/out") == tree(reference)

    assert main(["verify", output, *options]) == EXIT_DONE
    assert main(["inspect", output, *options]) == EXIT_DONE
    assert main(["preview", output, str(tmp_path / "sheet.png"), *options]) == EXIT_DONE
    capsys.readouterr()
    assert main(["materialize", source, output, *options, *FLAGS, "--json"]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["source_bytes"] == Folder.of(str(data_dir / DATASET)).total_bytes()

    shard = next(name for name in store.tree("contract/out") if name.endswith(".tar"))
    store.filesystem().pipe_file(f"{BUCKET}/contract/out/{shard}", b"damaged")
    assert main(["verify", output, *options, "--repair"]) == EXIT_FAILED
    assert main(["materialize", source, output, *options, *FLAGS]) == EXIT_DONE
    assert store.tree("contract/out") == tree(reference)


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_every_reader_reads_it(store: Store, reference: Path) -> None:
    output = store.upload(reference, "read")
    near, far = WindowDataset(reference), WindowDataset(output, storage_options=store.options)
    for index in (0, len(near) // 2, len(near) - 1):
        assert_equal(far[index], near[index])
    batches = [list(WindowLoader(dataset, batch_size=32, seed=3)) for dataset in (near, far)]
    assert len(batches[0]) > 1
    for one, other in zip(*batches, strict=True):
        assert_equal(one, other)
    streams = [
        StreamingWindowDataset("windows", str(root), seed=3, storage_options=options)
        for root, options in ((reference, None), (output, store.options))
    ]
    for one, other in zip(*(DataLoader(stream, batch_size=64) for stream in streams), strict=True):
        assert_equal(one, other)


@NEEDS
def test_workers_of_a_data_loader_read_it(s3: Store, reference: Path) -> None:
    """Forked after the parent has read: connections do not survive that."""
    output = s3.upload(reference, "forked")
    far = WindowDataset(output, storage_options=s3.options)
    first = far[0]
    loader = DataLoader(far, batch_size=32, num_workers=2)
    read = torch.cat([batch["index"] for batch in loader])
    assert read.tolist() == list(range(len(far)))
    assert_equal(far[0], first)


@NEEDS
def test_indices_are_opened_once_and_damage_is_still_said(s3: Store, proxied: Proxied, reference: Path) -> None:
    output = s3.upload(reference, "indices")
    store, proxy = proxied(s3)
    dataset = WindowDataset(output, storage_options=store.options)
    assert len(list(WindowLoader(dataset, batch_size=64))) > 1
    opened = sorted(target for call, target in proxy.calls if call == "get" and ".index.arrow" in target)
    assert len(opened) == len(set(opened)) == dataset.num_shards
    s3.filesystem().pipe_file(f"{BUCKET}/indices/train/shard-00001.index.arrow", b"damaged")
    with pytest.raises(FormatError, match=r"shard-00001\.index\.arrow"):
        list(WindowLoader(WindowDataset(output, storage_options=s3.options), batch_size=64))


def test_from_a_web_server(
    http: Store, data_dir: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = http.upload(data_dir / DATASET, "source")
    assert main(["materialize", source, str(tmp_path / "out"), *FLAGS]) == EXIT_DONE, capsys.readouterr().err
    assert tree(tmp_path / "out") == tree(reference)
    far, near = WindowDataset(http.upload(reference, "out")), WindowDataset(reference)
    assert_equal(far[5], near[5])
    assert main(["materialize", source, f"{http.url}/new", *FLAGS]) == EXIT_USAGE
    assert "http can be read from, not written to" in capsys.readouterr().err


@NEEDS
def test_between_stores_of_two_kinds(s3: Store, http: Store, data_dir: Path, reference: Path) -> None:
    source = http.upload(data_dir / DATASET, "mixed")
    options = {"s3": s3.options, "http": {"client_kwargs": {"trust_env": False}}}
    output = f"{s3.url}/mixed"
    assert main(["materialize", source, output, "--storage-options", json.dumps(options), *FLAGS]) == EXIT_DONE
    assert s3.tree("mixed") == tree(reference)


@NEEDS
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before:shard-00003.tar", "within:shard-00002.tar", "after:shard-00004.json"])
def test_a_killed_job_goes_on(
    s3: Store, moment: str, data_dir: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"killed-{moment.replace(':', '-')}"
    output = f"{s3.url}/{name}"
    arguments = ["materialize", str(data_dir / DATASET), output, "--storage-options", json.dumps(s3.options), *FLAGS]
    killed = subprocess.run([sys.executable, str(KILLING), moment, *arguments], check=False, timeout=120)
    assert killed.returncode == -9
    found = s3.tree(name)
    assert "plan.json" in found
    assert "manifest.json" not in found
    whole = tree(reference)
    assert {path: checksum for path, checksum in found.items() if whole.get(path) != checksum} == {}
    assert main(arguments) == EXIT_DONE, capsys.readouterr().err
    assert s3.tree(name) == whole


@NEEDS
def test_what_is_left_of_temporaries_goes(s3: Store, data_dir: Path, reference: Path) -> None:
    """An engine's workers leave a record of a failure, by a name with the mark of what is unfinished."""
    s3.filesystem().pipe_file(f"{BUCKET}/strays/failure.json.tmp-1", b"{}")
    s3.filesystem().pipe_file(f"{BUCKET}/strays/train/shard-00099.tar", b"of another plan")
    output = f"{s3.url}/strays"
    arguments = ["materialize", str(data_dir / DATASET), output, "--storage-options", json.dumps(s3.options), *FLAGS]
    assert main(arguments) == EXIT_FAILED  # The shard is no output of this job: there is no plan.
    s3.filesystem().rm_file(f"{BUCKET}/strays/train/shard-00099.tar")
    assert main(arguments) == EXIT_DONE
    assert s3.tree("strays") == tree(reference)


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_no_cached_listing_decides(store: Store) -> None:
    """What another machine does is seen at once."""
    folder = Folder.of(f"{store.url}/listed", store.options)
    assert folder.names() == []
    assert folder.size("a/b.json") is None
    others = store.filesystem()
    others.pipe_file(f"{BUCKET}/listed/a/b.json", b"12")
    assert folder.names() == ["a/b.json"]
    assert folder.names("a") == ["a/b.json"]
    assert folder.size("a/b.json") == 2
    others.pipe_file(f"{BUCKET}/listed/a/b.json", b"123")
    assert folder.size("a/b.json") == 3
    assert folder.read("a/b.json") == b"123"
    others.rm_file(f"{BUCKET}/listed/a/b.json")
    assert folder.size("a/b.json") is None
    assert folder.names() == []
    folder.remove("a/b.json")
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.json")


@NEEDS
def test_videos_are_read_by_ranges_once(
    s3: Store, proxied: Proxied, data_dir: Path, reference: Path, tmp_path: Path
) -> None:
    source = s3.upload(data_dir / DATASET, "ranges")
    store, proxy = proxied(s3)
    options = json.dumps(store.options)
    assert main(["materialize", source, str(tmp_path / "out"), "--storage-options", options, *FLAGS]) == EXIT_DONE
    assert tree(tmp_path / "out") == tree(reference)
    videos = [target for call, target in proxy.calls if call == "get" and ".mp4" in target]
    size = sum(path.stat().st_size for path in (data_dir / DATASET).rglob("*.mp4"))
    # Each of the two threads opens each file once, and the probe: none a segment.
    assert 0 < len(videos) <= 3 * (size // (1 << 20) + 2)


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name], name
