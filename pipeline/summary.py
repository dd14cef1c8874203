"""What a finished job reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from predecode.transforms.episodes import Quarantine
from predecode.transforms.format import QUARANTINE_FILE
from predecode.transforms.sizes import size_text
from predecode.transforms.storage import Folder
from predecode.transforms.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A finished output in numbers.

    Attributes:
        output: Where it is.
        episodes: Episodes with anchors in it, all splits.
        anchors: Windows in it, per split.
        frames: Stored images over all cameras.
        shards: Shards, all splits.
        source_bytes: Size of the source's files.
        output_bytes: Size of all tars.
        shards_kept: Shards that an earlier run had committed.
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
    source_bytes: int
    output_bytes: int
    shards_kept: int
    psnr_db: Mapping[str, float | None]
    anchors_quarantined: int
    quarantined: Mapping[str, int]
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Stored frames per second of wall time; 0 where an earlier run had stored some of them."""
        return self.frames / self.seconds if self.seconds and not self.shards_kept else 0.0

    @property
    def _written(self) -> str:
        """What this run has done, which is less than what is there if an earlier one had begun."""
        written = self.shards - self.shards_kept
        if not written:
            return f"nothing to write: an earlier run had committed all of it, {size_text(self.output_bytes)}"
        if self.shards_kept:
            return (
                f"{counted(written, 'shard')} written in {self.seconds:.1f} s, {self.shards_kept:,} kept of an earlier "
                f"run; {size_text(self.output_bytes)} in all"
            )
        return (
            f"{size_text(self.source_bytes)} read, {size_text(self.output_bytes)} written in {self.seconds:.1f} s "
            f"({self.frames_per_second:,.0f} frames/s)"
        )

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps({**asdict(self), "frames_per_second": round(self.frames_per_second, 1)})

    def __str__(self) -> str:
        windows = ", ".join(f"{count:,} {split}" for split, count in self.anchors.items())
        stored = f"{counted(self.frames, 'frame')} in {counted(self.shards, 'shard')}"
        lines = [f"{counted(self.episodes, 'episode')}, windows: {windows}; {stored}", self._written]
        for camera, psnr_db in self.psnr_db.items():
            lines.append(f"{camera}: {'lossless' if psnr_db is None else f'{psnr_db:.1f} dB after encoding'}")
        if self.quarantined:
            lines.append(f"{counted(self.anchors_quarantined, 'window')} quarantined ({QUARANTINE_FILE} says which):")
            lines += [f"  {count:,}: {reason}" for reason, count in self.quarantined.items()]
        lines.append(f"Shards are in {self.output}")
        return "\n".join(lines)


def summarize(
    manifest: Mapping[str, Any], output: Folder, *, source_bytes: int, shards_kept: int, seconds: float
) -> Summary:
    """The summary of an output from its manifest.

    Args:
        manifest: Its content.
        output: Where it is.
        source_bytes: Size of the source.
        shards_kept: Shards that an earlier run had committed.
        seconds: Wall time that it took.
    """
    splits = manifest["splits"]
    return Summary(
        output=output.url,
        episodes=sum(split["episodes"] for split in splits.values()),
        anchors={name: split["anchors"] for name, split in splits.items()},
        frames=sum(camera["stored"] for camera in manifest["frames"].values()),
        shards=sum(split["shards"] for split in splits.values()),
        source_bytes=source_bytes,
        output_bytes=sum(split["tar_bytes"] for split in splits.values()),
        shards_kept=shards_kept,
        psnr_db={name: camera["psnr_db"] for name, camera in manifest["frames"].items()},
        anchors_quarantined=sum(split["anchors_quarantined"] for split in splits.values()),
        quarantined=_reasons(output) if QUARANTINE_FILE in manifest["files"] else {},
        seconds=round(seconds, 3),
    )


def _reasons(output: Folder) -> dict[str, int]:
    """Anchors by the kind of reason, commonest first: what differs from episode to episode is left out of the text."""
    counts: Counter[str] = Counter()
    for line in output.read(QUARANTINE_FILE).splitlines():
        part = Quarantine(**json.loads(line))
        counts[part.reason] += part.num_anchors
    return dict(counts.most_common())
