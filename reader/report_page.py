"""The page of a report: numbers in, one self-contained HTML document out. It needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from predecode.reader.charts import NARROW, Histogram, bars, meter
from predecode.reader.markup import Markup, element, escaped, group, picture, png, table
from predecode.reader.report_data import MAX_VALUES, MIN_STUCK_FRAMES, ReportData
from predecode.reader.report_fidelity import CameraFidelity, ComparedFrame
from predecode.reader.report_style import STYLE
from predecode.transforms.sizes import size_text
from predecode.transforms.windows import compact
from predecode.transforms.wording import counted

MAX_LISTED = 50
_DIFFERENCE_GAIN = 8
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Whatever a dataset's names may hold: the page loads nothing and runs nothing."""


def report_page(
    data: ReportData, fidelity: Mapping[str, CameraFidelity] | None, contact_sheet: bytes | None, source: str | None
) -> str:
    """The whole document.

    Args:
        data: Of the output.
        fidelity: Per camera; None where the source was not given.
        contact_sheet: A PNG.
        source: What the frames were compared with.
    """
    title = f"{data.folder.url.rsplit('/', 1)[-1]}: training windows"
    sections = [
        _heading(data),
        _asked(data),
        _came_out(data),
        _fidelity(data, fidelity, source),
        _episodes(data),
        _distributions(data),
        _repeated(data),
        _quarantine(data),
    ]
    if contact_sheet is not None:
        alt = "Windows of both ends of an episode and of others, with padded slots hatched in red"
        sections.append(_section("Some windows", element("div", png(contact_sheet, alt=alt), class_="sheet")))
    footer = element(
        "footer",
        "Made by ",
        element("code", "predecode report"),
        " from the output's own files; plan ",
        element("code", data.manifest["plan"]),
    )
    head = group(
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{escaped(_POLICY)}">'),
        element("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    body = element("main", *sections, footer)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _section(title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children)


def _note(*children: object) -> Markup:
    return element("p", *children, class_="faint")


def _name(name: str) -> Markup:
    return element("span", name, class_="name")


def _heading(data: ReportData) -> Markup:
    splits = data.manifest["splits"].values()
    lost = sum(split["anchors_quarantined"] for split in splits)
    stored = sum(frames["stored"] for frames in data.manifest["frames"].values())
    tiles = {
        "windows": f"{data.num_windows:,}",
        "episodes": f"{sum(len(lengths) for lengths in data.lengths.values()):,}",
        "frames stored": f"{stored:,}",
        "shards": f"{sum(split['shards'] for split in splits):,}",
        "size": size_text(sum(split["tar_bytes"] for split in splits)),
        "quarantined": f"{lost:,}",
    }
    source = data.plan["source"]
    kind = "Zarr replay buffer" if source.get("format") == "zarr" else f"LeRobot {source.get('codebase_version')}"
    return element(
        "header",
        element("h1", data.folder.url),
        _note(f"from a {kind} of {counted(source['episodes'], 'episode')} and {counted(source['frames'], 'frame')}"),
        element(
            "dl",
            *(element("div", element("dt", name), element("dd", value)) for name, value in tiles.items()),
            class_="tiles",
            id="tiles",
        ),
    )


def _asked(data: ReportData) -> Markup:
    options, image = data.plan["options"], data.manifest["image"]
    size = (
        "as in the source" if image["image_size"] is None else "{}x{} (height x width), ".format(*image["image_size"])
    )
    quality = f", quality {image['jpeg_quality']}" if image["jpeg_quality"] else ""
    ranges = options["episodes"]
    rows = {
        "windows, in frames": None,
        "anchors": f"every {options['anchor_stride']} frames" if options["anchor_stride"] > 1 else "every frame",
        "last frames of an episode without a window": options["drop_last_frames"],
        "episodes": "all" if ranges is None else ", ".join(_range_text(*part) for part in ranges),
        "image size": size + (image["resize_mode"] or ""),
        "image codec": f"{image['image_codec']}{quality}{', lossless' if image['lossless'] else ''}",
        "windows a sample": data.manifest["anchors_per_sample"],
        "share of episodes for validation": options["validation_fraction"],
        "seed": options["seed"],
        "left out": ", ".join(options["exclude_features"]) or "nothing",
    }
    windows = [
        element("div", _name(name), f": {compact(deltas)}") for name, deltas in data.item_format.delta_indices.items()
    ]
    cells = [(name, group(*windows) or "none" if value is None else value) for name, value in rows.items()]
    versions = table(("library", "version"), data.plan["versions"].items(), id_="versions")
    return _section(
        "What was asked for",
        table(("option", "value"), cells, id_="options"),
        element("details", element("summary", "Versions of the libraries that made the bytes"), versions),
    )


def _range_text(start: int, stop: int | None) -> str:
    return f"{start}:" if stop is None else str(start) if stop == start + 1 else f"{start}:{stop}"


def _came_out(data: ReportData) -> Markup:
    rows = [
        (name, *(f"{split[key]:,}" for key in keys), size_text(split["tar_bytes"]), f"{split['anchors_quarantined']:,}")
        for name, split in data.manifest["splits"].items()
        for keys in [("episodes", "anchors", "samples", "shards")]
    ]
    head = ("split", "episodes", "windows", "samples", "shards", "size", "quarantined")
    part = "all" if data.num_read == data.num_windows else f"{data.num_read:,} of {data.num_windows:,}"
    return _section(
        "What came out",
        table(head, rows, id_="splits", numeric=range(1, 7)),
        element("h3", "Features"),
        _note(f"Padding: the share of a window's slots that lie outside the episode, over {part} windows."),
        table(("feature", "kind", "stored as", "window", "padding", ""), _feature_rows(data), id_="features"),
    )


def _feature_rows(data: ReportData) -> Iterator[tuple[object, ...]]:
    for feature in data.item_format.features:
        deltas = data.item_format.delta_indices.get(feature.name)
        shape = " x ".join(map(str, feature.shape)) or "scalar"
        padded, slots = data.padded.get(feature.name, (0, 0))
        share = padded / slots if slots else 0.0
        shown = (f"{share:.1%}", meter(share, title=f"{share:.1%} padded")) if slots else ("", "")
        yield _name(feature.name), feature.kind, f"{feature.dtype}, {shape}", compact(deltas) if deltas else "", *shown


def _fidelity(data: ReportData, fidelity: Mapping[str, CameraFidelity] | None, source: str | None) -> Markup:
    cameras = data.item_format.cameras
    if not cameras:
        return _section("Fidelity of the images", _note("There are no cameras."))
    lossless = data.manifest["image"]["lossless"]
    rows = [
        (_name(camera.name), f"{frames['stored']:,}", f"{frames['compared']:,}", _decibels(frames, lossless=lossless))
        for camera in cameras
        for frames in [data.manifest["frames"][camera.name]]
    ]
    parts = [table(("camera", "frames stored", "compared by the job", "PSNR"), rows, id_="cameras", numeric=(1, 2, 3))]
    if lossless:
        parts.append(_note("The codec is lossless: stored frames are what it was given, to the bit."))
    elif fidelity is None:
        parts.append(
            _note(
                "Of each shard, as the job measured it. With ",
                element("code", "--source"),
                " single frames are compared, and the worst are shown beside their originals.",
            )
        )
        parts.append(_psnr_charts({name: (values, "shards") for name, values in data.shard_psnr.items()}))
    else:
        parts.append(
            _note("Of single frames, chosen by chance from all samples, against ", element("code", source), ".")
        )
        parts.append(_psnr_charts({name: (found.psnr_db, "frames") for name, found in fidelity.items()}))
        parts += [_worst(name, found) for name, found in fidelity.items() if found.worst]
    return _section("Fidelity of the images", *parts)


def _decibels(frames: Mapping[str, float | None], *, lossless: bool) -> str:
    if frames["psnr_db"] is None:
        return "lossless" if lossless else "nothing lost" if frames["compared"] else "not compared"
    return f"{frames['psnr_db']:.1f} dB"


def _psnr_charts(values: Mapping[str, tuple[list[float], str]]) -> Markup:
    charts = []
    for name, (psnr, what) in values.items():
        finite = [value for value in psnr if np.isfinite(value)]
        if not finite:
            charts.append(_figure(name, f"nothing lost in {len(psnr):,} {what}", Markup("")))
            continue
        caption = f"{len(psnr):,} {what}, median {np.median(psnr):.1f} dB, least {min(finite):.1f} dB"
        charts.append(_figure(name, caption, bars(Histogram.of(finite), unit="dB", title=f"PSNR of {name}")))
    return element("div", *charts, class_="charts large")


def _figure(name: str, caption: str, chart: Markup) -> Markup:
    return element("figure", element("figcaption", element("b", name), " ", caption), chart)


def _worst(camera: str, found: CameraFidelity) -> Markup:
    pairs = [_pair(frame) for frame in found.worst]
    return group(element("h3", f"{camera}: the frames that lost most"), element("div", *pairs, class_="pairs"))


def _pair(frame: ComparedFrame) -> Markup:
    difference = np.abs(frame.stored.astype(np.int16) - frame.original) * _DIFFERENCE_GAIN
    images = {
        "source": frame.original,
        "stored": frame.stored,
        f"difference x {_DIFFERENCE_GAIN}": np.minimum(difference, 255).astype(np.uint8),
    }
    place = f"episode {frame.episode_index}, frame {frame.frame}"
    shown = [
        element("div", picture(image, alt=f"{place}, {name}"), element("span", name)) for name, image in images.items()
    ]
    caption = element("figcaption", f"{place}: {frame.psnr_db:.1f} dB")
    return element("figure", caption, element("div", *shown, class_="pair"))


def _episodes(data: ReportData) -> Markup:
    rows, charts = [], []
    for split, lengths in data.lengths.items():
        counts = np.array(list(lengths.values()))
        numbers = (counts.min(), int(np.median(counts)), counts.max(), counts.sum())
        rows.append((split, f"{len(counts):,}", *(f"{number:,}" for number in numbers)))
        chart = bars(Histogram.of(counts), unit="windows", title=f"Windows an episode, split {split}")
        charts.append(_figure(split, f"{_count(len(counts), 'episode')} by length", chart))
    head = ("split", "episodes", "shortest", "median", "longest", "windows in all")
    return _section(
        "Lengths of episodes",
        table(head, rows, id_="lengths", numeric=range(1, 6)),
        element("div", *charts, class_="charts large"),
    )


def _distributions(data: ReportData) -> Markup:
    parts: list[Markup] = []
    scalars: list[Markup] = []
    rows: list[tuple[object, ...]] = []
    for name in data.shown_numbers:
        values = data.values.get(name, np.empty((0, 0)))
        is_scalar, charts = values.shape[1] == 1, []
        for number, column in enumerate(values.T):
            label = name if is_scalar else f"{name}[{number}]"
            finite = column[np.isfinite(column)]
            if not finite.size:
                continue
            numbers = (finite.min(), finite.mean(), finite.max(), finite.std())
            rows.append((_name(label), *(f"{value:.6g}" for value in numbers), f"{column.size - finite.size:,}"))
            caption = "always the same" if finite.min() == finite.max() else f"mean {finite.mean():.3g}"
            chart = bars(Histogram.of(finite), unit="", title=label, width=NARROW)
            charts.append(_figure(name if is_scalar else f"[{number}]", caption, chart))
        if is_scalar:
            scalars += charts
        else:
            parts += [element("h3", _name(name)), element("div", *charts, class_="charts")]
    if scalars:
        parts += [element("h3", "single numbers"), element("div", *scalars, class_="charts")]
    head = ("value", "least", "mean", "greatest", "deviation", "not finite")
    listed = table(head, rows, id_="values", numeric=range(1, 6))
    return _section(
        "Actions, states and other numbers",
        _note(
            f"At the anchors of {data.num_read:,} windows; the first {MAX_VALUES} values of each feature. "
            "Indices and timestamps are left out."
        ),
        *parts,
        element("details", element("summary", "The same as a table"), listed),
    )


def _repeated(data: ReportData) -> Markup:
    rows = [
        (_name(name), f"{still.num_pairs:,}", f"{still.num_same:,}", f"{still.num_same / max(1, still.num_pairs):.1%}")
        for name, still in data.still.items()
    ]
    runs = sorted(((*run, name) for name, still in data.still.items() for run in still.runs), key=lambda run: -run[0])
    stuck = [
        (_name(name), split, episode, f"{first} to {first + count - 1}", f"{count:,}")
        for count, split, episode, first, name in runs[:MAX_LISTED]
    ]
    copies = [", ".join(f"{episode} ({split})" for split, episode in group[:MAX_LISTED]) for group in data.copies]
    found = [element("li", text) for text in copies[:MAX_LISTED]]
    return _section(
        "Duplicates and stuck cameras",
        _note(
            "Stored frames that are the same, to the byte, as the frame before; a robot at rest shows such frames, too."
        ),
        table(("camera", "neighbouring frames", "the same", "share"), rows, id_="still", numeric=(1, 2, 3)),
        element("h3", f"Runs of {MIN_STUCK_FRAMES} or more equal frames"),
        table(("camera", "split", "episode", "frames", "length"), stuck, id_="stuck", numeric=(2, 3, 4))
        if stuck
        else element("p", "None.", class_="good"),
        element("h3", "Episodes with the same images"),
        element("ul", *found, id="copies") if found else element("p", "None.", class_="good"),
    )


def _quarantine(data: ReportData) -> Markup:
    if not data.quarantine:
        return _section("Quarantine", element("p", "Nothing was left out.", class_="good"))
    rows = [
        (entry["episode_index"], entry["first_frame"], entry["num_anchors"] or "unknown", entry["reason"])
        for entry in islice(data.quarantine, MAX_LISTED)
    ]
    left = len(data.quarantine) - len(rows)
    return _section(
        "Quarantine",
        element("p", f"Not in the output: {_count(len(data.quarantine), 'part')} of the source.", class_="warn"),
        table(("episode", "from frame", "windows", "reason"), rows, id_="quarantine", numeric=(0, 1, 2)),
        *([_note(f"and {left:,} more in quarantine.jsonl")] if left else []),
    )
