"""Shape latent -> occupancy grid -> voxel coordinates (spec: stage1.md section 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract.errors import EngineError
from .layers import LayerNorm32

MAX_VOXELS = 42000  # more than this many, and the grid is halved


class ChannelNorm(LayerNorm32):
    """LayerNorm over the channels of (B, C, ...), eps 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResBlock3d(nn.Module):
    """x (B, C, ...) plus two convolutions of it; a float32 x stays float32 whatever the weights are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.conv1.weight.dtype
        h = self.conv1(F.silu(self.norm1(x)).to(dtype))
        return x + self.conv2(F.silu(self.norm2(h)).to(dtype))


class Upsample3d(nn.Module):
    """Convolution to 8 times the channels, then every voxel becomes 2 x 2 x 2."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 8 * out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.to(self.conv.weight.dtype)).unflatten(1, (-1, 2, 2, 2))  # (B, C, p, q, r, X, Y, Z)
        batch, channels, _, _, _, *size = y.shape
        return y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels, *(2 * n for n in size))


class OccupancyDecoder(nn.Module):
    """Latent (B, 8, r, r, r) -> logits (B, 1, 4 r, 4 r, 4 r); a voxel is occupied where its logit is positive.

    With half-precision weights the stream is float32 up to the first upsampling, as in the original under autocast (spec 8.4).
    """

    def __init__(self, channels: Sequence[int] = (512, 128, 32), latent: int = 8, out: int = 1, blocks: int = 2, middle: int = 2) -> None:
        super().__init__()
        self.input_layer = nn.Conv3d(latent, channels[0], 3, padding=1)
        self.middle_block = nn.Sequential(*(ResBlock3d(channels[0]) for _ in range(middle)))
        stack: list[nn.Module] = []
        for level, width in enumerate(channels):
            stack += [ResBlock3d(width) for _ in range(blocks)]
            if level + 1 < len(channels):
                stack.append(Upsample3d(width, channels[level + 1]))
        self.blocks = nn.Sequential(*stack)
        self.out_layer = nn.Sequential(ChannelNorm(channels[-1]), nn.SiLU(), nn.Conv3d(channels[-1], out, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        h = self.input_layer(latent.to(self.input_layer.weight.dtype)).float()
        h = self.blocks(self.middle_block(h))
        return self.out_layer(h.to(self.input_layer.weight.dtype))


def as_cube(shape: Tensor) -> Tensor:
    """Shape latent (B, r^3, C) -> (B, C, r, r, r)."""
    side = round(shape.shape[1] ** (1 / 3))
    return shape.transpose(1, 2).unflatten(2, (side, side, side))


def occupied(logits: Tensor) -> Tensor:
    """(B, 1, R, R, R) -> int32 (K, 4), rows (batch, i, j, k) in lexicographic order; perhaps none."""
    return torch.nonzero(logits[:, 0] > 0).int()


def prune(coords: Tensor) -> Tensor:
    """Drop the voxels whose 26 neighbours are all occupied; the order stays. coords: int32 (K, 4) of one object.

    Raises EngineError where there is no voxel at all.
    """
    if len(coords) == 0:
        raise nothing()
    cells = coords[:, 1:].long()
    low = cells.min(0).values
    grid = coords.new_zeros([int(n) for n in cells.max(0).values - low + 1], dtype=torch.float32)
    x, y, z = (cells - low).unbind(1)
    grid[x, y, z] = 1
    # A box of ones along each axis in turn; beyond the bounding box nothing is occupied.
    count = grid
    for axis in range(3):
        edge = [0] * 6
        edge[2 * (2 - axis)] = edge[2 * (2 - axis) + 1] = 1
        padded = F.pad(count, edge)
        n = count.shape[axis]
        count = padded.narrow(axis, 0, n) + padded.narrow(axis, 1, n) + padded.narrow(axis, 2, n)
    return coords[count[x, y, z] < 27]


def nothing(whose: str = "") -> EngineError:
    """The error for an object without voxels."""
    return EngineError(f"Stage 1 found no occupied voxel{whose}.", "Try another seed, or a mask that shows more of the object.")


def halve(coords: Tensor, limit: int = MAX_VOXELS) -> tuple[Tensor, int]:
    """int32 (K, 4) -> (the same, 1), or, above `limit` rows, (each axis at half its extent, duplicates merged and sorted, 2)."""
    if len(coords) <= limit:
        return coords, 1
    cells = coords[:, 1:].float()
    low, high = cells.min(0).values, cells.max(0).values
    size = high - low + 1
    target = (size / 2).clamp(min=1)  # a flat axis has nothing to halve
    first = low + (size - target) / 2
    last = first + target - 1
    extent = (high - low).clamp(min=1)
    moved = torch.round((cells - low) / extent * (target - 1) + first)  # half to even
    moved = torch.minimum(torch.maximum(moved, first.trunc()), last.trunc())
    return torch.unique(torch.cat([coords[:, :1], moved.int()], dim=1), dim=0), 2


def voxel_positions(coords: Tensor, resolution: int = 64) -> Tensor:
    """int32 (K, 4) -> float32 (K, 3), each voxel's lower corner in the object's cube [-0.5, 0.5]."""
    return coords[:, 1:].float() / resolution - 0.5
