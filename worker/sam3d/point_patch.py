"""The point map's embedder: windows of points, each summed up by one token (spec: stage1.md 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ViTBlock


class PointPatchEmbed(nn.Module):
    """Point map (B, 3, h, w), NaN or infinite where invalid -> (B, (size/patch)^2, width).

    The map is nearest-resized to `size`; a point becomes a token of its own (an invalid one, a learned token), and one transformer block with a
    cls token sums each patch x patch window up.
    """

    def __init__(self, size: int = 256, patch: int = 8, width: int = 512, heads: int = 16, mlp_ratio: float = 2) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        side = size // patch
        self.point_proj = nn.Linear(3, width)
        self.invalid_xyz_token = nn.Parameter(torch.zeros(width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, 1 + patch * patch, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, width, side, side))
        self.blocks = nn.ModuleList([ViTBlock(width, heads, mlp_ratio, scaled=False)])

    @property
    def width(self) -> int:
        return self.cls_token.shape[-1]

    def windows(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> points by window, (B * windows, patch * patch, 3): windows and the points inside them row by row."""
        side, patch = self.size // self.patch, self.patch
        points = F.interpolate(x, size=(self.size, self.size), mode="nearest")
        return points.unflatten(3, (side, patch)).unflatten(2, (side, patch)).permute(0, 2, 4, 3, 5, 1).reshape(-1, patch * patch, 3)

    def embed(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> the block's input, (B * windows, 1 + patch * patch, width)."""
        points = self.windows(x)
        valid = points.isfinite().all(-1, keepdim=True)
        tokens = self.point_proj(torch.where(valid, points, 0.0).to(self.cls_token.dtype))
        tokens = torch.where(valid, tokens, self.invalid_xyz_token)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed_window

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0].unflatten(0, (len(x), -1)) + self.pos_embed.flatten(2).transpose(1, 2)
