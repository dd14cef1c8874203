"""What is in an output, from its manifest and plan alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from predecode.reader.item_format import ItemFormat
from predecode.reader.opening import open_output
from predecode.transforms.errors import FormatError
from predecode.transforms.features import Kind
from predecode.transforms.format import MANIFEST_FILE, PLAN_FILE
from predecode.transforms.manifest import MANIFEST_REMEDY
from predecode.transforms.plan_file import is_sound_plan, read_plan
from predecode.transforms.sizes import size_text
from predecode.transforms.storage import Folder
from predecode.transforms.windows import compact
from predecode.transforms.wording import counted


@dataclass(frozen=True, slots=True)
class Inspection:
    """A summary of an output.

    Attributes:
        content: As plain JSON.
        text: The same for a person.
    """

    content: Mapping[str, Any]
    text: str

    def __str__(self) -> str:
        """The text."""
        return self.text


def inspect_output(url: str, storage_options: Mapping[str, Any] | None = None) -> Inspection:
    """Reads what an output says of itself; opens no shard.

    Args:
        url: The output: a folder or an fsspec URL.
        storage_options: For fsspec.

    Raises:
        FormatError: the output is incomplete, damaged, or of another format version.
        OSError: storage fails.
    """
    return open_output(Folder.of(url, storage_options), _inspect)


def _inspect(folder: Folder, manifest: Mapping[str, Any]) -> Inspection:
    plan = read_plan(folder) or {}
    if plan.get("digest") != manifest.get("plan"):
        raise FormatError(
            f"{folder}: {MANIFEST_FILE} was written for the plan {manifest.get('plan')!r:.80}, {PLAN_FILE} is "
            f"{repr(plan['digest'])[:80] if 'digest' in plan else 'missing'}. Run the same `predecode materialize` "
            "again to complete the output."
        )
    if not is_sound_plan(plan):
        raise FormatError(
            f"{folder.path(PLAN_FILE)} is damaged: its checksum does not fit. Run the same `predecode materialize` "
            "with --overwrite, which writes it anew and keeps the shards that are right."
        )
    item_format = ItemFormat.of(manifest)
    try:
        content = _content(str(folder), manifest, plan, item_format)
        return Inspection(content, _printable("\n".join(_lines(content))))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise FormatError(
            f"{folder}: {MANIFEST_FILE} or {PLAN_FILE} lacks something: {error!r:.200}. {MANIFEST_REMEDY}"
        ) from error


def _printable(text: str) -> str:
    """Without what would steer a terminal: an output's strings may be anybody's."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _content(output: str, manifest: Mapping[str, Any], plan: Mapping[str, Any], item: ItemFormat) -> dict[str, Any]:
    splits = {
        name: {**split, "bytes_per_anchor": round(split["tar_bytes"] / max(1, split["anchors"]))}
        for name, split in manifest["splits"].items()
    }
    source = plan["source"]
    return {
        "output": output,
        "format_version": manifest["format_version"],
        "source": {key: source[key] for key in ("codebase_version", "format", "episodes", "frames") if key in source},
        "fps": item.fps,
        "windows": {name: list(deltas) for name, deltas in item.delta_indices.items()},
        "features": {
            feature.name: {"kind": str(feature.kind), "dtype": feature.dtype, "shape": list(feature.shape)}
            for feature in item.features
        },
        "text_features": list(item.text_features),
        "item_keys": list(item.item_keys),
        "anchor_stride": item.anchor_stride,
        "drop_last_frames": manifest["drop_last_frames"],
        "anchors_per_sample": item.anchors_per_sample,
        "image": manifest["image"],
        "cameras": manifest["frames"],
        "splits": splits,
        "anchors_quarantined": sum(split["anchors_quarantined"] for split in splits.values()),
        "plan": manifest["plan"],
    }


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    source, features = content["source"], content["features"]
    is_zarr = source.get("format") == "zarr"
    kind = "Zarr replay buffer" if is_zarr else f"LeRobot {source.get('codebase_version', 'of unknown version')}"
    yield f"{content['output']}: format version {content['format_version']}, complete"
    size = f"{counted(source['episodes'], 'episode')}, {counted(source['frames'], 'frame')}"
    yield f"source      {kind}, {size}, {content['fps']:g} fps"
    for number, line in enumerate(_split_lines(content["splits"])):
        yield f"{'splits' if number == 0 else '':12}{line}"
    yield f"samples     {_sample_line(content)}"
    widest = max(map(len, features))
    yield f"{'features':12}{'name':{widest}}  {'stored as':22}window in frames"
    for name, feature in features.items():
        shape = "x".join(map(str, feature["shape"]))
        stored = f"{feature['dtype'] if feature['kind'] == Kind.NUMBER else feature['kind']} {shape}"
        window = compact(content["windows"][name]) if name in content["windows"] else "-"
        yield f"{'':12}{name:{widest}}  {stored:22}{window}"
    extra = [name for name in content["text_features"] if name not in features]
    yield from (f"{'':12}{name:{widest}}  {'string':22}-" for name in extra)
    for number, line in enumerate(_camera_lines(content)):
        yield f"{'cameras' if number == 0 else '':12}{line}"


def _split_lines(splits: Mapping[str, Any]) -> Iterator[str]:
    for name, split in splits.items():
        windows = f"{counted(split['anchors'], 'window')} in {counted(split['samples'], 'sample')}"
        yield (
            f"{name}: {counted(split['episodes'], 'episode')}, {windows}, "
            f"{counted(split['shards'], 'shard')}, {size_text(split['tar_bytes'])} "
            f"({size_text(split['bytes_per_anchor'])} a window), {split['anchors_quarantined']} quarantined"
        )


def _sample_line(content: Mapping[str, Any]) -> str:
    per_sample, stride, dropped = (content[key] for key in ("anchors_per_sample", "anchor_stride", "drop_last_frames"))
    line = "one window each" if per_sample == 1 else f"runs of up to {per_sample} windows that share their frames"
    line += "; a window at every frame" if stride == 1 else f"; a window at every {stride} frames"
    return line + (f" but the last {dropped} of an episode" if dropped else "")


def _camera_lines(content: Mapping[str, Any]) -> Iterator[str]:
    image = content["image"]
    codec = image["image_codec"] + (f" quality {image['jpeg_quality']}" if image["jpeg_quality"] else "")
    for name in (name for name in content["features"] if name in content["cameras"]):
        frames = content["cameras"][name]
        height, width, channels = content["features"][name]["shape"]
        if image["lossless"]:
            loss = "lossless"
        else:
            loss = "not compared" if frames["psnr_db"] is None else f"{frames['psnr_db']:.1f} dB after encoding"
        resized = f" ({image['resize_mode']})" if image["resize_mode"] else ""
        stored = counted(frames["stored"], "frame")
        yield f"{name}: {height}x{width}x{channels}{resized}, {codec}, {loss}, {stored} stored"
