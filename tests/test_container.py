"""The container file fits what else the checkout says; scripts/check-container takes its steps for real."""

from __future__ import annotations

import re
from pathlib import Path

from predecode.transforms.allocator import MAX_ARENAS

ROOT = Path(__file__).parent.parent
CONTAINERFILE = (ROOT / "Containerfile").read_text()


def test_the_base_has_the_beam_of_the_constraints() -> None:
    base = re.search(r"^FROM apache/beam_python3\.11_sdk:(\S+)$", CONTAINERFILE, re.MULTILINE)
    assert base
    assert f"apache-beam=={base[1]}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_workers_threads_share_as_many_heaps_as_those_of_the_own_command() -> None:
    assert f"ENV MALLOC_ARENA_MAX={MAX_ARENAS}" in CONTAINERFILE.splitlines()


def test_what_is_copied_is_sent_to_the_builder_and_nothing_else() -> None:
    copies = re.findall(r"^COPY (.+) \S+$", CONTAINERFILE, re.MULTILINE)
    copied = {name for names in copies for name in names.split()}
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
