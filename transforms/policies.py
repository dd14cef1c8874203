"""The windows that lerobot's policies train on: a table of rules.

Each rule is that of the policy's configuration class in lerobot (`policies/NAME/configuration_NAME.py`; SARM and reward
models since 0.6 in `rewards/`): its `observation_delta_indices`, `action_delta_indices`, `reward_delta_indices` and
`drop_n_last_frames`, with the defaults of the fields that they use. Which feature gets which is
`resolve_delta_timestamps` of lerobot's `datasets/factory.py`. The rules are those of lerobot 0.4.4 where it has the
policy, else of 0.6.2; `@0.6` behind a name asks for the defaults of 0.6.2 where they are others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from predecode.transforms.errors import UsageError, did_you_mean
from predecode.transforms.features import Feature
from predecode.transforms.windows import MAX_DELTAS

OLD_LEROBOT, NEW_LEROBOT = "0.4.4", "0.6.2"

_NEWER = "@0.6"
_OBSERVATION, _IMAGE, _STATE, _ACTION, _REWARD = (
    "observation.",
    "observation.image",
    "observation.state",
    "action",
    "next.reward",
)

Fields: TypeAlias = Mapping[str, Any]
"""Fields of a policy's configuration, by name."""

Fit = Literal["pad", "resize", "crop", "beside"]
"""What a policy does with images of another size: all of the image with bars, all of it stretched, a part of it, or all
cameras stretched to equal widths, which stand beside one another in the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWindows:
    """What a policy wants of a dataset: offsets in frames, None where it wants the anchor's own value.

    Attributes:
        policy: What to call it in messages.
        observations: Of all features that begin with `observation.`.
        images: Of those that begin with `observation.image`, where these differ.
        states: Of `observation.state`, where these differ.
        actions: Of `action`.
        rewards: Of `next.reward`.
        drop_last_frames: So many last frames of each episode are no anchors.
        image_size: (height, width) that the policy brings images to; None where it takes them as they are.
        fit: How it does that.
    """

    policy: str = ""
    observations: tuple[int, ...] | None = None
    images: tuple[int, ...] | None = None
    states: tuple[int, ...] | None = None
    actions: tuple[int, ...] | None = None
    rewards: tuple[int, ...] | None = None
    drop_last_frames: int = 0
    image_size: tuple[int, int] | None = None
    fit: Fit = "resize"

    def delta_indices(self, features: Iterable[Feature]) -> dict[str, tuple[int, ...]]:
        """The windows for a dataset: per feature its offsets in frames, in feature order.

        Args:
            features: Of the dataset, under the names that items have.

        Raises:
            UsageError: the policy wants actions, and there is no feature of that name.
        """
        names = [feature.name for feature in features]
        if self.actions is not None and _ACTION not in names:
            raise UsageError(
                f"--policy: {self.policy} trains on a feature named {_ACTION!r}, which is not there. The dataset has: "
                f"{', '.join(names)}. Give it that name with --rename, or give the windows with --delta-indices."
            )
        found = ((name, self._deltas(name)) for name in names)
        return {name: deltas for name, deltas in found if deltas is not None}

    def _deltas(self, name: str) -> tuple[int, ...] | None:
        if name == _REWARD:
            return self.rewards
        if name == _ACTION:
            return self.actions
        if name.startswith(_IMAGE) and self.images is not None:
            return self.images
        if name == _STATE and self.states is not None:
            return self.states
        return self.observations if name.startswith(_OBSERVATION) else None


@dataclass(frozen=True, slots=True)
class _Rule:
    """How the fields of a configuration decide the windows.

    Attributes:
        windows: From the fields, which have been checked to be of the kinds of their defaults.
        defaults: Of the fields, in the lerobot version whose rule this is.
        sizes: Per field that may hold a size that images are brought to, its default and how; the first that is not
            null counts.
        newer: Defaults of lerobot 0.6.2 that are others than those of 0.4.4.
        lerobot: The version whose rule this is.
    """

    windows: Callable[[Fields], PolicyWindows]
    defaults: Fields
    sizes: tuple[tuple[str, tuple[int, int] | None, Fit], ...] = ()
    newer: Fields = field(default_factory=lambda: MappingProxyType({}))
    lerobot: str = OLD_LEROBOT


def _chunk(fields: Fields) -> PolicyWindows:
    return PolicyWindows(actions=tuple(range(fields["chunk_size"])))


def _chunk_and_now(fields: Fields) -> PolicyWindows:
    return replace(_chunk(fields), observations=(0,))


def _history_and_horizon(fields: Fields) -> PolicyWindows:
    first = 1 - fields["n_obs_steps"]
    dropped = fields["drop_n_last_frames"]
    if dropped is None:
        dropped = max(0, fields["horizon"] - fields["n_action_steps"] - fields["n_obs_steps"] + 1)
    return PolicyWindows(
        observations=tuple(range(first, 1)),
        actions=tuple(range(first, first + fields["horizon"])),
        drop_last_frames=dropped,
    )


def _vqbet(fields: Fields) -> PolicyWindows:
    first, stop = 1 - fields["n_obs_steps"], fields["n_action_pred_token"] + fields["action_chunk_size"] - 1
    return PolicyWindows(observations=tuple(range(first, 1)), actions=tuple(range(first, stop)))


def _tdmpc(fields: Fields) -> PolicyWindows:
    ahead = tuple(range(fields["horizon"]))
    return PolicyWindows(observations=tuple(range(fields["horizon"] + 1)), actions=ahead, rewards=ahead)


def _pi05(fields: Fields) -> PolicyWindows:
    """With its memory (MEM, since 0.6) images, states or both look back."""
    stride = fields["memory_stride"]
    past = tuple(stride * step for step in range(1 - fields["memory_frames"], 1))
    return replace(
        _chunk(fields),
        images=past if fields["use_visual_memory"] else None,
        states=past if fields["use_proprioceptive_memory"] else None,
    )


def _groot(fields: Fields) -> PolicyWindows:
    """N1.5, up to 0.4.4, predicts 16 actions at most; N1.7, since 0.6, 40, and wants all of them in the episode.

    A local `base_model_path` may say fewer than 40 to lerobot; more are stored then than it asks for.
    """
    if fields["tokenizer_assets_repo"] is not None:  # Only N1.5 has one.
        return PolicyWindows(actions=tuple(range(min(fields["chunk_size"], 16))))
    num_actions = min(fields["chunk_size"], 40)
    return PolicyWindows(actions=tuple(range(num_actions)), drop_last_frames=max(0, num_actions - 1))


def _sarm(fields: Fields) -> PolicyWindows:
    gap, half = fields["frame_gap"], fields["n_obs_steps"] // 2
    around = [gap * step for step in range(-half, half + 1)]
    rewound = [-gap * (step + 1) for step in range(fields["max_rewind_steps"])]
    return PolicyWindows(observations=(*around, *rewound), drop_last_frames=fields["drop_n_last_frames"])


def _fastwam(fields: Fields) -> PolicyWindows:
    return PolicyWindows(
        observations=tuple(range(0, fields["num_video_frames"], max(1, fields["action_video_freq_ratio"]))),
        actions=tuple(range(fields["action_horizon"])),
    )


def _vla_jepa(fields: Fields) -> PolicyWindows:
    if not fields["enable_world_model"] or fields["freeze_qwen"]:
        return _chunk_and_now(fields)
    num_frames, num_actions = fields["num_video_frames"], fields["chunk_size"]
    stride = 1 if num_frames >= num_actions else (num_actions - 1) // max(1, num_frames - 1)
    return replace(_chunk(fields), observations=tuple(stride * step for step in range(num_frames)))


def _lingbot_va(fields: Fields) -> PolicyWindows:
    num_frames, actions_per_frame = fields["frame_chunk_size"], fields["action_per_frame"]
    stride = max(1, actions_per_frame // 4)
    return PolicyWindows(
        observations=tuple(range(0, num_frames * 4 * stride, stride)),
        actions=tuple(range(num_frames * actions_per_frame)),
    )


def _nothing(_: Fields) -> PolicyWindows:
    return PolicyWindows()


_PADDED: tuple[tuple[str, tuple[int, int] | None, Fit], ...] = (("image_resolution", (224, 224), "pad"),)
_MEMORY = {"use_visual_memory": False, "use_proprioceptive_memory": False, "memory_frames": 6, "memory_stride": 30}
_N1_5 = {"tokenizer_assets_repo": "lerobot/eagle2hg-processor-groot-n1p5"}
_DIFFUSION = {"n_obs_steps": 2, "horizon": 16, "drop_n_last_frames": 7}
_VQBET = {"n_obs_steps": 5, "n_action_pred_token": 3, "action_chunk_size": 5}
_DIT = {"n_obs_steps": 2, "horizon": 32, "n_action_steps": 24, "drop_n_last_frames": None}
_SARM = {"n_obs_steps": 8, "frame_gap": 30, "max_rewind_steps": 4, "drop_n_last_frames": 1}
_WAM = {"num_video_frames": 33, "action_video_freq_ratio": 4, "action_horizon": 32}
_JEPA = {"chunk_size": 7, "num_video_frames": 8, "enable_world_model": True, "freeze_qwen": False}

_RULES: Mapping[str, _Rule] = {
    "act": _Rule(_chunk, {"chunk_size": 100}),
    "diffusion": _Rule(
        _history_and_horizon,
        _DIFFUSION,
        (("resize_shape", None, "resize"), ("crop_shape", None, "crop")),
        newer={"horizon": 64},
    ),
    "vqbet": _Rule(_vqbet, _VQBET, (("crop_shape", (84, 84), "crop"),)),
    "tdmpc": _Rule(_tdmpc, {"horizon": 5}),
    "pi0": _Rule(_chunk, {"chunk_size": 50}, _PADDED),
    "pi05": _Rule(_pi05, {"chunk_size": 50, **_MEMORY}, _PADDED),
    "pi0_fast": _Rule(_chunk, {"chunk_size": 50}, _PADDED),
    "smolvla": _Rule(_chunk_and_now, {"chunk_size": 50}, (("resize_imgs_with_padding", (512, 512), "pad"),)),
    "groot": _Rule(
        _groot,
        {"chunk_size": 50, **_N1_5},
        (("image_size", (224, 224), "resize"),),
        newer={"chunk_size": 40, "tokenizer_assets_repo": None, "image_size": (256, 256)},
    ),
    "xvla": _Rule(_chunk, {"chunk_size": 32}, (("resize_imgs_with_padding", None, "pad"),)),
    "wall_x": _Rule(_chunk, {"chunk_size": 32}),
    "sarm": _Rule(_sarm, _SARM),
    "sac": _Rule(_nothing, {}),
    "reward_classifier": _Rule(_nothing, {}),
    "multi_task_dit": _Rule(
        _history_and_horizon,
        _DIT,
        (("image_resize_shape", None, "resize"), ("image_crop_shape", (224, 224), "crop")),
        lerobot=NEW_LEROBOT,
    ),
    "eo1": _Rule(_chunk, {"chunk_size": 8}, lerobot=NEW_LEROBOT),
    "evo1": _Rule(
        _chunk_and_now, {"chunk_size": 50}, (("image_resolution", (448, 448), "resize"),), lerobot=NEW_LEROBOT
    ),
    "molmoact2": _Rule(_chunk, {"chunk_size": 30}, lerobot=NEW_LEROBOT),
    "fastwam": _Rule(_fastwam, _WAM, (("image_size", (224, 448), "beside"),), lerobot=NEW_LEROBOT),
    "vla_jepa": _Rule(_vla_jepa, _JEPA, (("resize_images_to", None, "resize"),), lerobot=NEW_LEROBOT),
    "lingbot_va": _Rule(_lingbot_va, {"frame_chunk_size": 4, "action_per_frame": 4}, lerobot=NEW_LEROBOT),
    "gaussian_actor": _Rule(_nothing, {}, lerobot=NEW_LEROBOT),
    "robometer": _Rule(_nothing, {}, lerobot=NEW_LEROBOT),
    "topreward": _Rule(_nothing, {}, lerobot=NEW_LEROBOT),
}

POLICIES = tuple(_RULES)
"""The names that lerobot gives them (`--policy.type`)."""

_ALSO_CALLED = {"gr00t": "groot", "dit": "multi_task_dit"}


def windows_of_policy(name: str) -> PolicyWindows:
    """The windows of a policy with its defaults.

    >>> windows_of_policy("ACT").actions == tuple(range(100))
    True
    >>> windows_of_policy("diffusion@0.6").observations
    (-1, 0)

    Args:
        name: As lerobot calls it, in any case and with or without punctuation ("pi0.5"); with "@0.6" behind it for the
            defaults of lerobot 0.6.2.

    Raises:
        UsageError: there is no such policy; the message lists those that there are.
    """
    plain = name.removesuffix(_NEWER)
    policy = known_policy(plain)
    if policy is None:
        guess = did_you_mean(plain.lower(), _RULES)
        raise UsageError(
            f"--policy: there is no policy {name!r}.{guess} Known are: {', '.join(_RULES)}; or give the path of a "
            "policy's config.json."
        )
    rule, is_newer = _RULES[policy], plain != name
    version = NEW_LEROBOT if is_newer else rule.lerobot
    windows = _resolve(rule, rule.newer if is_newer else {}, where=name)
    return replace(windows, policy=f"{policy} (defaults of lerobot {version})")


def windows_of_config(config: object, *, where: str) -> PolicyWindows:
    """The windows of a policy's own configuration.

    Args:
        config: The decoded JSON that lerobot saves as config.json; fields that it lacks have their defaults.
        where: What to call the file in messages.

    Raises:
        UsageError: it is no such configuration, of a policy that is not known, or a field is of another kind.
    """
    kind = config.get("type") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(kind, str):
        raise UsageError(
            f"--policy: {where}: expected a lerobot policy's config.json, an object whose `type` names the policy, got "
            f"{config!r:.80}."
        )
    if kind not in _RULES:
        raise UsageError(
            f"--policy: {where}: the windows of policy {kind!r:.80} are not known. Known are: {', '.join(_RULES)}. "
            "Give the windows with --delta-indices and --drop-last-frames."
        )
    return replace(_resolve(_RULES[kind], config, where=where), policy=f"{kind} ({where})")


def known_policy(name: str) -> str | None:
    """lerobot's name of a policy, however it is written; None where it is not known.

    >>> known_policy("pi0-FAST"), known_policy("GR00T"), known_policy("alphago")
    ('pi0_fast', 'groot', None)
    """
    letters = _letters(name)
    by_letters = {_letters(policy): policy for policy in _RULES} | _ALSO_CALLED
    return by_letters.get(letters)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _resolve(rule: _Rule, config: Fields, *, where: str) -> PolicyWindows:
    fields = {}
    for name, default in rule.defaults.items():
        fields[name] = config.get(name, default)
        if not _is_of_kind(fields[name], default):
            expected = "true or false" if isinstance(default, bool) else f"a whole number from 0 to {MAX_DELTAS}"
            raise UsageError(f"--policy: {where}: expected {name} to be {expected}, got {fields[name]!r:.80}.")
    windows = rule.windows(fields)
    for name, default, fit in rule.sizes:
        if (size := _size(name, config.get(name, default), where)) is not None:
            return replace(windows, image_size=size, fit=fit)
    return windows


def _size(name: str, value: object, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or [type(side) for side in value] != [int, int] or min(value) < 1:
        raise UsageError(f"--policy: {where}: expected {name} to be [height, width] or null, got {value!r:.80}.")
    return value[0], value[1]


def _is_of_kind(value: object, default: object) -> bool:
    if value is None:
        return default is None or isinstance(default, str)
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    return type(value) is int and 0 <= value <= MAX_DELTAS
