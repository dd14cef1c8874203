"""The windows of lerobot's policies are those that lerobot itself resolves."""

from __future__ import annotations

from pathlib import Path

import pytest

from predecode.pipeline import MaterializeOptions
from predecode.pipeline.policy_option import with_policy
from predecode.transforms.policies import OLD_LEROBOT, POLICIES, windows_of_policy
from predecode.transforms.recipe import open_recipe
from tests.training.conftest import RunLerobot, last_json

DATASETS = ("zoo_v30", "pusht_v30", "pusht_images_v30", "aloha_v30")


@pytest.mark.slow
@pytest.mark.needs_lerobot
def test_windows_are_those_that_lerobot_resolves(data_dir: Path, tmp_path: Path, run_lerobot: RunLerobot) -> None:
    roots = [str(data_dir / name) for name in DATASETS]
    described = last_json(run_lerobot("-m", "tests.training.describe_policies", tmp_path, *roots, cwd=tmp_path))
    old = {name for name in POLICIES if windows_of_policy(name).policy.endswith(f"{OLD_LEROBOT})")}
    assert {key.split("/")[0] for key in described} == old
    for key, expected in described.items():
        name, variant = key.split("/")
        for root in roots:
            source = open_recipe(MaterializeOptions(source=root, output="unused")).source
            for policy in (
                str(tmp_path / key),
                str(tmp_path / key / "config.json"),
                *([name] * (variant == "defaults")),
            ):
                options, _ = with_policy(MaterializeOptions(source=root, output="unused"), policy)
                assert options.drop_last_frames == expected["drop_last_frames"]
                found = {feature: [d / source.fps for d in deltas] for feature, deltas in options.delta_indices}
                wanted = expected["delta_timestamps"][root] or {}
                assert list(found.items()) == list(wanted.items()), (policy, root)
