"""The point map's embedder: windows of points, each summed up by one token (spec: stage1.md 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ViTBlock

AT_ONCE = 4  # maps in one pass: a map's points as tokens take 68 MB of float16, several times over


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
        """As `plain`, with only what reaches the cls row (spec: stage1.md section 12).

        The cls query is the same for all windows, so its products with the keys are one small matrix on the normed tokens, and the value matrix
        is applied after the weighted sum. (The key's bias cancels in the softmax; the weights sum to 1, so the value's bias is just added.)
        """
        return torch.cat([self._first_rows(some) for some in x.split(AT_ONCE)])

    def _first_rows(self, x: Tensor) -> Tensor:
        tokens, block = self.embed(x), self.blocks[0]
        normed = block.norm1(tokens)
        heads = block.attn.heads
        wq, wk, wv = block.attn.qkv.weight.unflatten(0, (3, heads, -1)).unbind(0)  # (H, D, width) each
        bq, _, bv = block.attn.qkv.bias.unflatten(0, (3, heads, -1)).unbind(0)
        query = wq @ normed[0, 0] + bq
        asked = torch.einsum("hd,hdc->ch", query * query.shape[-1] ** -0.5, wk)
        weights = (normed @ asked).float().softmax(1).to(normed.dtype)  # (windows, tokens, H)
        pooled = torch.einsum("hdc,whc->whd", wv, weights.mT @ normed) + bv
        out = tokens[:, 0] + block.attn.proj(pooled.flatten(1))
        out = out + block.mlp(block.norm2(out))
        return self._placed(out, len(x))

    def plain(self, x: Tensor) -> Tensor:
        """The twin of `forward`: the whole block on every token, then the cls rows."""
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        return self._placed(tokens[:, 0], len(x))

    def _placed(self, windows: Tensor, batch: int) -> Tensor:
        return windows.unflatten(0, (batch, -1)) + self.pos_embed.flatten(2).transpose(1, 2)
