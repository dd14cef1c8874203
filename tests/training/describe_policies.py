"""Run by lerobot's interpreter: the windows that lerobot resolves for its policies, as JSON.

python -m tests.training.describe_policies FOLDER DATASET...

Each policy is made with its defaults, and once more with other values; its config.json is saved below FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lerobot.policies.sac.configuration_sac
import lerobot.policies.sac.reward_model.configuration_classifier
import lerobot.policies.sarm.configuration_sarm  # noqa: F401 - Importing registers a policy.
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata

OTHER_VALUES: dict[str, dict[str, Any]] = {
    "act": {"chunk_size": 20, "n_action_steps": 10},
    "diffusion": {"n_obs_steps": 3, "horizon": 32, "drop_n_last_frames": 2, "crop_shape": (84, 90)},
    "vqbet": {"n_obs_steps": 2, "n_action_pred_token": 4, "action_chunk_size": 3, "crop_shape": None},
    "tdmpc": {"horizon": 3},
    "pi0": {"chunk_size": 10, "n_action_steps": 10, "image_resolution": (112, 112)},
    "pi05": {"chunk_size": 10, "n_action_steps": 10},
    "pi0_fast": {"chunk_size": 10, "n_action_steps": 10},
    "smolvla": {"chunk_size": 30, "n_action_steps": 30, "resize_imgs_with_padding": (256, 256)},
    "groot": {"chunk_size": 8, "n_action_steps": 8},
    "xvla": {"chunk_size": 7, "n_action_steps": 7, "resize_imgs_with_padding": (224, 224)},
    "wall_x": {"chunk_size": 9, "n_action_steps": 9},
    "sarm": {"n_obs_steps": 7, "frame_gap": 5, "max_rewind_steps": 2, "drop_n_last_frames": 3},
    "sac": {},
    "reward_classifier": {},
}


def main(folder: str, *roots: str) -> None:
    """Prints per policy and variant what is resolved for each dataset, and how many last frames are dropped."""
    metadata = {root: LeRobotDatasetMetadata("some/name", root=root) for root in roots}
    described = {}
    for name in PreTrainedConfig.get_known_choices():
        for variant, values in (("defaults", {}), ("others", OTHER_VALUES[name])):
            config = PreTrainedConfig.get_choice_class(name)(device="cpu", **values)
            saved = Path(folder, name, variant)
            saved.mkdir(parents=True)
            config._save_pretrained(saved)
            described[f"{name}/{variant}"] = {
                "drop_last_frames": getattr(config, "drop_n_last_frames", 0),
                "delta_timestamps": {root: resolve_delta_timestamps(config, metadata[root]) for root in roots},
            }
    sys.stdout.write(json.dumps(described) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
