"""The contact sheet: which windows it shows, and that padding is marked where it is and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from predecode.pipeline.cli import main
from predecode.reader.choosing import Choice, choose_items
from predecode.reader.contact_sheet import (
    ANCHOR_COLOR,
    GUTTER_WIDTH,
    MARGIN,
    PAD_COLOR,
    Block,
    CameraRow,
    CurveRow,
    Slot,
    draw_sheet,
)
from predecode.reader.lookup import find_window
from predecode.reader.preview import draw_preview
from predecode.reader.ranges import open_ranges
from predecode.reader.split import SplitIndex
from predecode.transforms.errors import FormatError, OutputError, UsageError
from predecode.transforms.manifest import read_manifest
from predecode.transforms.storage import Folder
from tests.readback import read_items
from tests.reader.conftest import Materialized


@pytest.fixture
def output(materialized: Materialized) -> Path:
    return materialized("zoo_v30", "far", 7)


def index_of(output: Path) -> SplitIndex:
    folder = Folder.of(str(output))
    return SplitIndex(folder, read_manifest(folder), "train")


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.convert("RGB"))


def count(area: NDArray[np.uint8], color: tuple[int, int, int]) -> int:
    return int((area == np.array(color, np.uint8)).all(axis=2).sum())


def grey_slot(delta: int, *, is_pad: bool) -> Slot:
    return Slot(delta, 5, is_pad, np.full((40, 40, 3), 128, np.uint8))


def test_padded_frames_are_marked_and_others_are_not() -> None:
    row = CameraRow("camera", "", [grey_slot(-1, is_pad=True), grey_slot(0, is_pad=False), grey_slot(1, is_pad=False)])
    with_pad = pixels(draw_sheet("", "", [Block("", [row])]))
    plain = CameraRow("camera", "", [grey_slot(delta, is_pad=False) for delta in (-1, 0, 1)])
    without = pixels(draw_sheet("", "", [Block("", [plain])]))
    width, height = row.thumb_size
    changed = np.argwhere((with_pad != without).any(axis=2))
    left = MARGIN + GUTTER_WIDTH
    assert changed[:, 1].min() == left
    assert changed[:, 1].max() == left + width - 1
    top = int(changed[:, 0].min())
    slots = [with_pad[top : top + height, left + n * row.step : left + n * row.step + width] for n in range(3)]
    assert [count(slot, PAD_COLOR) > 500 for slot in slots] == [True, False, False]
    assert [count(slot, ANCHOR_COLOR) > 500 for slot in slots] == [False, True, False]
    assert count(slots[2], (128, 128, 128)) > 0.9 * width * height
    assert count(slots[0], (128, 128, 128)) == 0


def test_padded_values_are_shaded_and_others_are_not() -> None:
    values = np.linspace(0, 1, 10)[:, None]
    masks = [np.arange(10) >= 6, np.zeros(10, np.bool_)]
    sheets = [pixels(draw_sheet("", "", [Block("", [CurveRow("v", range(10), values, mask)])])) for mask in masks]
    changed = np.argwhere((sheets[0] != sheets[1]).any(axis=2))[:, 1]
    right = CurveRow("v", range(10), values, masks[0]).width - MARGIN
    left = MARGIN + GUTTER_WIDTH + 60
    assert abs(changed.min() - (left + 0.6 * (right - left))) <= 8
    assert right - 8 <= changed.max() <= right + 8


def test_values_that_are_not_finite_leave_gaps() -> None:
    def drawn(values: list[list[float]]) -> bytes:
        row = CurveRow("v", (0, 1, 2), np.array(values), np.zeros(3, np.bool_))
        return pixels(draw_sheet("", "", [Block("", [row])])).tobytes()

    gap = drawn([[0.0, np.nan], [np.inf, np.nan], [1.0, np.nan]])
    assert gap == drawn([[0.0, np.nan], [np.nan, np.nan], [1.0, np.nan]])
    assert gap != drawn([[0.0, np.nan], [0.5, np.nan], [1.0, np.nan]])
    assert gap != drawn([[np.nan, np.nan]] * 3)


def test_grey_and_transparent_frames_can_be_drawn() -> None:
    for channels in (1, 4):
        row = CameraRow("camera", "", [Slot(0, 0, is_pad=False, image=np.full((500, 200, channels), 200, np.uint8))])
        assert row.thumb_size == (64, 160)
        assert count(pixels(draw_sheet("", "", [Block("", [row])])), (200, 200, 200)) > 100


def test_sheets_stay_within_bounds() -> None:
    slots = [grey_slot(delta, is_pad=False) for delta in range(16)]
    long = "x" * 5000
    rows: list[CameraRow | CurveRow] = [
        CameraRow(long[:76], long, slots),
        CurveRow("v", range(1000), np.zeros((1000, 99)), np.ones(1000, np.bool_)),
    ]
    assert draw_sheet(long, long, [Block(long, rows)]).width <= 1600


def test_windows_show_both_ends_of_an_episode_and_other_episodes(output: Path) -> None:
    index = index_of(output)
    chosen = choose_items(index, 6)
    assert chosen[:2] == [0, 6]
    assert len(np.unique(index.locate(np.array(chosen[1:])).episode)) == 5
    assert choose_items(index, 6) == chosen
    assert choose_items(index, 1) == chosen[:1]
    everything = choose_items(index, 100)
    assert len(everything) == len(set(everything)) <= 58


@pytest.mark.parametrize(
    ("golden", "anchors_per_sample"), [("far", 7), ("contiguous", None), ("single", 1), ("unordered", 1)]
)
def test_found_windows_are_the_items(materialized: Materialized, golden: str, anchors_per_sample: int | None) -> None:
    output = materialized("zoo_v30", golden, anchors_per_sample)
    items = {(int(item["episode_index"]), int(item["frame_index"])): item for item in read_items(output)}
    index, reader = index_of(output), open_ranges(Folder.of(str(output)))
    assert index.num_items == len(items) == 58
    manifest = json.loads((output / "manifest.json").read_text())
    deltas = dict(manifest["delta_indices"])
    lengths = {episode: len(index.items_of(episode)) for episode in index.episodes}
    for episode, anchor in ((0, 0), (0, 6), (3, 2), (6, 7)):
        window, item = find_window(index, reader, index.items_of(episode)[anchor]), items[episode, anchor]
        assert window.rows.frame_number(window.anchor) == anchor
        for camera in window.rows.item_format.cameras:
            offsets = deltas.get(camera.name, [0])
            frames = np.stack(window.frames(camera.name, list(range(len(offsets)))))
            expected = np.asarray(item[camera.name]).reshape(len(offsets), 3, *camera.shape[:2])
            assert np.array_equal(frames.transpose(0, 3, 1, 2) / np.float32(255), expected)
            shown = [min(max(anchor + offset, 0), lengths[episode] - 1) for offset in offsets]
            assert window.frame_numbers(camera.name) == shown
            if camera.name in deltas:
                assert np.array_equal(window.is_pad(camera.name), np.asarray(item[f"{camera.name}_is_pad"]))


def test_command_draws_the_same_picture_twice(output: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("one.png", "two.png")]
    for picture in pictures:
        assert main(["preview", str(output), str(picture), "--windows", "3"]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    with Image.open(pictures[0]) as image:
        assert image.format == "PNG"
        assert count(pixels(image), PAD_COLOR) > 5000


@pytest.mark.parametrize(("name", "written"), [("x.JPG", "JPEG"), ("x.webp", "WEBP"), ("x", "PNG")])
def test_a_picture_is_what_its_name_says(name: str, written: str, output: Path, tmp_path: Path) -> None:
    draw_preview(str(output), str(tmp_path / name))
    with Image.open(tmp_path / name) as image:
        assert image.format == written


def test_many_deltas_are_thinned(data_dir: Path, tmp_path: Path) -> None:
    from predecode.pipeline import MaterializeOptions, materialize
    from predecode.reader.preview import _camera_row

    options = MaterializeOptions(
        source=str(data_dir / "zoo_v30"),
        output=str(tmp_path / "output"),
        delta_indices=(("observation.img", tuple(range(-50, 50))),),
        image_codec="png",
    )
    materialize(options, ["--direct_num_workers=2"])
    index = index_of(tmp_path / "output")
    window = find_window(index, open_ranges(Folder.of(str(tmp_path / "output"))), index.items_of(2)[3])
    row = _camera_row(window, window.rows.item_format.cameras[2])
    assert (len(row.slots), row.slots[0].delta, row.slots[-1].delta) == (16, -50, 49)
    assert row.note == "16x24, 16 of 100 deltas"


def test_damage_is_found(output: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    for name, message in (("shard-00000.tar", "of the shard are damaged"), ("shard-00000.index.arrow", "checksum")):
        path = copy / "train" / name
        content = bytearray(path.read_bytes())
        content[600:700] = bytes(100)
        path.write_bytes(content)
        with pytest.raises(FormatError, match=message):
            draw_preview(str(copy), str(tmp_path / "picture.png"), choice=Choice(num_windows=58))
    (copy / "train" / "order.arrow").write_bytes(b"ARROW1")
    with pytest.raises(FormatError, match=r"order\.arrow: expected \d+ bytes, got 6"):
        draw_preview(str(copy), str(tmp_path / "picture.png"))


def test_wrong_requests_are_refused(output: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no split 'val'\. It has: train"):
        draw_preview(str(output), str(tmp_path / "picture.png"), split="val")
    with pytest.raises(UsageError, match="expected 1 to 100, got 0"):
        draw_preview(str(output), str(tmp_path / "picture.png"), choice=Choice(num_windows=0))
    with pytest.raises(UsageError, match=r"ends in .png, .jpg, .jpeg, .webp, got .*picture.txt"):
        draw_preview(str(output), str(tmp_path / "picture.txt"))
    with pytest.raises(OutputError, match="Cannot write"):
        draw_preview(str(output), str(tmp_path / "missing" / "picture.png"), choice=Choice(num_windows=1))


def anchors(index: SplitIndex, choice: Choice) -> list[tuple[int, int]]:
    """Episodes and frame numbers of the anchors that are chosen."""
    located = index.locate(np.array(choice.items(index)))
    return list(zip(located.episode.tolist(), located.anchor_number.tolist(), strict=True))


def test_windows_are_those_asked_for(output: Path) -> None:
    index = index_of(output)
    assert anchors(index, Choice(episode=3, frames=(2, 5))) == [(3, 2), (3, 3), (3, 4)]
    assert anchors(index, Choice(episode=3, frames=(0, 1000), num_windows=2)) == [(3, 0), (3, 8)]
    assert [episode for episode, _ in anchors(index, Choice(episode=1))] == [1] * 6
    assert anchors(index, Choice(episode=2, num_windows=100)) == [(2, frame) for frame in range(5)]
    assert Choice(index=9).items(index) == [9]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"index": 58}, "--index: expected 0 to 57, the split's windows, got 58"),
        ({"episode": 7}, "the split has no episode 7. It has 7, from 0 to 6; is it in the other --split"),
        ({"episode": 2, "frames": (5, 9)}, "episode 2 has no anchor at the frames 5 to 8; its 5 anchors are at 0 to 4"),
        ({"frames": (0, 1)}, "--frames are those of one episode: give --episode, too"),
        ({"index": 1, "episode": 2}, "--index and --episode exclude each other"),
    ],
)
def test_windows_that_are_not_there(choice: dict[str, Any], message: str, output: Path) -> None:
    with pytest.raises(UsageError) as raised:
        Choice(**choice).items(index_of(output))
    assert message in str(raised.value)


def test_command_says_where_it_drew(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["preview", str(output), "--episode", "3", "--frames", "2:5"]) == 0
    picture = tmp_path / f"{output.name}-preview.png"
    assert capsys.readouterr().out == f"Drew 3 windows: {picture}\n"
    with Image.open(picture) as image:
        assert image.format == "PNG"
