"""What networks do, on each kind of call: nothing is lost, nothing is wrong, nothing hangs, and errors are clear."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from _pytest.mark import ParameterSet

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, main
from predecode.reader import WindowDataset, WindowLoader
from predecode.transforms.errors import StorageError
from predecode.transforms.patience import Patience
from predecode.transforms.storage import Folder
from tests.pipeline.running import tree
from tests.stores.conftest import DATASET, NEEDS, Proxied
from tests.stores.proxy import Call, Fault, Mischief
from tests.stores.servers import BUCKET, Store
from tests.stores.test_contract import assert_equal

FLAGS = ("--no-progress", "--direct_num_workers=2")
FILES = {"a.bin": bytes(range(256)) * 1000, "sub/b.json": b"[1, 2, 3]", "sub/c.bin": b"x" * 70_000}
FOREVER = 1 << 20
EVERYTHING: list[tuple[Mischief, Call]] = list(itertools.product(get_args(Mischief), ("list", "head", "get", "put")))


def cases() -> Iterator[ParameterSet]:
    for name, (mischief, call) in itertools.product(("s3", "gs", "http"), EVERYTHING):
        if name == "http" and (call == "put" or (call, mischief) == ("list", "length")):
            continue  # Only read from; and a page that is cut off is a page.
        if name == "gs" and call == "head":
            continue  # It looks things up by a GET.
        if (call, mischief) == ("head", "length"):
            continue  # There is nothing to compare it with.
        is_quick = name == "s3" and mischief in ("503", "reset", "length")
        marks = [NEEDS] * (name != "http") + [pytest.mark.slow] * (not is_quick)
        yield pytest.param(name, mischief, call, marks=marks, id=f"{name}-{call}-{mischief}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def do(call: Call, folder: Folder) -> None:
    """Makes a kind of call, and checks what comes of it."""
    if call == "list":
        assert [name for name in folder.names() if "new" not in name] == sorted(FILES)
    elif call == "head":
        assert {name: folder.size(name) for name in FILES} == {name: len(content) for name, content in FILES.items()}
    elif call == "get":
        ranges = [(name, start, start + 5) for name in FILES for start in (0, 4)]
        assert folder.fetch(ranges) == [FILES[name][start:stop] for name, start, stop in ranges]
        assert {name: folder.read(name) for name in FILES} == FILES
    else:
        folder.publish("new.bin", FILES["a.bin"])
        assert folder.read("new.bin") == FILES["a.bin"]


@pytest.mark.usefixtures("steadfast")
@pytest.mark.parametrize(("name", "mischief", "call"), list(cases()))
def test_a_burst_passes(
    name: str, mischief: Mischief, call: Call, files: Path, proxied: Proxied, request: pytest.FixtureRequest
) -> None:
    direct: Store = request.getfixturevalue(name)
    place = f"burst-{call}-{mischief}"
    url = direct.upload(files, place)
    store, proxy = proxied(direct)
    folder = Folder.of(url if name != "http" else f"{store.url}/{place}", store.options)
    with proxy.doing(mischief, call, count=2) as fault:
        do(call, folder)
    assert fault.done == 2


@pytest.mark.parametrize(
    ("name", "mischief", "call"),
    [
        case
        for case in cases()
        if case.values[1] == "stall"
        # fsspec's file system for HTTP looks up by a GET where HEAD fails.
        or (case.values[1] in ("503", "short") and (case.values[0], case.values[2]) != ("http", "head"))
    ],
)
@pytest.mark.slow
def test_what_does_not_pass_is_an_error_in_time(
    name: str,
    mischief: Mischief,
    call: Call,
    files: Path,
    proxied: Proxied,
    impatient: Patience,
    request: pytest.FixtureRequest,
) -> None:
    direct: Store = request.getfixturevalue(name)
    place = f"lasting-{call}-{mischief}"
    url = direct.upload(files, place)
    if call == "put":
        direct.filesystem().pipe_file(f"{BUCKET}/{place}/new.bin", b"of before")
    store, proxy = proxied(direct)
    url = url if name != "http" else f"{store.url}/{place}"
    started = time.monotonic()
    with (
        proxy.doing(mischief, call, count=FOREVER),
        pytest.raises(StorageError, match=rf"Cannot (list|look up|read|write) {url}.*tried \d+ times? within \d+ s"),
    ):
        do(call, Folder.of(url, store.options))
    # The last call begins before the total is over; a range that fails is looked up once more.
    assert time.monotonic() - started < impatient.total_seconds + 3 * impatient.limit_seconds(300_000) + 2
    if call == "put":
        assert direct.filesystem().cat_file(f"{BUCKET}/{place}/new.bin") == b"of before"


@NEEDS
@pytest.mark.slow
@pytest.mark.usefixtures("steadfast")
def test_the_job_comes_through(
    s3: Store, proxied: Proxied, data_dir: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = s3.upload(data_dir / DATASET, "disturbed/source")
    store, proxy = proxied(s3)
    arguments = ["materialize", source, f"{s3.url}/disturbed/out", *FLAGS]
    for mischief, call in EVERYTHING:
        if (mischief, call) != ("length", "head"):
            proxy.faults.append(Fault(mischief, call, 1))
    assert main([*arguments, "--storage-options", json.dumps(store.options)]) == EXIT_DONE, capsys.readouterr().err
    assert s3.tree("disturbed/out") == tree(reference)
    assert {(fault.mischief, fault.call) for fault in proxy.faults if fault.done} >= {
        ("reset", "put"),
        ("stall", "get"),
    }


@NEEDS
@pytest.mark.slow
@pytest.mark.usefixtures("steadfast")
@pytest.mark.parametrize("mischief", get_args(Mischief))
def test_the_reader_comes_through(mischief: Mischief, s3: Store, proxied: Proxied, reference: Path) -> None:
    output = s3.upload(reference, "disturbed-reader")
    store, proxy = proxied(s3)
    near = WindowLoader(WindowDataset(reference), batch_size=32, seed=3)
    proxy.faults += [fault_of(mischief, "get"), fault_of("503", "head")]
    far = WindowLoader(WindowDataset(output, storage_options=store.options), batch_size=32, seed=3)
    proxy.faults.append(fault_of(mischief, "get", name=".tar"))
    for one, other in zip(near, far, strict=True):
        assert_equal(one, other)
    assert all(fault.done for fault in proxy.faults if fault.call == "get")


@NEEDS
@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_store_that_stays_away_is_one_message(
    s3: Store, proxied: Proxied, data_dir: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the same command goes on when it is back."""
    store, proxy = proxied(s3)
    output = f"{s3.url}/away"
    arguments = ["materialize", str(data_dir / DATASET), output, *FLAGS, "--storage-options", json.dumps(store.options)]
    with proxy.doing("503", "put", count=FOREVER, name=".tar"):
        assert main(arguments) == EXIT_FAILED
    shown = capsys.readouterr().err
    assert shown.startswith(f"predecode: Cannot write {output}/train/shard-")
    assert "run the same" in shown
    assert "Traceback" not in shown
    assert "manifest.json" not in s3.tree("away")
    assert main(arguments) == EXIT_DONE, capsys.readouterr().err
    assert s3.tree("away") == tree(reference)


@NEEDS
def test_what_storage_refuses_is_not_tried_again(
    s3: Store, proxied: Proxied, capsys: pytest.CaptureFixture[str]
) -> None:
    store, proxy = proxied(s3)
    options = json.dumps({**store.options, "secret": "wrong"})
    assert main(["inspect", f"{s3.url}/refused", "--storage-options", options]) == EXIT_FAILED
    shown = capsys.readouterr().err
    assert "Storage refuses" in shown
    assert len(proxy.calls) <= 2
    assert main(["inspect", "s3://no-such-bucket/x", "--storage-options", json.dumps(s3.options)]) == EXIT_FAILED
    assert "no output of predecode" in capsys.readouterr().err


def fault_of(mischief: Mischief, call: Call, *, name: str = "") -> Fault:
    return Fault(mischief, call, 2, name)
