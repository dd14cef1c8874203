"""Headers of tar members: those of the standard library, byte for byte."""

from __future__ import annotations

import tarfile

from hypothesis import example, given
from hypothesis import strategies as st

from predecode.transforms.samples import Sample
from predecode.transforms.shard_writer import tar_blocks


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60), st.binary())
@example("x" * 80, b"")  # With the sample's key as long as a name may be without a prefix, and longer.
@example("x" * 81, b"")
@example("ü" * 45, bytes(8**4))
def test_headers_are_those_of_the_standard_library(extension: str, content: bytes) -> None:
    sample = Sample(1, 2, 1, {extension: content}, {})
    header = tarfile.TarInfo(f"{sample.key}.{extension}")
    header.size, header.mode, header.uname, header.gname = len(content), 0o444, "predecode", "predecode"
    try:
        expected = header.tobuf(tarfile.USTAR_FORMAT, "utf-8")
    except ValueError:  # No name that a tar of this format can hold.
        return
    assert next(iter(tar_blocks(sample))) == expected
