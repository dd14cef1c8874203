"""A program for tests: damages an output again and again, and reads it in every way there is.

Usage: python -m tests.reader.fuzzing MODE FIRST STOP READINGS OUTPUT...

Trials FIRST to STOP, each decided by its number alone, are dealt to the outputs in turn. READINGS is `all`, or `one` of
them for each trial, in turn. MODE is what is expected, or `each` in turn:

- `verified`: an error of predecode's family, or exactly what the sound output gives.
- `unverified`: the same reading without checksums: an error of the family, or anything.
- `sealed`: what a hostile author would do: the damage is made with sense for the format, and all checksums are made to
  fit again. An error of the family, or anything.

Anything else (another exception, a trial that takes long, more memory than a small output can need) is printed, and the
program fails; a crash of the interpreter fails it too. It prints how often each outcome came, as JSON.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import json
import logging
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
import xxhash

from predecode.reader import StreamingWindowDataset, WindowDataset, WindowLoader, expand_windows
from predecode.reader import expand as expand_module
from predecode.reader.choosing import Choice
from predecode.reader.inspection import inspect_output
from predecode.reader.preview import draw_preview
from predecode.transforms.errors import PredecodeError
from tests.reader.mutations import damage, damage_with_sense

MODES = ("verified", "unverified", "sealed")
SECONDS_PER_TRIAL = 30
MEMORY_BYTES = 3 << 30
"""Of address space, above what the process has when it begins."""

Given = Iterator[tuple[Any, str]]
Reading = Callable[..., Given]


def fingerprint(item: dict[str, Any]) -> str:
    """Stands for keys, their order, dtypes, shapes and values."""
    found = xxhash.xxh3_128()
    for key, value in item.items():
        if isinstance(value, torch.Tensor):
            found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.numpy().tobytes())
        else:
            found.update(f"{key} {value!r}".encode())
    return found.hexdigest()


def by_number(output: Path, *, verify: bool) -> Given:
    """What `WindowDataset` gives."""
    dataset = WindowDataset(str(output), verify=verify)
    yield "length", str(len(dataset))
    yield "metadata", str((dataset.meta.total_frames, dataset.meta.shapes, dataset.meta.fps, dataset.meta.robot_type))
    for number, item in enumerate(dataset):
        yield number, fingerprint(item)


def by_batch(output: Path, *, verify: bool) -> Given:
    """What `WindowLoader` gives."""
    loader = WindowLoader(WindowDataset(str(output), verify=verify), 5, shuffle=False, num_threads=2)
    number = itertools.count()
    for batch in loader:
        for place in range(len(batch["task"])):
            yield next(number), fingerprint({key: value[place] for key, value in batch.items()})
    yield "length", str(next(number))
    yield "state", str(loader.state_dict())


def by_batch_skipping(output: Path, *, verify: bool) -> Given:
    """What `WindowLoader` gives of what is not damaged: what it gives must be right."""
    dataset = WindowDataset(str(output), verify=verify)
    for batch in WindowLoader(dataset, 5, shuffle=False, num_threads=2, on_error="skip", max_skipped=len(dataset)):
        for place, number in enumerate(batch["index"].tolist()):
            yield number, fingerprint({key: value[place] for key, value in batch.items()})


def by_stream(output: Path, *, verify: bool) -> Given:
    """What `StreamingWindowDataset` gives."""
    stream = StreamingWindowDataset("name", str(output), shuffle=False, verify=verify)
    number = itertools.count()
    for item in stream:
        yield next(number), fingerprint(item)
    yield "length", str(next(number))


class TheirError(Exception):
    """What webdataset raises itself when it cannot read a tar."""


def by_webdataset(output: Path, *, verify: bool) -> Given:
    """What a plain pipeline gives. It may end early, but what it gives must be right."""
    expand_module._read_format.cache_clear()
    expand_module._open_splits.cache_clear()
    tars = sorted(str(tar) for tar in (output / "train").glob("shard-*.tar"))
    samples = iter(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            return
        except Exception as error:
            raise TheirError from error
        for item in expand_windows(sample, verify=verify):
            yield (int(item["episode_index"]), int(item["frame_index"])), fingerprint(item)


def inspected(output: Path, *, verify: bool) -> Given:
    """What `predecode inspect` says."""
    del verify
    yield "inspection", str(inspect_output(str(output)))


def drawn(output: Path, *, verify: bool) -> Given:
    """What `predecode preview` draws."""
    del verify
    picture = output.parent / "preview.png"
    draw_preview(str(output), str(picture), choice=Choice(num_windows=2))
    yield "picture", xxhash.xxh3_128_hexdigest(picture.read_bytes())


READINGS: dict[str, Reading] = {
    reading.__name__: reading
    for reading in (by_number, by_batch, by_batch_skipping, by_stream, by_webdataset, inspected, drawn)
}


def read(output: Path, reading: Reading, expected: dict[Any, str] | None, *, verify: bool) -> str:
    """Reads a damaged output; names the outcome."""
    try:
        found = dict(reading(output, verify=verify))
    except PredecodeError:
        return "refused"
    except TheirError:
        return "refused by webdataset"
    if expected is None or found == expected:
        return "read"
    if reading in (by_batch_skipping, by_webdataset) and found.items() <= expected.items():
        return "read in part"
    raise AssertionError(f"other items: {sorted(set(map(str, found.items())) ^ set(map(str, expected.items())))[:4]}")


def trial(number: int, mode: str, readings: Sequence[str], copy: Path, expected: Mapping[str, Any]) -> Counter[str]:
    """Damages a file and reads the output in some ways; says what came of it."""
    generator = np.random.default_rng([MODES.index(mode), number])
    undo, what = (damage_with_sense if mode == "sealed" else damage)(copy, generator)
    outcomes: Counter[str] = Counter()
    faulthandler.dump_traceback_later(SECONDS_PER_TRIAL, exit=True)
    try:
        for name in readings:
            wanted = expected[name] if mode == "verified" else None
            try:
                outcome = read(copy, READINGS[name], wanted, verify=mode != "unverified")
            except BaseException:  # noqa: BLE001 - Whatever it is, the other readings are tried too.
                outcome = "failed"
                sys.stderr.write(f"{mode} trial {number} of {copy.parent.name}: {what}: {name}\n")
                traceback.print_exc()
            outcomes[f"{name}: {outcome}"] += 1
    finally:
        faulthandler.cancel_dump_traceback_later()
        undo()
    return outcomes


def main(mode: str, first: int, stop: int, readings: str, outputs: list[str]) -> int:
    """Runs the trials; the number of readings that failed."""
    warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves tars to the collector.
    logging.disable()
    torch.set_num_threads(1)
    names = list(READINGS)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copytree(output, f"{folder}/{place}/output")) for place, output in enumerate(outputs)]
        expected = [{name: dict(READINGS[name](copy, verify=True)) for name in names} for copy in copies]
        used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES, resource.RLIM_INFINITY))
        for number in range(first, stop):
            turn, asked = divmod(number, len(MODES)) if mode == "each" else (number, MODES.index(mode))
            turn, which = divmod(turn, len(copies))
            chosen = names if readings == "all" else [names[turn % len(names)]]
            counts += trial(number, MODES[asked], chosen, copies[which], expected[which])
            if number % 50 == 0:
                gc.collect()
    sys.stdout.write(json.dumps(counts) + "\n")
    return sum(count for outcome, count in counts.items() if outcome.endswith("failed"))


if __name__ == "__main__":
    mode, first, stop, readings, *outputs = sys.argv[1:]
    sys.exit(min(1, main(mode, int(first), int(stop), readings, outputs)))
