"""Tiny MoGe networks and pictures for the tests."""

from __future__ import annotations

import copy

import torch
from comfyui_sam3d.vendor.moge import checkpoint
from comfyui_sam3d.vendor.moge.config import ViTSize

TINY = ViTSize(width=32, depth=3, heads=2, native=56)
V1 = {
    "encoder": "tiny", "intermediate_layers": 2, "dim_proj": 32, "dim_upsample": [32, 32], "num_tokens_range": [8, 20], "remap_output": "exp",
}  # fmt: skip


def stack(inputs, last: int | None, *, dims=(32, 32, 32), blocks=(0, 1, 0), **other):
    outputs = None if last is None else [*[None] * (len(dims) - 1), last]
    return {
        "dim_in": list(inputs), "dim_out": outputs, "dim_res_blocks": list(dims), "num_res_blocks": list(blocks), "res_block_in_norm": "none",
        "res_block_hidden_norm": "none", "resamplers": ["conv_transpose", "bilinear"], **other,
    }  # fmt: skip


V2 = {
    "encoder": {"backbone": "tiny", "intermediate_layers": [0, 2], "dim_out": 24}, "neck": stack((26, 2, 2), None),
    "points_head": stack((32, 32, 32), 3), "mask_head": stack((32, 32, 32), 1), "normal_head": stack((None, 32, None), 3),
    "scale_head": {"dims": [32, 16, 1]}, "remap_output": "exp", "num_tokens_range": [9, 36],
}  # fmt: skip


def tiny(config, seed: int = 0):
    """A network with weights that do something."""
    model = checkpoint.build(config, TINY)
    source = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        value.data.normal_(0, 0.5 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.1, generator=source)
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            value.data += 1
    return model.requires_grad_(False).eval()


def changed(config, **entries):
    return {**copy.deepcopy(config), **entries}


def picture(height: int = 40, width: int = 56, seed: int = 1) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
