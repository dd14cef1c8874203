"""`--policy`: names, files, what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predecode.pipeline import MaterializeOptions
from predecode.pipeline.cli import EXIT_DONE, EXIT_USAGE, main
from predecode.pipeline.policy_option import with_policy
from predecode.transforms.errors import UsageError
from predecode.transforms.policies import POLICIES, PolicyWindows, windows_of_config, windows_of_policy
from tests.pipeline.running import manifest

QUIET = ("--no-progress", "--direct_num_workers=2")


def resolved(root: Path, policy: str, **options: Any) -> tuple[MaterializeOptions, str]:
    return with_policy(MaterializeOptions(source=str(root), output="unused", **options), policy)


@pytest.mark.parametrize(
    ("name", "observations", "actions", "dropped"),
    [
        ("act", None, range(100), 0),
        ("Diffusion", range(-1, 1), range(-1, 15), 7),
        ("diffusion@0.6", range(-1, 1), range(-1, 63), 7),
        ("VQ-BeT", range(-4, 1), range(-4, 7), 0),
        ("TDMPC", range(6), range(5), 0),
        ("pi0", None, range(50), 0),
        ("pi0.5", None, range(50), 0),
        ("pi0-FAST", None, range(50), 0),
        ("SmolVLA", [0], range(50), 0),
        ("GR00T", None, range(16), 0),
        ("groot@0.6", None, range(40), 39),
        ("X-VLA", None, range(32), 0),
        ("Wall-X", None, range(32), 0),
        ("SARM", [-120, -90, -60, -30, 0, 30, 60, 90, 120, -30, -60, -90, -120], None, 1),
        ("sac", None, None, 0),
        ("multi-task DiT", range(-1, 1), range(-1, 31), 7),
        ("EO-1", None, range(8), 0),
        ("EVO-1", [0], range(50), 0),
        ("MolmoAct2", None, range(30), 0),
        ("FastWAM", range(0, 33, 4), range(32), 0),
        ("VLA-JEPA", range(8), range(7), 0),
        ("LingBot-VA", range(16), range(16), 0),
    ],
)
def test_defaults(name: str, observations: Any, actions: Any, dropped: int) -> None:
    """Of lerobot 0.4.4, which another test compares with; of 0.6.2 where it has them, as its source says."""
    found = windows_of_policy(name)
    assert found.observations == (None if observations is None else tuple(observations))
    assert found.actions == (None if actions is None else tuple(actions))
    assert found.drop_last_frames == dropped
    assert (found.rewards is not None) == (name == "TDMPC")


def config(kind: str, **fields: Any) -> PolicyWindows:
    return windows_of_config({"type": kind, **fields}, where="config.json")


def test_memory_of_pi05_looks_back_with_images_or_states(data_dir: Path) -> None:
    fields = {"use_visual_memory": True, "memory_frames": 3, "memory_stride": 10, "chunk_size": 4}
    found = config("pi05", **fields)
    assert (found.images, found.states, found.observations) == ((-20, -10, 0), None, None)
    features = resolved_features(data_dir / "pusht_v30")
    assert list(found.delta_indices(features)) == ["observation.image", "action"]
    both = config("pi05", **fields, use_proprioceptive_memory=True)
    assert list(both.delta_indices(features)) == ["observation.image", "observation.state", "action"]


def resolved_features(root: Path) -> Any:
    from predecode.transforms.recipe import open_recipe

    return open_recipe(MaterializeOptions(source=str(root), output="unused")).source.features


def test_configurations_of_later_versions() -> None:
    assert config("groot", chunk_size=40, tokenizer_assets_repo=None).drop_last_frames == 39
    assert config("groot", chunk_size=40).drop_last_frames == 0
    assert config("vla_jepa", enable_world_model=False).observations == (0,)
    assert config("vla_jepa", chunk_size=22, num_video_frames=8).observations == tuple(range(0, 24, 3))
    assert config("multi_task_dit", horizon=16, n_action_steps=8).drop_last_frames == 7
    assert config("multi_task_dit", drop_n_last_frames=2).drop_last_frames == 2


def test_what_was_resolved_is_said_before_the_job_runs(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["materialize", str(data_dir / "pusht_v30"), str(tmp_path / "out"), "--policy", "diffusion"]
    assert main([*arguments, "--episodes", "0", "--json", *QUIET]) == EXIT_DONE
    shown = capsys.readouterr()
    assert shown.err == (
        "Policy diffusion (defaults of lerobot 0.4.4); windows in frames:\n"
        "  observation.image, observation.state: -1, 0\n"
        "  action: -1..14\n"
        "  the last 7 frames of each episode: no anchors\n"
        "  images: its configuration names no size\n"
    )
    found = manifest(tmp_path / "out")
    assert dict(found["delta_indices"])["action"] == list(range(-1, 15))
    assert json.loads(shown.out)["anchors"] == {"train": found["splits"]["train"]["anchors"]}
    assert main([*arguments, "--episodes", "0", "--drop-last-frames", "0", "--overwrite", *QUIET]) == EXIT_DONE
    assert manifest(tmp_path / "out")["splits"]["train"]["anchors"] == found["splits"]["train"]["anchors"] + 7


@pytest.mark.parametrize(
    ("dataset", "policy", "size", "text"),
    [
        ("aloha_v30", "pi0", None, "to 224x224 and pads; --image-size 168x224 stores them so that nothing is left"),
        ("aloha_v30", "smolvla", (384, 512), "images: the policy resizes them to 512x512 and pads"),
        ("aloha_v30", "groot", None, "images: the policy resizes them to 224x224; --image-size 224x224 stores them"),
        ("aloha_v30", "fastwam", None, "to 224x224 each, beside one another; --image-size 224x224 stores them"),
        ("aloha_v30", "fastwam", (224, 224), "images: the policy resizes them to 224x224 each, beside one another"),
        ("pusht_v30", "pi0", None, "images: the policy resizes them to 224x224 and pads"),
        ("pusht_v30", "vqbet", None, "images: the policy cuts 84x84 out of them, so that they must be stored larger"),
        ("pusht_v30", "act", None, "images: its configuration names no size"),
    ],
)
def test_the_size_that_a_policy_wants_is_suggested(
    dataset: str, policy: str, size: tuple[int, int] | None, text: str, data_dir: Path
) -> None:
    options, report = resolved(data_dir / dataset, policy, image_size=size)
    assert text in report.splitlines()[-1]
    assert report.endswith(text) == (size is not None or dataset == "pusht_v30")
    assert options.image_size == size


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("difusion", "there is no policy 'difusion'. Did you mean diffusion? Known are: act, diffusion, vqbet, tdmpc"),
        ("nothing.json", "cannot read nothing.json: No such file"),
    ],
)
def test_a_policy_that_is_not_known(
    policy: str, message: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["materialize", str(data_dir / "pusht_v30"), str(tmp_path / "out"), "--policy", policy, *QUIET]
    assert main(arguments) == EXIT_USAGE
    shown = capsys.readouterr().err
    assert message in shown
    assert all(name in shown for name in POLICIES) == (policy == "difusion")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected a policy's config.json, got no JSON"),
        ("[]", "an object whose `type` names the policy, got []"),
        ('{"type": "alphago"}', "the windows of policy 'alphago' are not known. Known are: act"),
        (
            '{"type": "act", "chunk_size": "many"}',
            "expected chunk_size to be a whole number from 0 to 10000, got 'many'",
        ),
        ('{"type": "act", "chunk_size": 1e12}', "expected chunk_size to be a whole number"),
        ('{"type": "act", "chunk_size": 1000000000000}', "expected chunk_size to be a whole number"),
        ('{"type": "pi05", "use_visual_memory": 1}', "expected use_visual_memory to be true or false, got 1"),
        ('{"type": "pi0", "image_resolution": [224]}', "expected image_resolution to be [height, width] or null"),
        ('{"type": "act", "chunk_size": 0}', "expected 1 to 10000 deltas for 'action', got 0"),
    ],
)
def test_configurations_that_are_refused(content: str, message: str, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UsageError) as raised:
        resolved(data_dir / "pusht_v30", str(path))
    assert message in str(raised.value)


def test_datasets_and_options_that_do_not_go_with_a_policy(data_dir: Path) -> None:
    with pytest.raises(UsageError, match="--policy excludes --delta-timestamps and --delta-indices"):
        resolved(data_dir / "pusht_v30", "act", delta_indices=(("action", (0,)),))
    with pytest.raises(UsageError, match="trains on a feature named 'action', which is not there"):
        resolved(data_dir / "pusht_v30", "act", exclude_features=("action",))
