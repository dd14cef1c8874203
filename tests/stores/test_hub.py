"""`hf://` as a source and as an output, through a server that speaks the Hub's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, main
from predecode.reader import WindowDataset
from predecode.transforms.storage import Folder
from tests.pipeline.running import tree
from tests.stores.conftest import DATASET
from tests.stores.hub import REPO, Hub, hub
from tests.stores.proxy import Proxy
from tests.stores.test_contract import assert_equal

FLAGS = ("--no-progress", "--direct_num_workers=2")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub() as server:
        for path in (data_dir / DATASET).rglob("*"):
            if path.is_file():
                server.files[f"source/{path.relative_to(data_dir / DATASET)}"] = path.read_bytes()
        yield server


def options(url: str) -> dict[str, object]:
    return {"endpoint": url, "token": False}


def test_a_source_on_the_hub(served: Hub, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"hf://datasets/{REPO}/source", str(tmp_path / "out"), *FLAGS]
    given = json.dumps({"hf": options(served.url)})
    assert main(["materialize", *arguments, "--storage-options", given]) == EXIT_DONE, capsys.readouterr().err
    assert tree(tmp_path / "out") == tree(reference)


@pytest.mark.slow
def test_an_output_on_the_hub(served: Hub, data_dir: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"hf://datasets/{REPO}/out"
    arguments = [str(data_dir / DATASET), output, *FLAGS, "--storage-options", json.dumps(options(served.url))]
    assert main(["materialize", *arguments]) == EXIT_DONE, capsys.readouterr().err
    assert served.tree("out") == tree(reference)
    near, far = WindowDataset(reference), WindowDataset(output, storage_options=options(served.url))
    assert_equal(far[7], near[7])


def test_no_cached_listing_decides(served: Hub) -> None:
    folder = Folder.of(f"hf://datasets/{REPO}/listed", options(served.url))
    assert folder.names() == []
    served.files["listed/a.json"] = b"12"
    assert folder.names() == ["a.json"]
    assert folder.size("a.json") == 2
    served.files["listed/a.json"] = b"123"
    assert folder.read("a.json") == b"123"
    del served.files["listed/a.json"]
    assert folder.size("a.json") is None


def test_what_is_not_there(served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--storage-options", json.dumps(options(served.url))]
    assert main(["materialize", "hf://datasets/no/such", str(tmp_path / "out"), *FLAGS, *given]) == EXIT_FAILED
    assert "hf://datasets/no/such" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("steadfast")
def test_bursts_pass(served: Hub) -> None:
    proxy = Proxy(served.url)
    folder = Folder.of(f"hf://datasets/{REPO}/source", options(proxy.url))
    expected = {path.removeprefix("source/"): content for path, content in served.files.items()}
    try:
        with proxy.doing("503", "list", count=2), proxy.doing("reset", "get", count=2):
            assert set(folder.names()) == set(expected)
            for name in sorted(expected)[:3]:
                assert folder.read(name) == expected[name]
    finally:
        proxy.close()
