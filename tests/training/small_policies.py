"""lerobot's policies, so small that a training step takes a tenth of a second on two cores."""

from __future__ import annotations

SMALL: dict[str, dict[str, object]] = {
    "act": {
        "chunk_size": 10,
        "n_action_steps": 10,
        "pretrained_backbone_weights": None,
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 8,
    },
    "diffusion": {"down_dims": [32, 64], "diffusion_step_embed_dim": 32, "spatial_softmax_num_keypoints": 8},
}
"""By the name of the policy; what is not named is as lerobot has it."""
