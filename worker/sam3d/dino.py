"""DINOv2 with registers, and the wrapper that turns a picture or a mask into tokens (spec: stage1.md 3.1, 3.2).

Oquab et al., "DINOv2", 2023; Darcet et al., "Vision Transformers Need Registers", 2023. Keys as the public weights have them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import fused_attention
from ..ops.fused import residual_norm
from ..ops.graphs import Replay
from .layers import LayerNorm32, ViTBlock

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoViT(nn.Module):
    """The vision transformer at its native resolution: positions are used as stored, never interpolated.

    forward: (B, 3, size, size), ImageNet-normalised -> the last block's tokens before the final norm, float32
    (B, 1 + registers + patches, width). `x` must have the weights' dtype.
    """

    def __init__(self, size: int = 518, patch: int = 14, width: int = 1024, depth: int = 24, heads: int = 16, registers: int = 4) -> None:
        super().__init__()
        self.registers = registers
        self.patch_embed = _PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file, never used
        self.blocks = nn.ModuleList(ViTBlock(width, heads) for _ in range(depth))
        self.norm = LayerNorm32(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        batch = len(patches)
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), patches], dim=1) + self.pos_embed
        tokens = torch.cat([tokens[:, :1], self.register_tokens.expand(batch, -1, -1), tokens[:, 1:]], dim=1)
        # The residual stream is float32 whatever the weights are; each norm is fused with the update before it (ops/fused.py).
        tokens, update, gate = tokens.float().contiguous(), None, None
        for block in self.blocks:
            normed = residual_norm(tokens, update, gate, *_affine(block.norm1), eps=1e-6, dtype=x.dtype)
            update, gate = block.attn(normed), block.ls1.gamma
            normed = residual_norm(tokens, update, gate, *_affine(block.norm2), eps=1e-6, dtype=x.dtype)
            update, gate = block.mlp(normed), block.ls2.gamma
        assert gate is not None and update is not None
        return tokens + gate.float() * update.float()


class Dino(nn.Module):
    """Picture (B, 3, h, w) or mask (B, 1, h, w), 0..1 -> tokens (B, T, width) in the input's dtype.

    Stage 1 (`prenorm` false): the normed cls and patch tokens, T = 1 + patches. Stage 2 (`prenorm` true): all tokens of the last
    block, registers too, under a LayerNorm without parameters (eps 1e-5), T = 1 + registers + patches.
    """

    def __init__(self, size: int = 518, *, prenorm: bool = False, **vit: int) -> None:
        super().__init__()
        self.size, self.prenorm = size, prenorm
        self.backbone = DinoViT(size=size, **vit)
        self._replay: Replay | None = None

    def stays(self) -> None:
        """The weights stay where they are from now on: on CUDA, graphs may read them there."""
        if self.backbone.cls_token.device.type == "cuda":
            self._replay = Replay()

    @property
    def width(self) -> int:
        return self.backbone.cls_token.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        with fused_attention(x.device):
            prepared = self.prepare(x)
            return (self._tokens(prepared) if self._replay is None else self._replay(self._tokens, prepared)).to(x.dtype)

    def _tokens(self, prepared: Tensor) -> Tensor:
        return self.select(self.backbone(prepared))

    def prepare(self, x: Tensor) -> Tensor:
        """What the transformer reads: resized (without antialias), three channels, normalised, in the weights' dtype."""
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        channels = x.expand(-1, 3, -1, -1).unbind(1)
        return torch.stack([(c - mean) / std for c, mean, std in zip(channels, MEAN, STD)], dim=1).to(self.backbone.cls_token.dtype)

    def select(self, tokens: Tensor) -> Tensor:
        """The last block's tokens, (B, 1 + registers + patches, width) -> those that the class promises, normed."""
        if self.prenorm:
            return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)
        normed = self.backbone.norm(tokens)
        return torch.cat([normed[:, :1], normed[:, 1 + self.backbone.registers :]], dim=1)


def _affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight, norm.bias
