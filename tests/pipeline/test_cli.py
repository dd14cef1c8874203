"""The command `predecode` as people and scripts meet it: exit status, standard output, one clear message."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from predecode.pipeline.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from tests import dirty

CopyDataset = Callable[[str], Path]
QUIET = ("--no-progress", "--direct_num_workers=2")


def one_message(text: str) -> str:
    """What standard error holds must be one message, and no traceback."""
    assert text.startswith("predecode: ")
    assert text.count("predecode: ") == 1
    assert "Traceback" not in text
    assert "[while running" not in text
    return text


def test_done(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["materialize", str(data_dir / "zoo_v30"), str(tmp_path / "out"), *QUIET]) == EXIT_DONE
    shown = capsys.readouterr()
    assert "7 episodes, windows: 58 train; 174 frames in" in shown.out
    assert str(tmp_path / "out") in shown.out
    assert shown.err == ""


def test_a_second_run_says_what_it_has_done(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["materialize", str(data_dir / "zoo_v30"), str(tmp_path / "out"), *QUIET]
    assert main(arguments) == EXIT_DONE
    assert "read, " in capsys.readouterr().out
    assert main(arguments) == EXIT_DONE
    assert "nothing to write: an earlier run had committed all of it" in capsys.readouterr().out
    (tmp_path / "out/train/shard-00001.json").unlink()
    assert main(arguments) == EXIT_DONE
    assert re.search(r"1 shard written in \d+\.\d s, 2 kept of an earlier run; ", capsys.readouterr().out)
    assert main([*arguments, "--image-size=32", "--overwrite"]) == EXIT_DONE
    assert "read, " in capsys.readouterr().out


def test_json_is_one_object_and_nothing_else(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["materialize", str(data_dir / "zoo_v30"), str(tmp_path / "out"), "--json", *QUIET]) == EXIT_DONE
    (line,) = capsys.readouterr().out.splitlines()
    summary = json.loads(line)
    assert summary["anchors"] == {"train": 58}
    assert summary["episodes"] == 7
    assert summary["quarantined"] == {}


def test_progress_goes_to_standard_error(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--json", "--direct_num_workers=2"]
    assert main(["materialize", str(data_dir / "zoo_v30"), str(tmp_path / "out"), *flags]) == EXIT_DONE
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_bad_data(copy_dataset: CopyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy_dataset("zoo_v30")
    dirty.break_image(root, "observation.img", row=26)
    arguments = ["materialize", str(root), str(tmp_path / "out"), *QUIET]
    assert main(arguments) == EXIT_FAILED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "episode 3, frame 2 (data/" in one_message(shown.err)
    assert main([*arguments, "--on-error", "quarantine"]) == EXIT_DONE
    assert " windows quarantined (quarantine.jsonl says which)" in capsys.readouterr().out


def test_debug_shows_where(copy_dataset: CopyDataset, tmp_path: Path) -> None:
    root = copy_dataset("zoo_v30")
    dirty.set_values(root, "frame_index", {8: None})
    command = [sys.executable, "-m", "predecode.pipeline", "materialize", str(root), str(tmp_path / "out"), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == EXIT_FAILED
    assert "Traceback" in done.stderr
    assert "plan_layout.py" in done.stderr


def test_fidelity(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["materialize", str(data_dir / "zoo_v30"), str(tmp_path / "out"), *QUIET]
    assert main([*arguments, "--min-psnr-db", "90"]) == EXIT_FAILED
    assert "expected at least 90 dB. Raise --jpeg-quality" in one_message(capsys.readouterr().err)
    assert not (tmp_path / "out/manifest.json").exists()
    shards = {path: path.stat().st_ino for path in tmp_path.rglob("*.tar")}
    assert main(arguments) == EXIT_DONE
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.tar")} == shards


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--image-sze", "224"],
            "Unknown option: --image-sze. Did you mean --image-size? `predecode materialize --help` lists",
        ),
        (["--image-sze=224", "--no-such"], "Unknown options: --image-sze, --no-such"),
        (["--delta-indices", "{"], 'expected JSON such as {"action": [0, 1, 2]}'),
        (["--delta-indices", "[1]"], "expected an object of lists"),
        (["--delta-indices", '{"action": 1}'], "expected an object of lists"),
        (["--delta-indices", '{"action": [0], "action": [1]}'], "a feature stands there twice"),
        (["--delta-indices", '{"action": []}'], "expected 1 to"),
        (["--delta-indices", '{"action": [0.5]}'], "expected whole frames for 'action', got 0.5"),
        (["--delta-indices", '{"action": [1e999]}'], "expected whole frames for 'action'"),
        (["--delta-indices", '{"action": ["0"]}'], "expected whole frames for 'action'"),
        (["--delta-indices", "nothing.json"], "cannot read nothing.json: No such file"),
        (
            ["--delta-indices", '{"actoin": [0]}'],
            "no feature 'actoin'. Did you mean action? The dataset has: observation.images.cam, obs",
        ),
        (["--delta-indices", '{"note": [0, 1]}'], "'note' holds strings"),
        (["--delta-timestamps", '{"action": [0.05]}'], "the delta 0.05 s of 'action' is not a multiple of 1/10 s"),
        (["--delta-timestamps", '{"action": [0]}', "--delta-indices", '{"action": [0]}'], "exclude each other"),
        (["--exclude-features", "index"], "Cannot exclude index: rows are found by these columns"),
        (["--exclude-features", "acton"], "cannot exclude acton: no such feature. Did you mean action? There are: obs"),
        (["--episodes", "5:3"], "--episodes: expected episode numbers and half-open ranges"),
        (["--episodes", "90:"], "there is no episode 90 or later in that range"),
        (["--storage-options", "[]"], """--storage-options: expected a JSON object such as {"anon": true}, got list"""),
        (["--storage-options", "{"], "--storage-options: expected a JSON object"),
        (["--image-size", "4"], "--image-size: expected sides of 8 to 8192 pixels, got 4x4"),
        (["--jpeg-quality", "0"], "--jpeg-quality: expected 1 to 100, got 0"),
        (["--tolerance-s", "nan"], "--tolerance-s: expected 0.0 to 10.0, got nan"),
        (["--validation-fraction", "1"], "--validation-fraction: expected 0.0 to 0.99, got 1.0"),
    ],
)
def test_wrong_usage(
    flags: Sequence[str], message: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["materialize", str(data_dir / "zoo_v30"), str(tmp_path / "out"), *flags, *QUIET]) == EXIT_USAGE
    assert message in one_message(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["materialize"], "the following arguments are required: SOURCE, OUTPUT"),
        (["materialize", "a", "b", "--image-codec", "gif"], "invalid choice: 'gif'"),
        (["materialise", "a", "b"], "invalid choice: 'materialise' (choose from"),
        (["materialise", "a", "b"], "Did you mean materialize? See `predecode --help`."),
        (["preview", "a", "--episode", "-1"], "expected a whole number of at least 0, got '-1'"),
        (["preview", "a", "--frames", "9:3"], "expected START:STOP, half-open, such as 40:60, got '9:3'"),
        (["materialize", "a", "b", "--image-size", "big"], "expected N or HxW, such as 224 or 240x320, got 'big'"),
        (["materialize", "a", "b", "--shard-bytes", "many"], "expected a size such as 256MB or 1GiB, got 'many'"),
        (["materialize", "a", "b", "--anchors-per-sample", "0"], "expected a whole number of at least 1, got '0'"),
        (["preview", "a", "b", "--windows", "x"], "expected a whole number of at least 1, got 'x'"),
    ],
)
def test_wrong_usage_that_the_parser_sees(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == EXIT_USAGE
    assert message in one_message(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "a", "--storage-options", "{"], "--storage-options: expected a JSON object such as"),
        ([], "Expected a command: materialize, plan, inspect, preview"),
        (["inspect", "a", "--fast"], "Unknown option or argument: --fast. See `predecode inspect --help`"),
        (["--fast"], "Unknown option or argument: --fast. See `predecode --help`"),
        (["materialize", "ssource://x", "out"], "there is no storage 'ssource'"),
        (["materialize", "", "out"], "Expected a folder's path or URL, got ''"),
    ],
)
def test_wrong_usage_of_commands(arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == EXIT_USAGE
    assert message in one_message(capsys.readouterr().err)


@pytest.mark.parametrize("command", [["inspect"], ["materialize"]])
def test_a_source_or_output_that_is_not_there(
    command: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(tmp_path / "nothing"), str(tmp_path / "out")][: 2 if command == ["inspect"] else 3]) == 1
    assert str(tmp_path / "nothing") in one_message(capsys.readouterr().err)


def test_a_name_on_the_hub_says_how_to_download_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["materialize", "lerobot/pusht", str(tmp_path / "out"), *QUIET]) == EXIT_FAILED
    message = one_message(capsys.readouterr().err)
    assert "`hf download lerobot/pusht --repo-type dataset --local-dir DIR`" in message
    assert "hf://datasets/lerobot/pusht" in message


def test_what_nobody_expected_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library for some storage raises what it likes, such as its own errors of a network."""

    def unreachable(*_: object, **__: object) -> NoReturn:
        raise LookupError("Name or service not known")

    monkeypatch.setattr("predecode.pipeline.job.open_recipe", unreachable)
    assert main(["materialize", "hf://datasets/some/name", str(tmp_path / "out"), *QUIET]) == EXIT_FAILED
    message = one_message(capsys.readouterr().err)
    assert "does not expect: LookupError: Name or service not known. --debug shows where it happened" in message


@pytest.mark.parametrize("command", ["materialize", "inspect", "preview", "verify"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == EXIT_DONE
    shown = capsys.readouterr().out
    assert f"examples:\n  predecode {command} " in shown or f"    predecode {command} " in shown
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"predecode {importlib.metadata.version('predecode')}\n"


def test_help_and_mistakes_do_not_wait_for_beam() -> None:
    program = (
        "import sys; from predecode.pipeline.cli import main\n"
        "try: main(['materialize', '--help'])\n"
        "except SystemExit as done: code = done.code\n"
        "heavy = {'apache_beam', 'torch', 'torchcodec', 'cv2'} & set(sys.modules)\n"
        "print(code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 set()"
    assert "--delta-timestamps JSON" in done.stdout
