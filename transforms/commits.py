"""The commit record of a shard: the last of its files to be written, the only proof that the others are complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from predecode.transforms.episodes import Quarantine
from predecode.transforms.fidelity import CameraMeter
from predecode.transforms.format import FORMAT_VERSION, commit_file, index_file, tar_file
from predecode.transforms.hashing import canonical_json
from predecode.transforms.shard_writer import Written
from predecode.transforms.shards import Segment
from predecode.transforms.storage import Folder
from predecode.transforms.wording import counted


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What a shard holds, what of it was lost, and the sums that the whole dataset's report is made of.

    Attributes:
        plan_hash: Of the `ShardPlan` that it was written from.
        tar: The tar as published.
        index: Its index as published.
        segments: Segments in tar order, without the lost ones.
        samples_per_segment: Samples of each of them.
        cameras: Per camera sums over its frames.
        rows: Per number feature what `statistics.MergedRows` merges.
        lost: Segments that could not be read, with the reason.
    """

    plan_hash: str
    tar: Written
    index: Written
    segments: tuple[Segment, ...]
    samples_per_segment: tuple[int, ...]
    cameras: Mapping[str, CameraMeter]
    rows: Mapping[str, Mapping[str, Any]]
    lost: tuple[Quarantine, ...]

    @property
    def num_anchors(self) -> int:
        """Anchors in the shard."""
        return sum(segment.num_anchors for segment in self.segments)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {
                "format_version": FORMAT_VERSION,
                "plan_hash": self.plan_hash,
                "tar": asdict(self.tar),
                "index": asdict(self.index),
                "anchors": self.num_anchors,
                "samples": sum(self.samples_per_segment),
                "segments": [
                    [*segment, samples]
                    for segment, samples in zip(self.segments, self.samples_per_segment, strict=True)
                ],
                "cameras": {name: meter.to_json() for name, meter in self.cameras.items()},
                "rows": self.rows,
                "lost": [asdict(lost) for lost in self.lost],
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> CommitRecord:
        """Back from JSON.

        Raises:
            ValueError: the content is no commit record of this format version.
        """
        try:
            value = json.loads(content)
            if value["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {value['format_version']}")
            return cls(
                plan_hash=value["plan_hash"],
                tar=Written(**value["tar"]),
                index=Written(**value["index"]),
                segments=tuple(Segment(*segment[:3]) for segment in value["segments"]),
                samples_per_segment=tuple(segment[3] for segment in value["segments"]),
                cameras={name: CameraMeter.from_json(meter) for name, meter in value["cameras"].items()},
                rows=value["rows"],
                lost=tuple(Quarantine(**lost) for lost in value["lost"]),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no commit record: {error!r}") from error


def read_commit(folder: Folder, split: str, number: int) -> CommitRecord | None:
    """The commit record of a shard; None where there is none, it is damaged, or its files are not as it says.

    Raises:
        OSError: storage fails.
    """
    try:
        record = CommitRecord.from_bytes(folder.read(commit_file(split, number)))
    except (FileNotFoundError, ValueError):
        return None
    whole = (
        folder.size(tar_file(split, number)) == record.tar.size_bytes
        and folder.size(index_file(split, number)) == record.index.size_bytes
    )
    return record if whole else None


def find_commit(
    places: Sequence[Folder], split: str, number: int, plan_hash: str
) -> tuple[Folder, CommitRecord] | None:
    """The first commit of a shard that was written from a plan, and where.

    Args:
        places: Where shards may lie.
        split: "train" or "val".
        number: Of the shard.
        plan_hash: Of its plan.

    Raises:
        OSError: storage fails.
    """
    for folder in places:
        record = read_commit(folder, split, number)
        if record is not None and record.plan_hash == plan_hash:
            return folder, record
    return None


def describe_lost(lost: Sequence[Quarantine], *, limit: int = 3) -> str:
    """The first reasons, one a line."""
    lines = [
        f"  episode {part.episode_index}, {counted(part.num_anchors, 'anchor')}: {part.reason}" for part in lost[:limit]
    ]
    if len(lost) > limit:
        lines.append(f"  and {len(lost) - limit} more")
    return "\n".join(lines)
