"""A file read by ranges gives what a local one gives, and fetches little more."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.transforms import far_file
from predecode.transforms.far_file import FarFile

CONTENT = bytes(range(251)) * 41


@given(
    st.lists(
        st.tuples(
            st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]), st.integers(-200, 11_000), st.integers(-1, 2_000)
        )
    )
)
def test_it_reads_as_a_local_file_does(steps: list[tuple[int, int, int]]) -> None:
    near = io.BytesIO(CONTENT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(far_file, "BLOCK_BYTES", 100)
        far = FarFile(lambda start, stop: CONTENT[start:stop], len(CONTENT))
        for whence, offset, size in steps:
            start = {os.SEEK_SET: 0, os.SEEK_CUR: near.tell(), os.SEEK_END: len(CONTENT)}[whence] + offset
            if start >= 0:
                assert far.seek(offset, whence) == near.seek(start)
            assert far.read(size) == near.read(size)
            assert far.tell() == near.tell()


def test_what_lies_in_sequence_is_fetched_once_and_more_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_file, "BLOCK_BYTES", 100)
    fetched: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> bytes:
        fetched.append((start, stop))
        return CONTENT[start:stop]

    file = FarFile(fetch, 1000)
    assert b"".join(iter(lambda: file.read(30), b"")) == CONTENT[:1000]
    assert fetched == [(0, 100), (100, 300), (300, 700), (700, 1000)]
    file.seek(650)
    file.read(100)
    assert len(fetched) == 4
    file.seek(0)
    file.read(10)
    assert fetched[4:] == [(0, 100)]


def test_it_fills_buffers_and_refuses_what_lies_before_it() -> None:
    file = io.BufferedReader(FarFile(lambda start, stop: CONTENT[start:stop], len(CONTENT)))
    assert file.read(10) == CONTENT[:10]
    with pytest.raises(ValueError, match="expected a position of 0 or more, got -1"):
        FarFile(lambda start, stop: CONTENT[start:stop], 10).seek(-1)
