"""Latents -> Gaussian splats, 32 or 4 for each voxel (spec: stage2.md 8.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import fused_attention
from .decoder_torso import DecoderTorso
from .gaussians import Gaussians
from .latent_flow import LATENT_CHANNELS
from .sparse import Voxels

REACH = 1.5  # side of the cube, in voxels, that a voxel's splats can lie in
ROTATION_RATE = 0.1


def offset_table(count: int) -> Tensor:
    """Where a voxel's splats start, float32 (count, 3): Hammersley points spread over the cube, behind the tanh's inverse."""
    points = ((g / count, _radical_inverse(g, 2), _radical_inverse(g, 3)) for g in range(count))
    return torch.tensor([[math.atanh((2 * value - 1) / REACH) for value in point] for point in points])


def _radical_inverse(number: int, base: int) -> float:
    """The number's digits mirrored at the point."""
    value, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        value += digit * place
    return value


class SplatDecoder(DecoderTorso):
    """Denormalised latents (N, 8) on voxels -> for each object its splats, voxel by voxel. Keys of the torso, out_layer, offset_perturbation.

    resolution: the voxels' grid. count: splats for each voxel.
    """

    offset_perturbation: Tensor

    def __init__(
        self,
        count: int = 32,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4,
        window: int = 8,
        latent: int = LATENT_CHANNELS,
        resolution: int = 64,
    ) -> None:
        super().__init__(width, blocks, heads, mlp_ratio, window, latent)
        self.count, self.resolution = count, resolution
        self.register_buffer("offset_perturbation", offset_table(count))
        self.out_layer = nn.Linear(width, 14 * count)

    def forward(self, latents: Tensor, voxels: Voxels) -> list[Gaussians]:
        with fused_attention(latents.device):
            h = self.stream(latents, voxels)
            h = F.layer_norm(h, h.shape[-1:], eps=1e-5)
            return self.splats(self.out_layer(h.to(self.out_layer.weight.dtype)).float(), voxels)

    def splats(self, raw: Tensor, voxels: Voxels) -> list[Gaussians]:
        """The output layer's rows (N, 14 * count) -> each object's splats."""
        g = self.count
        offset, features, scaling, rotation, opacity = raw.split([3 * g, 3 * g, 3 * g, 4 * g, g], dim=1)
        centre = (voxels.coords[:, None, 1:].float() + 0.5) / self.resolution
        moved = torch.tanh(offset.unflatten(1, (g, 3)) + self.offset_perturbation.float()) / self.resolution * 0.5 * REACH
        xyz = centre + moved
        return [
            Gaussians(
                xyz=xyz[rows].flatten(0, 1),
                features_dc=features[rows].reshape(-1, 1, 3),
                scaling=scaling[rows].reshape(-1, 3),
                rotation=rotation[rows].reshape(-1, 4) * ROTATION_RATE,
                opacity=opacity[rows].reshape(-1, 1),
            )
            for rows in voxels.slices
        ]
