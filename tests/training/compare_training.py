"""Run by lerobot's interpreter: trains small policies twice, from lerobot's dataset and from windows, and compares.

    python -m tests.training.compare_training '[{"source": ..., "output": ..., "policy": "act", "steps": 30, ...}, ...]'

Both runs use lerobot's own policy, processors and optimizer, from the same seed, on the same indices in the same order.
Prints a JSON list with an object for each pair.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy, make_policy_config, make_pre_post_processors
from torch.utils.data import DataLoader

from predecode.reader import WindowDataset, WindowLoader
from tests.training.small_policies import SMALL

SEED = 3
LEARNING_RATE = 1e-3  # So that some dozens of steps are seen to learn.
NAME = "some/name"

Batch = dict[str, Any]


def pair(source: str, output: str, policy: str, steps: int, batch_size: int) -> dict[str, Any]:
    """Trains twice; see above."""
    deltas = resolve_delta_timestamps(small(policy), LeRobotDatasetMetadata(NAME, root=source))
    windows = WindowDataset(output, delta_timestamps=deltas, repo_id=NAME)
    frames = LeRobotDataset(NAME, root=source, delta_timestamps=deltas)
    order = [batch["index"].tolist() for batch in batches_of(WindowLoader(windows, batch_size, seed=SEED), steps)]
    # Without a generator of its own, a DataLoader would draw from the one that dropout draws from.
    lerobots = DataLoader(frames, batch_sampler=order, generator=torch.Generator())
    ours = batches_of(WindowLoader(windows, batch_size, seed=SEED), steps)
    is_comparable = windows.meta.shapes == frames.meta.shapes
    return compare(
        train(small(policy), windows.meta, ours), train(small(policy), frames.meta, lerobots, learns=is_comparable)
    )


def small(policy: str) -> PreTrainedConfig:
    """A new configuration: making a policy writes the dataset's features into it."""
    return make_policy_config(policy, device="cpu", optimizer_lr=LEARNING_RATE, **SMALL[policy])


def batches_of(loader: WindowLoader, steps: int) -> Iterator[Batch]:
    """Whole epochs, until there are enough."""
    while True:
        for batch in loader:
            if not steps:
                return
            yield batch
            steps -= 1


def train(config: PreTrainedConfig, meta: Any, batches: Iterable[Batch], *, learns: bool = True) -> dict[str, Any]:
    """What lerobot's trainer does a step, without accelerate; keeps what the policy was given.

    With `learns` false it only prepares the batches: the policy would be too large.
    """
    torch.manual_seed(SEED)
    policy = make_policy(config, ds_meta=meta)
    prepare, _ = make_pre_post_processors(config, dataset_stats=meta.stats)
    settings = config.get_optimizer_preset()
    optimizer = settings.build(policy.get_optim_params())
    policy.train()
    raw, prepared, losses = [], [], []
    for batch in batches:
        raw.append(batch)
        prepared.append(prepare(batch))
        if not learns:
            continue
        loss, _ = policy.forward(prepared[-1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {
        "raw": raw,
        "prepared": prepared,
        "losses": losses,
        "image_shapes": {name: list(feature.shape) for name, feature in config.image_features.items()},
    }


def compare(ours: dict[str, Any], lerobots: dict[str, Any]) -> dict[str, Any]:
    """What tests ask of two runs."""
    images = [torch.cat([batch[name] for batch in ours["prepared"]]) for name in ours["image_shapes"]]
    return {
        "keys": list(ours["raw"][0]),
        "lerobots_keys": list(lerobots["raw"][0]),
        "unequal": unequal(ours["raw"], lerobots["raw"]),
        "prepared_keys": list(ours["prepared"][0]),
        "unequal_prepared": unequal(ours["prepared"], lerobots["prepared"]),
        "losses": ours["losses"],
        "lerobots_losses": lerobots["losses"],
        "image_shapes": ours["image_shapes"],
        "image_means": [float(image.mean()) for image in images],
        "image_deviations": [float(image.std()) for image in images],
    }


def unequal(ours: Sequence[Batch], lerobots: Sequence[Batch]) -> list[str]:
    """Keys that differ in some batch."""
    found = []
    for mine, other in zip(ours, lerobots, strict=True):
        for key in {*mine, *other}:
            value, expected = mine.get(key), other.get(key)
            if isinstance(expected, torch.Tensor) and isinstance(value, torch.Tensor):
                same = value.dtype == expected.dtype and torch.equal(value, expected)
            else:
                same = type(value) is type(expected) and value == expected
            if not same:
                found.append(key)
    return sorted(set(found))


if __name__ == "__main__":
    # JSON keeps floats to the last bit.
    sys.stdout.write(json.dumps([pair(**case) for case in json.loads(sys.argv[1])]) + "\n")
