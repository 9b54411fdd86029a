"""Voxels and weights for the tests of stage 2."""

from __future__ import annotations

from typing import TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scattered(side: int, share: float, seed: int = 0, batch: int = 0) -> torch.Tensor:
    """int32 (n, 4): a random share of a cube's voxels, in lexicographic order."""
    xyz = (torch.rand(side, side, side, generator=source(seed)) < share).nonzero().int()
    return torch.cat([torch.full_like(xyz[:, :1], batch), xyz], dim=1)


def randomised(module: M, seed: int = 0) -> M:
    """In place: weights of a trained network's size, norms around 1."""
    draw = source(seed)
    for name, value in module.named_parameters():
        value.data = torch.randn(value.shape, generator=draw) * (1.0 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.1)
        if (value.ndim == 1 and name.endswith("weight")) or name.endswith("gamma"):
            value.data += 1
    return module.requires_grad_(False).eval()
