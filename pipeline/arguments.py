"""What the command line accepts; `--help` is made from this."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from predecode.pipeline import examples
from predecode.transforms.errors import did_you_mean
from predecode.transforms.images import IMAGE_CODECS
from predecode.transforms.options import MaterializeOptions, OnError
from predecode.transforms.resize import RESIZE_MODES
from predecode.transforms.sizes import parse_size

_WIDTH = 100

_DEFAULTS = MaterializeOptions(source="source", output="output")


class _Parser(argparse.ArgumentParser):
    """Shows examples as they are written, and errors as the commands' own: one message, not the whole usage."""

    def __init__(self, **arguments: Any) -> None:
        description = textwrap.fill(arguments.pop("description"), _WIDTH)
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": formatter, "description": description, **arguments})

    def error(self, message: str) -> NoReturn:
        """Ends the process with a message."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        guess = did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        self.exit(2, f"predecode: {message}.{guess} See `{self.prog} --help`.\n")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002 - argparse's name.
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Ends the process with the version on standard output."""
        import importlib.metadata

        print(f"{parser.prog} {importlib.metadata.version('predecode')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog="predecode",
        description="Decodes robot-learning video once: LeRobot datasets to WebDataset shards of training windows.",
        epilog=examples.OVERVIEW,
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_materialize(commands)
    _add_plan(commands)
    inspect = commands.add_parser(
        "inspect",
        help="what is in an output",
        description="Says what is in an output: splits, features, windows, sizes, fidelity, what was left out.",
        epilog=examples.INSPECT,
    )
    _add_output(inspect)
    inspect.add_argument("--json", action="store_true", help="one JSON object on standard output")
    _add_common(inspect)
    _add_preview(commands)
    _add_report(commands)
    _add_verify(commands)
    return parser


def _add_materialize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "materialize",
        help="write shards of training windows",
        description="Turns a LeRobot dataset (v3.0, v2.1, v2.0) or a Zarr replay buffer (Diffusion Policy, UMI) into "
        "WebDataset shards of exact training windows.",
        epilog=examples.MATERIALIZE,
        usage="%(prog)s [options] SOURCE OUTPUT",
        allow_abbrev=False,
    )
    _add_source_argument(parser)
    parser.add_argument(
        "output", metavar="OUTPUT", help="where to write: a folder or an fsspec URL; what is committed there is kept"
    )
    _add_job(parser)


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "plan",
        help="what materialize would do; writes nothing",
        description="Says what `predecode materialize` would do with the same arguments: episodes, windows, frames, "
        "shards, bytes, time, and what it would leave out. Reads metadata and rows, decodes and encodes a small part "
        "of the frames to judge bytes and time, and writes nothing.",
        epilog=examples.PLAN,
        usage="%(prog)s [options] SOURCE [OUTPUT]",
        allow_abbrev=False,
    )
    _add_source_argument(parser)
    parser.add_argument(
        "output", metavar="OUTPUT", nargs="?", default=".", help="where the job would write, to see what is free there"
    )
    _add_job(parser)


def _add_source_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="the dataset: a folder or an fsspec URL; of Zarr also a .zarr.zip"
    )


def _add_job(parser: argparse.ArgumentParser) -> None:
    """The options of the job, which are those of its plan."""
    _add_source(parser.add_argument_group("source"))
    _add_windows(parser.add_argument_group("windows"))
    _add_pixels(parser.add_argument_group("pixels"))
    _add_shards(parser.add_argument_group("shards"))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--on-error",
        choices=get_args(OnError),
        default=_DEFAULTS.on_error,
        help="fail, or leave out what is bad and list it in quarantine.jsonl; default: %(default)s",
    )
    run.add_argument("--overwrite", action="store_true", help="replace an output of another plan")
    run.add_argument(
        "--extend",
        action="store_true",
        help="take in what the source has got since: keeps all shards that stay, and OUTPUT can be read meanwhile",
    )
    run.add_argument("--no-progress", action="store_true", help="no progress on standard error")
    run.add_argument("--json", action="store_true", help="the summary as one JSON object on standard output")
    _add_common(run)


def _add_preview(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "preview",
        help="a contact sheet of windows",
        description="Draws windows: a row per window and camera, frames along deltas, padded slots marked. "
        "If nothing is asked for, both ends of an episode are among them.",
        epilog=examples.PREVIEW,
    )
    _add_output(parser)
    add = parser.add_argument
    add(
        "picture",
        metavar="PICTURE",
        nargs="?",
        help="a .png, .jpg or .webp to write; default: OUTPUT's name with -preview.png",
    )
    add("--split", choices=("train", "val"), default="train", help="default: %(default)s")
    add("--windows", type=_at_least_one, metavar="N", help="how many at most; default: 6, or 24 of --frames")
    add("--episode", type=_number, metavar="N", help="only windows of this episode")
    add("--frames", type=_frames, metavar="START:STOP", help="only anchors at these frames of it, half-open")
    add("--index", type=_number, metavar="N", help="only this window, by its number in WindowDataset")
    _add_common(parser)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="an output on one page",
        description="Writes one self-contained HTML page: what was asked for and what came out, fidelity, lengths, "
        "padding, distributions, duplicates and stuck cameras, quarantine, and a contact sheet.",
        epilog=examples.REPORT,
    )
    _add_output(parser)
    add = parser.add_argument
    add("page", metavar="PAGE", help="the .html file to write")
    add("--source", metavar="SRC", help="the dataset that it was made from: frames are shown beside its own")
    add("--no-progress", action="store_true", help="no progress on standard error")
    _add_common(parser)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify",
        help="whether an output is all there",
        description="Reads every byte of an output and compares it with the manifest: after a copy to another disk or "
        "bucket this tells that it arrived. With --source also compares every window with values computed anew from "
        "the dataset. Exit status 1 where something is missing, has changed, or is too much.",
        epilog=examples.VERIFY,
    )
    _add_output(parser)
    add = parser.add_argument
    add("--source", metavar="SRC", help="the dataset that the output was made from, to compare windows with")
    add("--repair", action="store_true", help="the next `predecode materialize` writes what is damaged, and only it")
    add("--threads", type=_at_least_one, metavar="N", help="files or episodes read at once; default: by the cores")
    add("--no-progress", action="store_true", help="no progress on standard error")
    add("--json", action="store_true", help="one JSON object on standard output")
    _add_common(parser)


def _add_source(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--exclude-features",
        metavar="NAME",
        action="append",
        default=[],
        help="leave out a feature, by its name in the source; repeatable",
    )
    add(
        "--rename",
        metavar="OLD=NEW",
        type=_rename,
        action="append",
        default=[],
        help="call a feature otherwise, in windows as in items; repeatable",
    )
    add("--fps", metavar="F", type=float, help="frames per second of a Zarr replay buffer, which does not say")
    add("--task", metavar="TEXT", help="the task of all frames of a Zarr replay buffer; default: empty")


def _add_windows(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--delta-timestamps", metavar="JSON", help='{"feature": [seconds, ...]}, inline or a path to a .json file')
    add("--delta-indices", metavar="JSON", help="the same in frames; excludes the former")
    add(
        "--policy",
        metavar="NAME|PATH",
        help="the windows of a lerobot policy (act, diffusion, pi0, smolvla, ...; diffusion@0.6 with the defaults of "
        "lerobot 0.6), or of its config.json; excludes both",
    )
    add("--episodes", metavar="SPEC", help="such as 0:10,12,15: (half-open ranges); default: all")
    add("--anchor-stride", metavar="N", type=int, default=1, help="every N-th frame is an anchor; default: 1")
    add(
        "--drop-last-frames",
        metavar="N",
        type=int,
        help="the last N of an episode are no anchors; default: what --policy says, else 0",
    )
    add(
        "--tolerance-s",
        metavar="S",
        type=float,
        default=_DEFAULTS.tolerance_s,
        help="how far deltas may be off 1/fps, and frames off their timestamps, in seconds; default: %(default)s",
    )
    add(
        "--validation-fraction",
        metavar="F",
        type=float,
        default=0.0,
        help="share of the episodes that go to the split val; default: 0",
    )


def _add_pixels(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--image-size", metavar="N|HxW", type=_image_size, help="stored size; default: the source's")
    add(
        "--resize-mode",
        choices=RESIZE_MODES,
        default=_DEFAULTS.resize_mode,
        help="pad keeps the aspect ratio, on black; crop keeps it, cutting the longer side; default: %(default)s",
    )
    add(
        "--image-codec",
        choices=IMAGE_CODECS,
        default=_DEFAULTS.image_codec,
        help="png, webp and zstd are lossless and compressed, raw is lossless; default: %(default)s",
    )
    add(
        "--jpeg-quality",
        metavar="Q",
        type=int,
        default=_DEFAULTS.jpeg_quality,
        help="1 to 100, chroma is never subsampled; default: %(default)s",
    )
    add(
        "--min-psnr-db",
        metavar="DB",
        type=float,
        default=_DEFAULTS.min_psnr_db,
        help="fail where encoding loses more, per camera; default: %(default)s",
    )


def _add_shards(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--shard-bytes", metavar="SIZE", type=_bytes, default=_DEFAULTS.shard_bytes, help="aim; default: 256MB")
    add("--min-shards", metavar="N", type=int, help="per split, where there are enough anchors; default: 16")
    add(
        "--anchors-per-sample",
        metavar="N|auto",
        type=_anchors_per_sample,
        help="anchors that share a sample; auto (default): 1 where every camera shows one frame, else a run",
    )
    add("--seed", metavar="N", type=int, default=0, help="of the order of segments and of the split; default: 0")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT", help="folder or URL that `predecode materialize` wrote")


def _add_common(group: argparse._ActionsContainer) -> None:
    group.add_argument("--storage-options", metavar="JSON", default="{}", help="options for fsspec, a JSON object")
    group.add_argument("--debug", action="store_true", help="tracebacks and logs")


def _image_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected N or HxW, such as 224 or 240x320, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _rename(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise argparse.ArgumentTypeError(f"expected OLD=NEW such as img=observation.image, got {text!r}")
    return old, new


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _frames(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected START:STOP, half-open, such as 40:60, got {text!r}")
    return int(match[1]), int(match[2])


def _bytes(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 256MB or 1GiB, got {text!r}")
    return size_bytes


def _anchors_per_sample(text: str) -> int | None:
    return None if text == "auto" else _at_least_one(text)


def _at_least_one(text: str) -> int:
    try:
        if int(text) >= 1:
            return int(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
