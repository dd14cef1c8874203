"""What `predecode verify` does: the bytes against the manifest, then, with a source, the windows against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predecode.reader.certificate import Certificate, certify_output
from predecode.reader.verification import Verification, repair_output, verify_output
from predecode.transforms.wording import counted


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found, and what to do about it.

    Attributes:
        files: The bytes against the manifest.
        certificate: The windows against the source; None where that was not asked for, or files are damaged.
        with_source: Whether it was asked for.
        is_repaired: Whether the next job writes anew what is not right.
    """

    files: Verification
    certificate: Certificate | None
    with_source: bool
    is_repaired: bool

    @property
    def is_sound(self) -> bool:
        """Whether all is well."""
        return self.files.is_sound and (self.certificate is None or self.certificate.is_sound)

    @property
    def differs(self) -> bool:
        """Whether a window is not what the source says."""
        return self.certificate is not None and not self.certificate.is_sound

    @property
    def damaged_shards(self) -> list[str]:
        """Shards that have to be written again."""
        return sorted({*self.files.damaged_shards, *(self.certificate.damaged_shards if self.certificate else ())})

    def to_json(self) -> str:
        """One JSON object."""
        content = {
            **self.files.content(),
            "certificate": self.certificate and self.certificate.content(),
            "damaged_shards": self.damaged_shards,
            "sound": self.is_sound,
        }
        return json.dumps(content)

    def __str__(self) -> str:
        """For a person."""
        lines = [str(self.files)]
        if self.certificate is not None:
            lines.append(str(self.certificate))
        elif self.with_source:
            lines.append("Its windows were not compared with the source: damaged files come first.")
        return "\n".join(lines)

    @property
    def advice(self) -> str:
        """What to do; "" where there is nothing to do."""
        if not self.files.problems and not self.differs:
            return ""
        other = "Run this" if self.differs else "Copy these files again, or run this"
        first = "Now run" if self.is_repaired else f"{other} with --repair and then"
        number = len(self.damaged_shards)
        shards = counted(number, "shard")
        advice = (
            f"{first} the same `predecode materialize` as before: it writes {shards} anew, and what describes them."
        )
        if self.differs:
            advice += "\nIf the same differences are found afterwards, the output was made from another source."
        return advice


def verify(
    output: str,
    source: str | None,
    storage_options: Mapping[str, Any],
    *,
    repair: bool,
    num_threads: int | None,
    show_progress: bool,
) -> Verified:
    """Verifies an output, and prepares the repair where that is asked for.

    Args:
        output: A folder or an fsspec URL.
        source: The dataset to compare with; None to compare with the manifest alone.
        storage_options: For fsspec.
        repair: Whether the next job is to write anew what is not right.
        num_threads: At once; a number that fits the machine if not given.
        show_progress: Whether to draw bars on standard error.

    Raises:
        PredecodeError: there is nothing to compare, or nothing to compare with.
        OSError: storage fails.
    """
    files = verify_output(output, storage_options, num_threads=num_threads, show_progress=show_progress)
    certificate = None
    if source is not None and not files.problems:
        certificate = certify_output(
            output, source, storage_options, num_threads=num_threads, show_progress=show_progress
        )
    verified = Verified(files, certificate, source is not None, repair)
    if repair and verified.advice:
        repair_output(output, storage_options, verified.damaged_shards)
    return verified
