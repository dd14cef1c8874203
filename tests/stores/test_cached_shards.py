"""The local cache of shards before real stores: what it holds is not asked for again, through faults and by workers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

import pytest
from torch.utils.data import DataLoader

from predecode.reader import WindowDataset, WindowLoader
from tests.reader.test_shard_cache import until
from tests.stores.conftest import NEEDS, STORES, Proxied
from tests.stores.proxy import Fault, Mischief, Proxy
from tests.stores.servers import Store
from tests.stores.test_contract import assert_equal


def checksums(folder: Path) -> list[str]:
    """Of all tars below a folder, whatever they are called."""
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.tar"))


def assert_copied(cache: Path, reference: Path) -> None:
    """Waits until the background has copied all shards; they must be the shards."""
    until(lambda: len(list(cache.glob("*.tar"))) == len(list(reference.rglob("*.tar"))))
    assert checksums(cache) == checksums(reference)


def batches(root: Path | str, **options: Any) -> WindowLoader:
    return WindowLoader(WindowDataset(root, **options), batch_size=32, seed=3)


def asked_for(proxy: Proxy) -> list[str]:
    """Content of tars; Google's way to ask how large a file is, a GET too, is left out."""
    gets = (target for call, target in proxy.calls if call == "get" and ".tar" in target)
    return [target for target in gets if not target.startswith("/storage/v1/b/")]


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_a_full_cache_asks_the_store_for_no_window(
    store: Store, proxied: Proxied, reference: Path, tmp_path: Path
) -> None:
    output = store.upload(reference, "cached")
    far = batches(output, storage_options=store.options, cache_dir=tmp_path)  # Copies as long as it is there.
    for one, other in zip(batches(reference), far, strict=True):
        assert_equal(one, other)
    assert_copied(tmp_path, reference)
    behind, proxy = proxied(store)
    again = batches(output, storage_options=behind.options, cache_dir=tmp_path)
    for one, other in zip(batches(reference), again, strict=True):
        assert_equal(one, other)
    assert not asked_for(proxy)
    next(iter(batches(output, storage_options=behind.options)))
    assert asked_for(proxy), "else the proxy is asked for nothing, and this shows nothing"
    secrets = [str(value) for name, value in store.options.items() if name in ("key", "secret", "token")]
    assert not [secret for secret in secrets for path in tmp_path.iterdir() if secret in path.name]


@NEEDS
@pytest.mark.slow
@pytest.mark.usefixtures("steadfast")
@pytest.mark.parametrize("mischief", get_args(Mischief))
def test_copies_come_through(mischief: Mischief, s3: Store, proxied: Proxied, reference: Path, tmp_path: Path) -> None:
    """What a fault spoils is neither given nor kept: who copies comes back with the next window of the shard."""
    output = s3.upload(reference, "disturbed-cache")
    store, proxy = proxied(s3)
    proxy.faults.append(Fault(mischief, "get", 6, ".tar"))
    far = batches(output, storage_options=store.options, cache_dir=tmp_path)
    near = batches(reference)
    for _ in range(2):
        for one, other in zip(near, far, strict=True):
            assert_equal(one, other)
    assert not [fault for fault in proxy.faults if not fault.done]
    assert set(checksums(tmp_path)) <= set(checksums(reference))


@NEEDS
@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_it(context: str, s3: Store, reference: Path, tmp_path: Path) -> None:
    output = s3.upload(reference, f"cached-{context}")
    far = WindowDataset(output, storage_options=s3.options, cache_dir=tmp_path)
    near = WindowDataset(reference)
    loader = DataLoader(far, batch_size=32, num_workers=2, multiprocessing_context=context, persistent_workers=True)
    for _ in range(2):
        for one, other in zip(DataLoader(near, batch_size=32), loader, strict=True):
            assert_equal(one, other)
    assert set(checksums(tmp_path)) <= set(checksums(reference))
    assert checksums(tmp_path)
