"""A program for tests: a loop like that of a training, killed again and again, each time gone on with.

Usage: python -m tests.reader.training OUTPUT FOLDER EPOCHS KILLS SEED

The loop appends every batch to FOLDER/seen.jsonl and then saves the loader's state, as a trainer saves a checkpoint. It
runs in a forked process, which is killed by SIGKILL at random moments, at most KILLS times; the last one may finish.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from predecode.reader import WindowDataset, WindowLoader

BATCH_SIZE, LOADER_SEED = 4, 5


def train(output: str, folder: Path, epochs: int) -> None:
    """Goes on where the last process was."""
    loader = WindowLoader(WindowDataset(output), BATCH_SIZE, seed=LOADER_SEED, num_threads=2)
    saved = folder / "state.json"
    if saved.exists():
        loader.load_state_dict(json.loads(saved.read_text()))
    with (folder / "seen.jsonl").open("a") as seen:
        while loader.state_dict()["epoch"] < epochs:
            for batch in loader:
                state = loader.state_dict()
                seen.write(json.dumps([state["epoch"], state["position"], batch["index"].tolist()]) + "\n")
                seen.flush()
                saved.with_suffix(".new").write_text(json.dumps(state))
                saved.with_suffix(".new").replace(saved)


def run(output: str, folder: Path, epochs: int) -> int:
    """Starts the loop in a process of its own."""
    process = os.fork()
    if process == 0:
        try:
            train(output, folder, epochs)
        except BaseException as error:  # noqa: BLE001 - What it is, is told to who started this.
            (folder / "error.txt").write_text(repr(error))
        os._exit(0)
    return process


def main(output: str, folder: Path, epochs: int, kills: int, seed: int) -> None:
    """Kills the loop some batches after each start, and lets it finish in the end."""
    torch.set_num_threads(1)
    generator, seen = random.Random(seed), folder / "seen.jsonl"  # noqa: S311 - No secret.
    seen.touch()
    for _ in range(kills):
        process, enough = run(output, folder, epochs), seen.stat().st_size + generator.randrange(200)
        while seen.stat().st_size <= enough:
            time.sleep(0.0005)
            if os.waitpid(process, os.WNOHANG)[0]:  # On a busy machine it may be through before all kills are.
                return
        time.sleep(generator.random() * 0.005)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    os.waitpid(run(output, folder, epochs), 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
