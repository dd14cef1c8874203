"""What users run into, with the message that they get and what to do: docs/troubleshooting.md is made of it.

python -m tests.pipeline.mistakes > docs/troubleshooting.md
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from predecode.pipeline.cli import main
from predecode.transforms import errors, patience
from predecode.transforms.decoder_library import check_decoder
from predecode.transforms.errors import PredecodeError
from tests import dirty

QUIET = ("--no-progress", "--direct_num_workers=2")
DATA_DIR = Path(__file__).parents[1] / "data"

Provoke = Callable[[Path, pytest.MonkeyPatch], list[str]]
"""Makes what is wrong in an empty folder, and gives the command's arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One entry of the page.

    Attributes:
        title: What happened, in the user's words.
        error: The class of what is raised.
        provoke: Brings it about.
        message: All that is printed behind "predecode: "; HERE stands for the folder, DATA for the tests' datasets.
        got: The part of it that says what was found.
        expected: The part that says what should be.
        remedy: The part that says what to do.
        advice: What else the page says.
    """

    title: str
    error: type[PredecodeError]
    provoke: Provoke
    message: str
    got: str
    expected: str
    remedy: str
    advice: str


def _arguments(*flags: str, source: str = "zoo_v30") -> Provoke:
    return lambda here, _: ["materialize", str(DATA_DIR / source), str(here / "out"), *flags, *QUIET]


def _of_source(source: str) -> Provoke:
    return lambda here, _: ["materialize", source.replace("HERE", str(here)), str(here / "out"), *QUIET]


def _changed(change: Callable[[Path], object], *flags: str) -> Provoke:
    """With a copy of a dataset that is changed first."""

    def provoke(here: Path, _: pytest.MonkeyPatch) -> list[str]:
        root = Path(shutil.copytree(DATA_DIR / "zoo_v30", here / "zoo"))
        change(root)
        return ["materialize", str(root), str(here / "out"), *flags, *QUIET]

    return provoke


def _second_run(*flags: str) -> Provoke:
    """Into an output that was made without these flags."""

    def provoke(here: Path, _: pytest.MonkeyPatch) -> list[str]:
        arguments = ["materialize", str(DATA_DIR / "zoo_v30"), str(here / "out"), *QUIET]
        assert main(arguments) == 0
        return [*arguments, *flags]

    return provoke


def _full_disk(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("predecode.transforms.storage.os.fsync", fsync)
    return ["materialize", str(DATA_DIR / "zoo_v30"), str(here / "out"), *QUIET]


def _foreign_output(here: Path, _: pytest.MonkeyPatch) -> list[str]:
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    return ["materialize", str(DATA_DIR / "zoo_v30"), str(here / "out"), *QUIET]


def _unfinished(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    assert main(_second_run()(here, monkeypatch)) == 0
    (here / "out" / "manifest.json").unlink()
    return ["inspect", str(here / "out")]


def _damaged_shard(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    assert main(_second_run("--image-codec=raw", "--overwrite")(here, monkeypatch)) == 0
    for shard in (here / "out" / "train").glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    return ["preview", str(here / "out"), str(here / "picture.png"), "--index", "0"]


def _no_ffmpeg(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("torchcodec.ffmpeg_major_version", None)
    monkeypatch.setattr("predecode.pipeline.job.check_decoder", check_decoder.__wrapped__)
    return _arguments()(here, monkeypatch)


def _unlike_torch(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"torch": "2.9.0"}.get(name, "0.13.0"))
    monkeypatch.setattr("predecode.pipeline.job.check_decoder", check_decoder.__wrapped__)
    return _arguments()(here, monkeypatch)


def _unknown_failure(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("predecode.transforms.plan_layout.publish_plan", fail)
    return _arguments()(here, monkeypatch)


def _no_server(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(total_seconds=0.0, min_calls=1))
    return ["materialize", "http://127.0.0.1:9/pusht", str(here / "out"), *QUIET]


def _old_version(root: Path) -> None:
    dirty.edit_info(root, codebase_version="v1.6")


def _depth(root: Path) -> None:
    spec = json.loads((root / "meta/info.json").read_text())["features"]["observation.img"]
    dirty.edit_feature(root, "observation.img", {**spec, "info": {"is_depth_map": True}})


HEADER = """\
# Troubleshooting

What `predecode` says when something is wrong, what that means, and what to do. Each message here is provoked by a
test, and this page is made from the same list (`tests/pipeline/mistakes.py`). `HERE` stands for a folder of yours.

The exit status is 0 where all is done, 1 where the data or the job failed, 2 where the command makes no sense.
`--debug` shows where in the code it happened, and the logs of libraries. Whatever stops a job, what is committed is
kept: the same command goes on.

## The job was interrupted

Press Ctrl-C once: the shards in work are finished, and the last line says how many are committed. Press it twice:
the process ends at once. After either, and after a crash, a lost connection or a power cut, **run the same command
again**. It keeps the committed shards, writes the others, and the output is the same, byte for byte,
as that of a run without interruption. Until `manifest.json` is there, readers refuse the output. To start over
instead, remove the folder.
"""


def page() -> str:
    """docs/troubleshooting.md."""
    sections = [HEADER]
    for mistake in MISTAKES:
        message = mistake.message.replace("DATA/", "HERE/")
        shown = f"```text\npredecode: {message}\n```"
        sections.append(f"## {mistake.title}\n\n{shown}\n\n`{mistake.error.__name__}`: {mistake.advice}\n")
    return "\n".join(sections)


MISTAKES: list[Mistake] = [
    Mistake(
        title="The dataset's folder is not there",
        error=errors.SourceNotFoundError,
        provoke=_of_source("HERE/pusht"),
        message="HERE/pusht: there is no such folder. Expected a dataset's folder, the one that holds meta/info.json.",
        got="there is no such folder",
        expected="the one that holds meta/info.json",
        remedy="Expected a dataset's folder",
        advice="the path is wrong, or relative to another folder than the one you are in. A name that is close is "
        "suggested.",
    ),
    Mistake(
        title="The folder is not the dataset's own",
        error=errors.SourceNotFoundError,
        provoke=_of_source(f"{DATA_DIR}/zoo_v30/data"),
        message="DATA/zoo_v30/data: there is no LeRobot dataset here: meta/info.json is missing. Did you mean "
        "DATA/zoo_v30?",
        got="there is no LeRobot dataset here",
        expected="meta/info.json is missing",
        remedy="Did you mean DATA/zoo_v30?",
        advice="SOURCE is the folder that holds `meta/`, `data/` and `videos/`, not one above or below it.",
    ),
    Mistake(
        title="A name on the Hugging Face Hub instead of a folder",
        error=errors.SourceNotFoundError,
        provoke=_of_source("lerobot/pusht"),
        message="lerobot/pusht: there is no such folder. To get the dataset of that name from the Hugging Face "
        "Hub, run `hf download lerobot/pusht --repo-type dataset --local-dir DIR` and give DIR, or give "
        "hf://datasets/lerobot/pusht.",
        got="lerobot/pusht: there is no such folder",
        expected="give DIR",
        remedy="run `hf download",
        advice="nothing is downloaded without being asked for. A local copy is also much faster than reading over "
        "the network.",
    ),
    Mistake(
        title="A feature's name is wrong",
        error=errors.UsageError,
        provoke=_arguments("--delta-indices", '{"actions": [0, 1]}'),
        message="Windows: there is no feature 'actions'. Did you mean action? The dataset has: "
        "observation.images.cam, observation.images.wrist, observation.img, observation.state, "
        "observation.mat, action, f64, f64s, u8, u8mat, i32, i16s, b3, next.done, next.reward, note, "
        "timestamp, frame_index, episode_index, index, task_index.",
        got="'actions'",
        expected="The dataset has: observation",
        remedy="Did you mean action?",
        advice="windows are given by the names that the dataset has; the message lists them.",
    ),
    Mistake(
        title="A delta is no multiple of 1/fps",
        error=errors.UsageError,
        provoke=_arguments("--delta-timestamps", '{"action": [0, 0.05]}'),
        message="Windows: the delta 0.05 s of 'action' is not a multiple of 1/10 s (nearest: 0 s, tolerance "
        "0.0001 s). Use multiples of 1/fps, or --delta-indices.",
        got="the delta 0.05 s of 'action'",
        expected="a multiple of 1/10 s",
        remedy="Use multiples of 1/fps",
        advice="lerobot refuses it, too: there is no frame at that time. `--tolerance-s` allows for rounded numbers,"
        " such as 0.033 at 30 fps with `--tolerance-s 0.001`.",
    ),
    Mistake(
        title="Quotes that are not JSON's",
        error=errors.UsageError,
        provoke=_arguments("--delta-indices", "{'action': [0, 1]}"),
        message='--delta-indices: expected JSON such as {"action": [0, 1, 2]}, got "{\'action\': [0, 1]}": '
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1).",
        got="got \"{'action'",
        expected='expected JSON such as {"action"',
        remedy="enclosed in double quotes",
        advice="JSON has double quotes around names, so the shell needs single ones around all of it. Or write it to"
        " a file and give its path, which ends in `.json`.",
    ),
    Mistake(
        title="A policy that is not known",
        error=errors.UsageError,
        provoke=_arguments("--policy", "difusion"),
        message="--policy: there is no policy 'difusion'. Did you mean diffusion? Known are: act, diffusion, "
        "vqbet, tdmpc, pi0, pi05, pi0_fast, smolvla, groot, xvla, wall_x, sarm, sac, reward_classifier, "
        "multi_task_dit, eo1, evo1, molmoact2, fastwam, vla_jepa, lingbot_va, gaussian_actor, robometer,"
        " topreward; or give the path of a policy's config.json.",
        got="'difusion'",
        expected="Known are: act",
        remedy="Did you mean diffusion?",
        advice="the windows of any other policy can be given with `--delta-indices`; those of your own configuration"
        " with the path of its `config.json`.",
    ),
    Mistake(
        title="FFmpeg is missing",
        error=errors.MissingDependencyError,
        provoke=_no_ffmpeg,
        message="torchcodec cannot load FFmpeg's libraries. Install FFmpeg: `apt-get install ffmpeg` on Debian "
        "and Ubuntu, `brew install ffmpeg` on macOS, `conda install -c conda-forge ffmpeg` anywhere. The"
        " versions of it that work are in torchcodec's README.",
        got="cannot load FFmpeg's libraries",
        expected="The versions of it that work",
        remedy="Install FFmpeg",
        advice="FFmpeg's shared libraries are what decodes videos; the `ffmpeg` command alone, linked statically, "
        "does not help.",
    ),
    Mistake(
        title="torch and torchcodec do not match",
        error=errors.MissingDependencyError,
        provoke=_unlike_torch,
        message="torchcodec cannot be imported (torch 2.9.0, torchcodec 0.13.0): import of torchcodec.decoders "
        "halted; None in sys.modules\n"
        "torch and torchcodec must match: torchcodec 0.10 needs torch 2.10, torchcodec 0.11 needs torch "
        "2.11, and torchcodec 0.12 or later needs torch 2.11 or later. constraints.txt names versions "
        "that are known good together.\n"
        "If they do match: torchcodec cannot load FFmpeg's libraries. Install FFmpeg: `apt-get install "
        "ffmpeg` on Debian and Ubuntu, `brew install ffmpeg` on macOS, `conda install -c conda-forge "
        "ffmpeg` anywhere.",
        got="torch 2.9.0, torchcodec 0.13.0",
        expected="torchcodec 0.12 or later needs torch 2.11",
        remedy="constraints.txt names versions",
        advice="`pip install -c constraints.txt .` installs a pair that matches. The reader needs torch alone: "
        "training machines need neither torchcodec nor FFmpeg.",
    ),
    Mistake(
        title="The disk is full",
        error=errors.OutputError,
        provoke=_full_disk,
        message="Cannot write HERE/out/plan.json: No space left on device. What is committed is kept: mend the "
        "cause and run the same command again.",
        got="No space left on device",
        expected="HERE/out/plan.json",
        remedy="mend the cause and run the same command again",
        advice="a file appears only when it is complete, so nothing is damaged. Make room, or move the output to a "
        "larger disk and give its new path; the same command goes on there. `--image-size` and `--image-"
        "codec` decide how large an output becomes.",
    ),
    Mistake(
        title="The output cannot be written",
        error=errors.OutputError,
        provoke=lambda *_: ["materialize", str(DATA_DIR / "zoo_v30"), "/proc/out", *QUIET],
        message="Cannot write /proc/out/plan.json: No such file or directory. What is committed is kept: mend "
        "the cause and run the same command again.",
        got="No such file or directory",
        expected="/proc/out/plan.json",
        remedy="mend the cause and run the same command again",
        advice="OUTPUT must be a folder that may be made and written to. The source is only read: it may be read-only.",
    ),
    Mistake(
        title="The output folder holds something else",
        error=errors.OutputError,
        provoke=_foreign_output,
        message="HERE/out is not empty and holds no plan.json (found notes.txt): it is no output of this job. "
        "Choose an empty or new folder.",
        got="found notes.txt",
        expected="holds no plan.json",
        remedy="Choose an empty or new folder",
        advice="files that are not predecode's are never removed, not even with `--overwrite`.",
    ),
    Mistake(
        title="The output was made with other options",
        error=errors.PlanMismatchError,
        provoke=_second_run("--image-size", "32"),
        message="HERE/out holds the shards of another plan:\n"
        "  options.image_size: was null, now [32, 32]\n"
        '  options.resize_mode: was null, now "pad"\n'
        "Choose another output, restore what differs, or give --overwrite to replace it.",
        got="now [32, 32]",
        expected="was null",
        remedy="give --overwrite",
        advice="one output holds one plan: the same options complete it. `--overwrite` replaces it, and keeps the "
        "shards that the new plan has in common with the old one.",
    ),
    Mistake(
        title="An output that is not finished",
        error=errors.FormatError,
        provoke=_unfinished,
        message="HERE/out has no manifest.json: the job that writes it is not finished. Wait for it, or run the "
        "same command again to go on.",
        got="has no manifest.json",
        expected="is not finished",
        remedy="run the same command again",
        advice="`manifest.json` is written last. `WindowDataset` says the same.",
    ),
    Mistake(
        title="A shard is damaged",
        error=errors.FormatError,
        provoke=_damaged_shard,
        message="HERE/out/train/shard-00000.tar, sample 000000-000000, json: bytes 242176 to 242254 of the shard"
        " are damaged: their checksum does not fit. The shard is damaged or of another output; removing "
        "it and running the job again writes it anew.",
        got="bytes 242176 to 242254",
        expected="their checksum does not fit",
        remedy="removing it and running the job again",
        advice="every byte is checked when it is read. `predecode verify OUTPUT` finds all damage, and with "
        "`--repair` the next `materialize` writes just that anew. A training run can leave a few windows out "
        'meanwhile: `WindowLoader(..., on_error="skip")`.',
    ),
    Mistake(
        title="A piece of the dataset is bad",
        error=errors.DataError,
        provoke=_changed(lambda root: dirty.break_image(root, "observation.img", row=26)),
        message="episode 3, frame 2 (data/chunk-000/file-000.parquet, row 26), camera 'observation.img': "
        "expected an image (BMP, JPEG, PNG, TIFF, WEBP), got 14 bytes of another kind. Leave the feature"
        " out with --exclude-features observation.img. Mend the source, leave the episode out with "
        "--episodes, or give --on-error=quarantine to go on without what is bad.",
        got="got 14 bytes of another kind",
        expected="expected an image",
        remedy="--on-error=quarantine",
        advice="with `--on-error=quarantine` the episode or the part that is bad is left out, listed in "
        "`quarantine.jsonl`, and counted.",
    ),
    Mistake(
        title="A video is shorter than its rows, or its times are off",
        error=errors.DataError,
        provoke=_changed(lambda root: dirty.jitter_timestamps(root, row=9)),
        message="episode 1, frame 2, camera 'observation.images.cam': "
        "videos/observation.images.cam/chunk-000/file-000.mp4: no frame at 0.930000 s: the nearest is at"
        " 0.900000 s, which is more than the tolerance of 0.0001 s away. If that frame is the right"
        " one, allow for it with --tolerance-s. Mend the source, leave the episode out with --episodes, "
        "or give --on-error=quarantine to go on without what is bad.",
        got="the nearest is at 0.900000 s",
        expected="no frame at 0.930000 s",
        remedy="--tolerance-s",
        advice="a frame must be within `--tolerance-s` of its row's timestamp, as in lerobot. A wrong frame is worse"
        " than none.",
    ),
    Mistake(
        title="A dataset of another version",
        error=errors.SourceError,
        provoke=_changed(_old_version),
        message="HERE/zoo/meta/info.json: version v1.6 is too old. Convert it to v2.1 or v3.0 with lerobot's own"
        " scripts.",
        got="version v1.6 is too old",
        expected="v2.1 or v3.0",
        remedy="Convert it",
        advice="v2.0, v2.1 and v3.0 are read as they are; nothing need be converted between these.",
    ),
    Mistake(
        title="A feature that cannot be materialized",
        error=errors.SourceError,
        provoke=_changed(_depth),
        message="HERE/zoo/meta/info.json: feature 'observation.img' is a depth map, which cannot be "
        "materialized. Leave it out with --exclude-features observation.img.",
        got="is a depth map",
        expected="cannot be materialized",
        remedy="--exclude-features observation.img",
        advice="depth maps and language columns are not supported yet. Everything else of the dataset is.",
    ),
    Mistake(
        title="The images lose too much",
        error=errors.FidelityError,
        provoke=_arguments("--min-psnr-db", "90"),
        message="observation.images.cam: encoding as jpeg leaves 46.2 dB, expected at least 90 dB. Raise "
        "--jpeg-quality, choose a lossless --image-codec, or lower --min-psnr-db: the shards are kept, "
        "and lowering the limit encodes nothing again.",
        got="leaves 46.2 dB",
        expected="expected at least 90 dB",
        remedy="Raise --jpeg-quality",
        advice="the limit is 30 dB if none is given, which JPEG at quality 95 stays far above with camera images; "
        "drawn graphics and noise lose more.",
    ),
    Mistake(
        title="A store or a server does not answer",
        error=errors.StorageError,
        provoke=_no_server,
        message="Cannot look up http://127.0.0.1:9/pusht/meta/info.json: tried 1 time within 0 s, at last: "
        "Connect call failed ('127.0.0.1', 9). What is there is kept: mend the cause and run the same again.",
        got="Connect call failed",
        expected="Cannot look up http://127.0.0.1:9/pusht/meta/info.json",
        remedy="mend the cause and run the same again",
        advice="what may go away by itself is tried again for two minutes before this is said "
        "([storage.md](storage.md)). Is the address right, "
        "is an endpoint needed in `--storage-options`, is there a network?",
    ),
    Mistake(
        title="The job failed, and nothing of this list says why",
        error=errors.JobError,
        provoke=_unknown_failure,
        message="The job failed: ConnectionResetError: [Errno 104] Connection reset by peer. What is committed "
        "is kept: mend the cause and run the same command again; --debug shows where it happened.",
        got="Connection reset by peer",
        expected="What is committed is kept",
        remedy="--debug shows where",
        advice="the cause is a library's, the network's or the engine's own message. What may go away by itself is "
        "worth a second run.",
    ),
]

if __name__ == "__main__":
    sys.stdout.write(page())
