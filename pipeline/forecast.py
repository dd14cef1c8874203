"""What a job would do, in numbers, for a person and for a script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from predecode.transforms.sizes import size_text
from predecode.transforms.wording import counted

_MAX_REASONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A job in numbers before it runs. What `Summary` has too is called the same, and is exact but for bytes and time.

    Attributes:
        source: The dataset.
        output: Where the job would write.
        episodes: Episodes with anchors, all splits.
        anchors: Windows, per split.
        frames: Images to store, over all cameras.
        frames_decoded: Frames to decode for them.
        shards: Shards, all splits.
        shards_kept: Those of them that the output has already.
        source_bytes: Size of the source's files.
        output_bytes: Of all tars, by the segments that were tried.
        bytes_to_write: Of those that the output does not have yet.
        seconds: Wall time of the whole command on this machine, for what is not there yet.
        core_hours: Processor time of reading, decoding, encoding and writing, on a core like this machine's.
        threads: Of this machine, that `seconds` is for.
        free_bytes: On the disk of the output; None where it is not local.
        anchors_quarantined: What would be left out, all splits.
        quarantined: Anchors left out, by reason.
        episodes_quarantined: How many episodes these are.
        segments_tried: Segments that were decoded and encoded to know bytes and time.
        segments: All of them.
        segments_failed: Reasons why some of those tried cannot be read.
        difference: How the plan that the output has differs, and what to do; "" where it has none or the same.
    """

    source: str
    output: str
    episodes: int
    anchors: Mapping[str, int]
    frames: int
    frames_decoded: int
    shards: int
    shards_kept: int
    source_bytes: int
    output_bytes: int
    bytes_to_write: int
    seconds: float
    core_hours: float
    threads: int
    free_bytes: int | None
    anchors_quarantined: int
    quarantined: Mapping[str, int]
    episodes_quarantined: int
    segments_tried: int
    segments: int
    segments_failed: tuple[str, ...]
    difference: str

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return "\n".join([*self._work(), *self._place(), *self._problems(), *self._basis()])

    def _work(self) -> Iterator[str]:
        windows = ", ".join(f"{count:,} {split}" for split, count in self.anchors.items())
        yield f"{counted(self.episodes, 'episode')}, windows: {windows}"
        kept = f" ({self.shards_kept:,} are there)" if self.shards_kept else ""
        images = f"{counted(self.frames, 'image')} in {counted(self.shards, 'shard')}{kept}"
        yield f"{images}; {counted(self.frames_decoded, 'frame')} to decode"
        per_window = size_text(round(self.output_bytes / max(1, sum(self.anchors.values()))))
        read, write = size_text(self.source_bytes), size_text(self.bytes_to_write)
        yield f"{read} to read, about {write} to write ({per_window} a window)"
        here = f"about {time_text(self.seconds)} on this machine with {counted(self.threads, 'thread')}"
        yield f"{here}; {hours_text(self.core_hours)} core-hours on a cluster of such cores"

    def _place(self) -> Iterator[str]:
        if self.free_bytes is not None:
            yield f"{size_text(self.free_bytes)} free at {self.output}"
            if self.free_bytes < self.bytes_to_write:
                yield "That is NOT ENOUGH: choose another OUTPUT, a smaller --image-size, or another codec."
        if self.difference:
            yield self.difference

    def _problems(self) -> Iterator[str]:
        if self.quarantined:
            what = f"{counted(self.episodes_quarantined, 'episode')} ({counted(self.anchors_quarantined, 'window')})"
            yield f"{what} cannot be used; the job fails, or leaves them out with --on-error=quarantine:"
            shown = list(self.quarantined.items())[:_MAX_REASONS]
            yield from (f"  {counted(count, 'window')}: {reason}" for reason, count in shown)
            if len(self.quarantined) > len(shown):
                yield f"  and {len(self.quarantined) - len(shown)} more reasons"
        if self.segments_failed:
            yield f"{len(self.segments_failed)} of the segments tried cannot be read, the first:"
            yield f"  {self.segments_failed[0]}"

    def _basis(self) -> Iterator[str]:
        tried = f"{self.segments_tried:,} of {counted(self.segments, 'segment')}"
        yield f"Bytes and time are judged by {tried}, decoded and encoded for real. Nothing was written."


def hours_text(hours: float) -> str:
    """A number of hours for a person: small ones are not nothing.

    >>> hours_text(0.0123), hours_text(0.21), hours_text(1234.5)
    ('0.01', '0.2', '1,234.5')
    """
    return f"{hours:,.1f}" if hours >= 0.95 else f"{hours:.1g}"


def time_text(seconds: float) -> str:
    """A length of time for a person.

    >>> time_text(42.3), time_text(250), time_text(9000), time_text(900_000)
    ('42 s', '4.2 min', '2.5 h', '10.4 days')
    """
    for unit, unit_seconds in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * unit_seconds:
            return f"{seconds / unit_seconds:.1f} {unit}"
    return f"{seconds:.0f} s"
