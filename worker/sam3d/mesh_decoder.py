"""Latents -> features of the cubes of a grid four times as fine, 64 cubes for each voxel (spec: stage2.md 9.1, 9.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.attention import fused_attention
from .decoder_torso import DecoderTorso
from .flexicubes import CUBE_CHANNELS, Surface, extract_surface
from .latent_flow import LATENT_CHANNELS
from .sparse import PointwiseConv, SparseGroupNorm, SubmanifoldConv3, Voxels

_ROWS = 1 << 17


class SubdivideBlock(nn.Module):
    """Residual block (N, channels) -> (8 N, out) on the fine grid. Norms see the rows before they are subdivided.

    Keys act_layers.0 (norm), out_layers.0, .1 (norm), .3, skip_connection.
    """

    def __init__(self, channels: int, out: int, groups: int = 32) -> None:
        super().__init__()
        self.act_layers = nn.ModuleList([SparseGroupNorm(channels, groups), nn.SiLU()])
        self.out_layers = nn.ModuleList(
            [SubmanifoldConv3(channels, out), SparseGroupNorm(out, groups), nn.SiLU(), SubmanifoldConv3(out, out)]
        )
        self.skip_connection = PointwiseConv(channels, out)

    def activate(self, x: Tensor, voxels: Voxels) -> Tensor:
        """What is subdivided and convolved: (N, channels) -> the same."""
        return self.act_layers[0](x, voxels, silu=True)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        """x on `voxels` -> (8 N, out) on `voxels.fine`, in x's dtype. No row of x is ever repeated."""
        conv1, norm, _, conv2 = self.out_layers
        h = conv1.subdivided(self.activate(x, voxels), voxels)
        h = norm(h, voxels.fine, silu=True)
        h = conv2(h, voxels.fine)
        h.unflatten(0, (-1, 8)).add_(self.skip_connection(x)[:, None])  # a row-wise product: done once for each parent
        return h


class MeshDecoder(DecoderTorso):
    """Denormalised latents (N, 8) on voxels of a `resolution`^3 grid -> surfaces of cubes on a (4 resolution)^3 grid, one for each object.

    Keys of the torso, upsample, out_layer. The width falls to a quarter and to an eighth.
    """

    def __init__(
        self,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4,
        window: int = 8,
        latent: int = LATENT_CHANNELS,
        resolution: int = 64,
    ) -> None:
        super().__init__(width, blocks, heads, mlp_ratio, window, latent)
        self.resolution = 4 * resolution
        self.upsample = nn.ModuleList([SubdivideBlock(width, width // 4), SubdivideBlock(width // 4, width // 8)])
        self.out_layer = nn.Linear(width // 8, CUBE_CHANNELS)

    def features(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """The network alone: -> (64 N, 101) on `voxels.fine.fine`, in the output layer's dtype."""
        with fused_attention(latents.device):
            h = self.torso(latents, voxels)
            for block in self.upsample:
                h, voxels = block(h, voxels), voxels.fine
            return self._leave(h)

    def _leave(self, h: Tensor) -> Tensor:
        """The output layer, some rows at a time: all of them in its dtype would take twice what they do."""
        weight, bias = self.out_layer.weight, self.out_layer.bias
        out = torch.empty(len(h), len(weight), dtype=weight.dtype, device=h.device)
        for start in range(0, len(h), _ROWS):
            rows = slice(start, start + _ROWS)
            torch.addmm(bias, h[rows].to(weight.dtype), weight.t(), out=out[rows])
        return out

    def forward(self, latents: Tensor, voxels: Voxels) -> list[Surface]:
        features, cubes = self.features(latents, voxels).float(), voxels.fine.fine
        return [extract_surface(cubes.coords[rows, 1:], features[rows], self.resolution) for rows in cubes.slices]
