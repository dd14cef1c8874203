"""The report: do its numbers agree with the source, and can anything in a dataset harm who opens it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from predecode.pipeline.cli import main
from predecode.reader.charts import Histogram
from predecode.reader.markup import Markup, element, escaped
from predecode.reader.report import write_report
from predecode.reader.report_data import StillFrames
from predecode.transforms.errors import FormatError, OutputError, UsageError
from tests import dirty
from tests.pipeline.running import manifest, run
from tests.reader.conftest import Materialized

HOSTILE = '<img src=x onerror=alert(1)>"&'
VOID = ("meta", "img", "br")
CopyDataset = Callable[[str], Path]


class Page(HTMLParser):
    """What a browser would make of a page: tables by id, all text, elements and attributes."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[str]] | None = None
        self.feed(content)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(attributes["id"] or "", [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._rows = None if tag == "table" else self._rows

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._rows and self._rows[-1] and {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    def row(self, table: str, first: str) -> dict[str, str]:
        """A row by its first cell, as a dict by the titles of the columns."""
        head, *rows = self.tables[table]
        return next(dict(zip(head, row, strict=True)) for row in rows if row[0] == first)


def report(output: Path, page: Path, source: Path | None = None) -> Page:
    write_report(str(output), str(page), source=None if source is None else str(source))
    return Page(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pusht(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG, two deltas of the camera, four of the action."""
    output = tmp_path_factory.mktemp("report") / "pusht"
    deltas = (("observation.image", (-1, 0)), ("action", (-2, 0, 1, 2)))
    run(data_dir / "pusht_images_v30", output, delta_indices=deltas)
    return output


@pytest.fixture(scope="module")
def pusht_page(pusht: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report(pusht, tmp_path_factory.mktemp("page") / "page.html", data_dir / "pusht_images_v30")


@pytest.fixture(scope="module")
def rows(data_dir: Path) -> dict[str, NDArray[Any]]:
    table = pq.read_table(data_dir / "pusht_images_v30" / dirty.DATA_FILE)
    return {name: np.array(table.column(name).to_pylist()) for name in ("episode_index", "action", "next.done")}


class TestNumbers:
    def test_lengths_of_episodes(self, pusht_page: Page, rows: dict[str, NDArray[Any]]) -> None:
        lengths = np.unique(rows["episode_index"], return_counts=True)[1]
        assert pusht_page.row("lengths", "train") == {
            "split": "train",
            "episodes": "6",
            "shortest": str(lengths.min()),
            "median": str(int(np.median(lengths))),
            "longest": str(lengths.max()),
            "windows in all": "941",
        }

    def test_padding(self, pusht_page: Page) -> None:
        # Each of 6 episodes, all longer than 2: deltas -2, 0, 1, 2 leave it at 2 + 0 + 1 + 2 anchors.
        assert pusht_page.row("features", "action")["padding"] == f"{6 * 5 / (941 * 4):.1%}"
        assert pusht_page.row("features", "observation.image")["padding"] == f"{6 / (941 * 2):.1%}"
        assert pusht_page.row("features", "observation.state")["padding"] == ""
        assert pusht_page.row("features", "action")["window"] == "-2, 0, 1, 2"

    def test_distributions(self, pusht_page: Page, rows: dict[str, NDArray[Any]]) -> None:
        for name, values in {
            "action[0]": rows["action"][:, 0],
            "action[1]": rows["action"][:, 1],
            "next.done": rows["next.done"],
        }.items():
            numbers = values.astype(np.float64)
            expected = [f"{number:.6g}" for number in (numbers.min(), numbers.mean(), numbers.max(), numbers.std())]
            assert list(pusht_page.row("values", name).values()) == [name, *expected, "0"]

    def test_splits_and_size(self, pusht_page: Page, pusht: Path) -> None:
        shown, stated = pusht_page.row("splits", "train"), manifest(pusht)["splits"]["train"]
        assert [shown[key] for key in ("episodes", "windows", "samples", "shards")] == [
            f"{stated[key]:,}" for key in ("episodes", "anchors", "samples", "shards")
        ]

    def test_fidelity(self, pusht_page: Page, pusht: Path) -> None:
        stated = manifest(pusht)["frames"]["observation.image"]["psnr_db"]
        assert pusht_page.row("cameras", "observation.image")["PSNR"] == f"{stated:.1f} dB"
        found = re.search(r"observation\.image (\d+) frames, median ([\d.]+) dB, least ([\d.]+) dB", pusht_page.text)
        assert found is not None
        assert int(found[1]) > 150
        assert abs(float(found[2]) - stated) < 1
        worst = [float(psnr) for psnr in re.findall(r"episode \d, frame \d+: ([\d.]+) dB", pusht_page.text)]
        assert len(worst) == 3
        assert worst == sorted(worst)
        assert worst[0] == float(found[3])

    def test_without_a_source_shards_are_compared(self, pusht: Path, tmp_path: Path) -> None:
        page = report(pusht, tmp_path / "page.html")
        records = [json.loads(path.read_text()) for path in sorted(pusht.glob("train/shard-*.json"))]
        cameras = [record["cameras"]["observation.image"] for record in records]
        psnr = [10 * np.log10(255**2 * camera["values"] / camera["squared_error"]) for camera in cameras]
        assert f"{len(psnr)} shards, median {np.median(psnr):.1f} dB, least {min(psnr):.1f} dB" in page.text

    def test_what_was_asked_for(self, data_dir: Path, tmp_path: Path) -> None:
        run(
            data_dir / "zoo_v30",
            tmp_path / "out",
            image_codec="png",
            anchor_stride=2,
            drop_last_frames=1,
            episodes="0:2,4,6:",
            image_size=(20, 30),
            exclude_features=("u8",),
        )
        page = report(tmp_path / "out", tmp_path / "page.html", data_dir / "zoo_v30")
        shown = {row[0]: row[1] for row in page.tables["options"]}
        assert shown["anchors"] == "every 2 frames"
        assert shown["episodes"] == "0:2, 4, 6:"
        assert shown["image size"] == "20x30 (height x width), pad"
        assert shown["image codec"] == "png, lossless"
        assert shown["left out"] == "u8"
        assert page.row("cameras", "observation.img")["PSNR"] == "lossless"

    def test_a_validation_split(self, data_dir: Path, tmp_path: Path) -> None:
        run(data_dir / "zoo_v30", tmp_path / "out", image_codec="png", validation_fraction=0.5)
        page = report(tmp_path / "out", tmp_path / "page.html")
        counts = {row[0]: int(row[2]) for row in page.tables["splits"][1:]}
        assert set(counts) == {"train", "val"}
        assert sum(counts.values()) == 58


def test_stuck_cameras_and_copied_episodes_are_noticed(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    source = copy_dataset("pusht_images_v30")
    table = pq.read_table(source / dirty.DATA_FILE)
    images, episodes = table.column("observation.image").to_pylist(), np.asarray(table.column("episode_index"))
    first = int(np.argmax(episodes == 3))
    stuck = {first + frame: images[first + 10] for frame in range(11, 20)}
    dirty.set_values(source, "observation.image", stuck)
    run(source, tmp_path / "out", image_codec="png", episodes="1,3")
    page = report(tmp_path / "out", tmp_path / "page.html")
    assert ["observation.image", "train", "3", "10 to 19", "10"] in page.tables["stuck"]
    pairs = int(np.isin(episodes, (1, 3)).sum()) - 2
    assert page.row("still", "observation.image")["neighbouring frames"] == str(pairs)
    assert "Episodes with the same imagesNone." in page.text


def test_episodes_that_are_there_twice_are_noticed(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    source, length = copy_dataset("pusht_images_v30"), 40
    table = pq.read_table(source / dirty.DATA_FILE)
    episodes, frames = (np.asarray(table.column(name)) for name in ("episode_index", "frame_index"))
    shortened = table.filter(pa.array(~np.isin(episodes, (0, 2)) | (frames < length)))
    pq.write_table(shortened, source / dirty.DATA_FILE)
    images, episodes = shortened.column("observation.image").to_pylist(), np.asarray(shortened.column("episode_index"))
    starts = [int(np.argmax(episodes == episode)) for episode in (0, 2)]
    copied = {starts[1] + frame: images[starts[0] + frame] for frame in range(length)}
    dirty.set_values(source, "observation.image", copied)
    lengths = pq.read_table(source / dirty.EPISODES_FILE).column("length").to_pylist()
    lengths[0] = lengths[2] = length
    dirty.edit_table(
        source / dirty.EPISODES_FILE,
        lambda table: table.set_column(table.column_names.index("length"), "length", [lengths]),
    )
    run(source, tmp_path / "out", image_codec="png", episodes="0:3", image_size=(16, 16))
    page = report(tmp_path / "out", tmp_path / "page.html")
    assert "0 (train), 2 (train)" in page.text


def test_runs_of_equal_frames() -> None:
    still = StillFrames()
    numbers = np.array([0, 1, 2, 3, 4, 5, 9, 10])
    hashes = np.array([7, 7, 7, 7, 7, 8, 8, 8], np.uint64)
    still.see("train", 4, numbers, hashes)
    assert (still.num_pairs, still.num_same) == (6, 5)
    assert still.runs == [(5, "train", 4, 0)]


class TestHostile:
    @pytest.fixture
    def page(self, copy_dataset: CopyDataset, tmp_path: Path) -> tuple[Page, str]:
        """Names, tasks and reasons that would be elements."""
        source = copy_dataset("pusht_images_v30")
        name = "<b onclick=x>&'\""
        for path in (source / dirty.DATA_FILE,):
            table = pq.read_table(path)
            names = [name if column == "observation.state" else column for column in table.column_names]
            pq.write_table(table.rename_columns(names).replace_schema_metadata(None), path)
        features = json.loads((source / "meta/info.json").read_text())["features"]
        features = {name if key == "observation.state" else key: spec for key, spec in features.items()}
        dirty.edit_info(source, features=features)
        dirty.edit_table(
            source / "meta/tasks.parquet",
            lambda table: table.set_column(
                table.column_names.index("__index_level_0__" if "task" not in table.column_names else "task"),
                "task",
                [[f"{HOSTILE}{row}" for row in range(table.num_rows)]],
            ).replace_schema_metadata(None),
        )
        dirty.break_image(source, "observation.image", row=3)
        output = tmp_path / "<script>alert(2)<"
        run(source, output, image_codec="png", on_error="quarantine", episodes="0:2", delta_indices=((name, (0, 1)),))
        lines = (output / "quarantine.jsonl").read_text().splitlines()
        content = "".join(json.dumps({**json.loads(line), "reason": HOSTILE}) + "\n" for line in lines)
        (output / "quarantine.jsonl").write_text(content)
        write_report(str(output), str(tmp_path / "page.html"))
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        return Page(text), text

    def test_names_stay_text(self, page: tuple[Page, str]) -> None:
        parsed, _ = page
        assert parsed.row("features", "<b onclick=x>&'\"")["kind"] == "number"
        assert parsed.row("quarantine", "0")["reason"] == HOSTILE
        assert {"script", "iframe", "object", "embed", "link", "form", "base"}.isdisjoint(
            tag for tag, _ in parsed.elements
        )
        assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
        assert all("onclick" not in tag for tag, _ in parsed.elements)

    def test_nothing_is_fetched(self, page: tuple[Page, str]) -> None:
        parsed, text = page
        for _, attributes in parsed.elements:
            assert "href" not in attributes
            assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert "url(" not in text
        assert "@import" not in text
        assert "default-src 'none'" in text.replace("&#x27;", "'")


def test_all_text_is_escaped_but_markup() -> None:
    assert escaped("\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}") == "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"
    assert element("p", Markup("<b>x</b>"), "<i>") == "<p><b>x</b>&lt;i&gt;</p>"
    assert element("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([0, 0, 1], [2, 1]),
        ([5], [1]),
        ([], [0]),
        ([float("nan"), 2.0], [1]),
        (range(100), [5] * 20),
        ([0.5, 0.5], [2, *[0] * 23]),
    ],
)
def test_histograms_count_everything_once(values: Any, counts: list[int]) -> None:
    assert Histogram.of(list(values)).counts.tolist() == counts


def test_no_cameras_and_odd_features(materialized: Materialized, data_dir: Path, tmp_path: Path) -> None:
    page = report(materialized("zoo_v30", "far", 7), tmp_path / "page.html", data_dir / "zoo_v30")
    assert page.row("values", "observation.mat[5]")["not finite"].isdigit()
    cameras = ("observation.images.cam", "observation.images.wrist", "observation.img")
    run(data_dir / "zoo_v30", tmp_path / "out", exclude_features=cameras)
    page = report(tmp_path / "out", tmp_path / "bare.html", data_dir / "zoo_v30")
    assert "There are no cameras." in page.text


def test_the_command(pusht: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pusht), str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_errors(pusht: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Cannot write"):
        write_report(str(pusht), str(tmp_path / "none" / "page.html"))
    with pytest.raises(UsageError, match="is no LeRobot dataset"):
        write_report(str(pusht), str(tmp_path / "page.html"), source=str(tmp_path))
    broken = Path(shutil.copytree(pusht, tmp_path / "broken"))
    (broken / "plan.json").unlink()
    with pytest.raises(FormatError, match="found no such file"):
        write_report(str(broken), str(tmp_path / "page.html"))
    shutil.copy(pusht / "plan.json", broken)
    (broken / "train/shard-00000.json").write_text('{"cameras": 1}')
    with pytest.raises(FormatError, match="is damaged"):
        write_report(str(broken), str(tmp_path / "page.html"))
