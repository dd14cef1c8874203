"""What a finished job reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from predecode.transforms.episodes import Quarantine
from predecode.transforms.errors import FormatError
from predecode.transforms.format import QUARANTINE_FILE, shard_table_file
from predecode.transforms.manifest import read_manifest
from predecode.transforms.sizes import size_text
from predecode.transforms.staging import described_files
from predecode.transforms.storage import Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A finished output in numbers.

    Attributes:
        output: Where it is.
        episodes: Episodes with anchors in it, all splits.
        anchors: Windows in it, per split.
        frames: Stored images over all cameras.
        shards: Shards, all splits.
        shards_kept: Those of them that an extension found and kept.
        source_bytes: Size of the source's files.
        output_bytes: Size of all tars.
        psnr_db: Per camera the fidelity of the encoding; None where nothing was lost.
        anchors_quarantined: Left out, all splits.
        quarantined: Anchors left out, by reason.
        seconds: Wall time of the job.
    """

    output: str
    episodes: int
    anchors: Mapping[str, int]
    frames: int
    shards: int
    shards_kept: int
    source_bytes: int
    output_bytes: int
    psnr_db: Mapping[str, float | None]
    anchors_quarantined: int
    quarantined: Mapping[str, int]
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Stored frames per second of wall time."""
        return self.frames / self.seconds if self.seconds else 0.0

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps({**asdict(self), "frames_per_second": round(self.frames_per_second, 1)})

    def __str__(self) -> str:
        windows = ", ".join(f"{count:,} {split}" for split, count in self.anchors.items())
        lines = [
            f"{self.episodes:,} episodes, windows: {windows}; {self.frames:,} frames in {self.shards:,} shards",
            (
                f"{size_text(self.source_bytes)} read, {size_text(self.output_bytes)} written in {self.seconds:.1f} s "
                f"({self.frames_per_second:,.0f} frames/s)"
            ),
        ]
        if self.shards_kept:
            lines.append(f"{self.shards_kept:,} shards kept, {self.shards - self.shards_kept:,} written")
        for camera, psnr_db in self.psnr_db.items():
            lines.append(f"{camera}: {'lossless' if psnr_db is None else f'{psnr_db:.1f} dB after encoding'}")
        if self.quarantined:
            lines.append(f"{self.anchors_quarantined:,} windows quarantined ({QUARANTINE_FILE} says which):")
            lines += [f"  {count:,}: {reason}" for reason, count in self.quarantined.items()]
        lines.append(f"Shards are in {self.output}")
        return "\n".join(lines)


def summarize(
    manifest: Mapping[str, Any], output: Folder, *, shards_kept: int = 0, source_bytes: int, seconds: float
) -> Summary:
    """The summary of an output from its manifest.

    Args:
        manifest: Its content.
        output: Where it is.
        shards_kept: What an extension found and kept.
        source_bytes: Size of the source.
        seconds: Wall time that it took.
    """
    splits = manifest["splits"]
    return Summary(
        output=output.url,
        episodes=sum(split["episodes"] for split in splits.values()),
        anchors={name: split["anchors"] for name, split in splits.items()},
        frames=sum(camera["stored"] for camera in manifest["frames"].values()),
        shards=sum(split["shards"] for split in splits.values()),
        shards_kept=shards_kept,
        source_bytes=source_bytes,
        output_bytes=sum(split["tar_bytes"] for split in splits.values()),
        psnr_db={name: camera["psnr_db"] for name, camera in manifest["frames"].items()},
        anchors_quarantined=sum(split["anchors_quarantined"] for split in splits.values()),
        quarantined=_reasons(output) if QUARANTINE_FILE in manifest["files"] else {},
        seconds=round(seconds, 3),
    )


def read_record_checksums(output: Folder) -> dict[tuple[str, int], str]:
    """The checksum of each shard's commit record, by split and number; none where the output is not complete or sound.

    Raises:
        OSError: storage fails.
    """
    checksums: dict[tuple[str, int], str] = {}
    try:
        manifest = read_manifest(output)
        files = described_files(output, manifest)
        for split in manifest["splits"]:
            table = pa.ipc.open_file(pa.BufferReader(files.read(shard_table_file(split)))).read_all()
            checksums |= {(split, number): text for number, text in enumerate(table["record_sha256"].to_pylist())}
    except (FormatError, FileNotFoundError, pa.ArrowInvalid, KeyError):
        return {}
    return checksums


def _reasons(output: Folder) -> dict[str, int]:
    """Anchors by the kind of reason, commonest first: what differs from episode to episode is left out of the text."""
    counts: Counter[str] = Counter()
    for line in output.read(QUARANTINE_FILE).splitlines():
        part = Quarantine(**json.loads(line))
        counts[part.reason] += part.num_anchors
    return dict(counts.most_common())
