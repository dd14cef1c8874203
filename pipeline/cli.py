"""The command `predecode`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from predecode.pipeline.interrupts import Interrupts
from predecode.transforms.errors import MissingDependencyError, PredecodeError, UsageError
from predecode.transforms.wording import counted

if TYPE_CHECKING:  # Nothing that takes long to import, before Ctrl-C is watched for.
    from predecode.transforms.options import MaterializeOptions

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; errors become one message on standard error.

    Args:
        arguments: Of the command line; those of this process if not given.

    Returns:
        The exit status: 0 done, 1 the data or the job failed, 2 wrong usage.
    """
    parsed = argparse.Namespace(command=None, debug=False)
    with Interrupts(EXIT_FAILED) as interrupts:
        try:
            return _run(parsed, arguments)
        except SystemExit:  # As after --help.
            raise
        except BrokenPipeError:  # As in `predecode inspect OUTPUT | head`.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - The interpreter flushes it once more at its end.
            return EXIT_DONE
        except BaseException as error:  # noqa: BLE001 - Whatever it is becomes one message; --debug shows all of it.
            if interrupts.happened:
                return _stopped(parsed)
            return _report(error, debug=parsed.debug)


def _run(parsed: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    """Runs a command; `parsed` is filled first."""
    from predecode.pipeline.arguments import build_parser

    _, rest = build_parser().parse_known_args(arguments, parsed)
    _limit_logs(logging.INFO if parsed.debug else logging.CRITICAL)
    if rest and parsed.command not in ("materialize", "plan"):
        command = f"predecode {parsed.command}" if parsed.command else "predecode"
        raise UsageError(f"Unknown option or argument: {' '.join(rest)}. See `{command} --help`.")
    return _COMMANDS[parsed.command](parsed, rest) or EXIT_DONE


def _stopped(parsed: argparse.Namespace) -> int:
    """Says how to go on after Ctrl-C."""
    if parsed.command == "materialize":
        print(f"{_committed(parsed)} Run the same command again to go on.", file=sys.stderr)
    else:
        print("Stopped.", file=sys.stderr)
    return EXIT_FAILED


def _committed(parsed: argparse.Namespace) -> str:
    """What there is of an output that is not finished."""
    with contextlib.suppress(Exception):  # There may be nothing yet, and storage may be what was waited for.
        from predecode.pipeline.committed import count_shards
        from predecode.transforms.storage import Folder

        done, total = count_shards(Folder.of(parsed.output, _storage_options(parsed)))
        if total:
            return f"Stopped: {done} of {total} shards are committed in {parsed.output}."
    return "Stopped before the first shard."


def _limit_logs(level: int) -> None:
    """Shows only logs of a level: Beam logs what it raises anyway, tracebacks and all.

    The handler is limited, too: a worker in this process sets the root logger's level to what it likes.
    """
    handler = logging.StreamHandler()
    handler.setLevel(level)
    logging.basicConfig(level=level, handlers=[handler])


def _report(error: BaseException, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, OSError) and not isinstance(error, PredecodeError):
        message = f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}."
    elif not isinstance(error, PredecodeError):
        message = (
            f"An error that predecode does not expect: {type(error).__name__}: {error}. --debug shows where it "
            "happened; if it is not storage that could not be reached, please report it."
        )
    print(f"predecode: {message}", file=sys.stderr)
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def _materialize(parsed: argparse.Namespace, beam_flags: Sequence[str]) -> None:
    from predecode.pipeline.quick_start import kept_for_good

    with kept_for_good():
        # Beam takes a second to import: --help and the other commands don't wait for it.
        from predecode.pipeline.job import materialize

        if not any(flag.startswith("--runner") for flag in beam_flags):
            _import_decoder()
    if not parsed.debug:
        _hush_workers()
    summary = materialize(options_of(parsed), list(beam_flags), show_progress=not parsed.no_progress)
    print(summary.to_json() if parsed.json else summary)


def _plan(parsed: argparse.Namespace, beam_flags: Sequence[str]) -> None:
    started = time.monotonic()  # Of the job, too, imports are a part.
    _import_decoder()
    from predecode.pipeline.planning import forecast_job

    forecast = forecast_job(options_of(parsed), beam_flags, started=started)
    print(forecast.to_json() if parsed.json else forecast)


def _import_decoder() -> None:
    """Imports the decoder before the job does; where that fails, the job says so if it needs one."""
    from predecode.transforms.decoder_library import check_decoder

    with contextlib.suppress(MissingDependencyError):
        check_decoder()


def _hush_workers() -> None:
    """Keeps Beam's worker from printing the traceback of what a step raises: all of it is in the error, too."""
    from apache_beam.runners.worker import sdk_worker

    sdk_worker.print = lambda *_, **__: None  # type: ignore[attr-defined]


def options_of(parsed: argparse.Namespace) -> MaterializeOptions:
    """The options of `predecode materialize` from its parsed arguments; says what a policy was resolved to.

    Raises:
        UsageError: a value cannot be understood.
        SourceError: a policy is given, and the source that it is resolved against cannot be used.
    """
    from predecode.transforms.options import MaterializeOptions

    options = MaterializeOptions(
        source=parsed.source,
        output=parsed.output,
        delta_timestamps=_windows("--delta-timestamps", parsed.delta_timestamps),
        delta_indices=_windows("--delta-indices", parsed.delta_indices),
        exclude_features=tuple(name for names in parsed.exclude_features for name in names.split(",")),
        rename=tuple(parsed.rename),
        fps=parsed.fps,
        task=parsed.task,
        episodes=parsed.episodes,
        tolerance_s=parsed.tolerance_s,
        image_size=parsed.image_size,
        resize_mode=parsed.resize_mode,
        image_codec=parsed.image_codec,
        jpeg_quality=parsed.jpeg_quality,
        min_psnr_db=parsed.min_psnr_db,
        shard_bytes=parsed.shard_bytes,
        min_shards=parsed.min_shards,
        anchor_stride=parsed.anchor_stride,
        drop_last_frames=parsed.drop_last_frames or 0,
        anchors_per_sample=parsed.anchors_per_sample,
        validation_fraction=parsed.validation_fraction,
        seed=parsed.seed,
        on_error=parsed.on_error,
        overwrite=parsed.overwrite,
        extend=parsed.extend,
        storage_options_json=parsed.storage_options,
    )
    if parsed.policy is None:
        return options
    from predecode.pipeline.policy_option import with_policy

    resolved, report = with_policy(options, parsed.policy, drop_last_frames=parsed.drop_last_frames)
    print(report, file=sys.stderr, flush=True)
    return resolved


def _windows(flag: str, text: str | None) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Reads `{"feature": [delta, ...]}`, inline or from a file."""
    if text is None:
        return ()
    path = Path(text)
    try:
        content = json.loads(path.read_text() if text.endswith(".json") else text, object_pairs_hook=_without_repeats)
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {text}: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f'{flag}: expected JSON such as {{"action": [0, 1, 2]}}, got {text!r:.80}: {error}.') from None
    if not isinstance(content, dict) or not all(isinstance(deltas, list) for deltas in content.values()):
        raise UsageError(f'{flag}: expected an object of lists such as {{"action": [0, 1, 2]}}, got {text!r:.80}.')
    return tuple((name, tuple(deltas)) for name, deltas in content.items())


def _storage_options(parsed: argparse.Namespace) -> Mapping[str, Any]:
    from predecode.transforms.options import parse_storage_options

    return parse_storage_options(parsed.storage_options)


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a feature stands there twice")
    return content


def _inspect(parsed: argparse.Namespace, _: Sequence[str]) -> None:
    from predecode.reader.inspection import inspect_output

    inspection = inspect_output(parsed.output, _storage_options(parsed))
    print(json.dumps(inspection.content) if parsed.json else inspection)


def _preview(parsed: argparse.Namespace, _: Sequence[str]) -> None:
    from predecode.reader.choosing import Choice
    from predecode.reader.preview import draw_preview

    choice = Choice(num_windows=parsed.windows, episode=parsed.episode, frames=parsed.frames, index=parsed.index)
    name = parsed.output.rstrip("/").rsplit("/", 1)[-1]
    picture = os.path.abspath(parsed.picture or f"{name or 'output'}-preview.png")
    options = _storage_options(parsed)
    drawn = draw_preview(parsed.output, picture, split=parsed.split, choice=choice, storage_options=options)
    print(f"Drew {counted(drawn, 'window')}: {picture}")


def _write_report(parsed: argparse.Namespace, _: Sequence[str]) -> None:
    from predecode.reader.report import write_report

    write_report(
        parsed.output,
        parsed.page,
        source=parsed.source,
        storage_options=_storage_options(parsed),
        show_progress=sys.stderr.isatty() and not parsed.no_progress,
    )
    print(f"Wrote {parsed.page}")


def _verify(parsed: argparse.Namespace, _: Sequence[str]) -> int:
    from predecode.reader.verify_command import verify

    verified = verify(
        parsed.output,
        parsed.source,
        _storage_options(parsed),
        repair=parsed.repair,
        num_threads=parsed.threads,
        show_progress=sys.stderr.isatty() and not parsed.no_progress,
    )
    print(verified.to_json() if parsed.json else verified)
    if verified.advice:
        print(verified.advice, file=sys.stderr)
    return EXIT_DONE if verified.is_sound else EXIT_FAILED


def _no_command(_: argparse.Namespace, __: Sequence[str]) -> NoReturn:
    raise UsageError(f"Expected a command: {', '.join(filter(None, _COMMANDS))}. See `predecode --help`.")


_COMMANDS: Mapping[str | None, Callable[[argparse.Namespace, Sequence[str]], int | None]] = {
    "materialize": _materialize,
    "plan": _plan,
    "inspect": _inspect,
    "preview": _preview,
    "report": _write_report,
    "verify": _verify,
    None: _no_command,
}
