"""Certificates in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from predecode.reader.certificate import Certificate, certify_output
from predecode.reader.verification import verify_output


def certify(output: Path, source: Path) -> Certificate:
    assert verify_output(str(output)).is_sound, "the checksums know nothing of what these tests are about"
    return certify_output(str(output), str(source), num_threads=2)


def found(certificate: Certificate) -> list[tuple[Any, ...]]:
    return [(each.episode_index, each.frame, each.feature, each.delta) for each in certificate.differences]
