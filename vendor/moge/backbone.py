"""DINOv2 (Oquab et al., 2023) without registers, for pictures of any size: spec moge.md section 2.2. Keys as the public weights have them.

The residual stream and the norms are float32 whatever the weights are; products run in the weights' dtype.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ViTSize


class _Norm(nn.LayerNorm):
    """Any dtype in, float32 inside, the weights' dtype out."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(self.weight.dtype)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x.float() * self.gamma.float()


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = _Norm(width), _Attention(width, heads), _Scale(width)
        self.norm2, self.mlp, self.ls2 = _Norm(width), _Mlp(width), _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    def __init__(self, size: ViTSize) -> None:
        super().__init__()
        self.size = size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.grid**2, size.width))
        self.mask_token = nn.Parameter(torch.zeros(1, size.width))  # in the file, never used
        self.patch_embed = _PatchEmbed(size.patch, size.width)
        self.blocks = nn.ModuleList(_Block(size.width, size.heads) for _ in range(size.depth))
        self.norm = _Norm(size.width)

    def forward(self, picture: Tensor, taps: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """(B, 3, patch * hp, patch * wp), ImageNet-normalised -> for each tapped block its patch tokens (B, hp * wp, width) and its class
        token (B, width), both under the final norm, in the weights' dtype. `taps` ascend."""
        hp, wp = (side // self.size.patch for side in picture.shape[-2:])
        patches = self.patch_embed(picture.to(self.cls_token.dtype)).float()
        tokens = torch.cat([self.cls_token.float().expand(len(patches), -1, -1), patches], dim=1) + self.positions(hp, wp)
        found = []
        for index, block in enumerate(self.blocks[: taps[-1] + 1]):
            tokens = block(tokens)
            if index in taps:
                normed = self.norm(tokens)
                found.append((normed[:, 1:], normed[:, 0]))
        return found

    def positions(self, hp: int, wp: int) -> Tensor:
        """The learnt positions, float32 (1, 1 + hp * wp, width): as they are on the native grid, resampled on any other.

        They are resampled by a factor with 0.1 patches too much, as in training; a target size would shift every position a little.
        """
        table, grid = self.pos_embed.float(), self.size.grid
        if hp == wp == grid:
            return table
        square = table[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        factor = ((hp + 0.1) / grid, (wp + 0.1) / grid)
        resampled = F.interpolate(square, scale_factor=factor, mode="bicubic", antialias=False, align_corners=False)
        return torch.cat([table[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)
