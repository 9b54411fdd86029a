"""Latents -> features of the cubes of a grid four times as fine, 64 cubes for each voxel (spec: stage2.md 9.1, 9.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .decoder_torso import DecoderTorso
from .flexicubes import CUBE_CHANNELS, Surface, extract_surface
from .latent_flow import LATENT_CHANNELS
from .sparse import PointwiseConv, SparseGroupNorm, SubmanifoldConv3, Voxels, subdivide


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
        return F.silu(self.act_layers[0](x, voxels))

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        """x on `voxels` -> (8 N, out) on `voxels.fine`, in x's dtype."""
        conv1, norm, _, conv2 = self.out_layers
        h = conv1(subdivide(self.activate(x, voxels)), voxels.fine)
        h = conv2(F.silu(norm(h, voxels.fine)), voxels.fine)
        return h + subdivide(self.skip_connection(x))  # a row-wise product: done once for each parent


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
        h = self.torso(latents, voxels)
        for block in self.upsample:
            h, voxels = block(h, voxels), voxels.fine
        return self.out_layer(h.to(self.out_layer.weight.dtype))

    def forward(self, latents: Tensor, voxels: Voxels) -> list[Surface]:
        features, cubes = self.features(latents, voxels).float(), voxels.fine.fine
        return [extract_surface(cubes.coords[rows, 1:], features[rows], self.resolution) for rows in cubes.slices]
