"""Stage 2's network: a sparse flow transformer over the voxels' latents (spec: stage2.md sections 3.3, 3.4, 4).

A U-shape of one level: residual convolution blocks down to half the resolution, a transformer there, residual blocks with skips back.
Weights may be mixed, float16 inside input_blocks, blocks and out_blocks, float32 at the ends: `torso` says what the inside runs in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.window_attention import grouped_attention
from .flow import CrossAttention, FeedForward, HeadNorm, StepEmbedder
from .layers import LayerNorm32
from .sparse import SubmanifoldConv3, Voxels, cross_attend, pool, unpool

LATENT_CHANNELS = 8


class SparseResBlock(nn.Module):
    """Two convolutions and a skip under the time step's modulation. `resample` comes first: the norm and the skip see its result (3.4)."""

    def __init__(self, channels: int, out: int, embedding: int, resample: Literal["keep", "down", "up"] = "keep") -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = LayerNorm32(channels, eps=1e-6)
        self.norm2 = LayerNorm32(out, eps=1e-6, elementwise_affine=False)
        self.conv1 = SubmanifoldConv3(channels, out)
        self.conv2 = SubmanifoldConv3(out, out)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        self.skip_connection = nn.Linear(channels, out) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, voxels: Voxels) -> Tensor:
        """x (N, channels), embedding (1 or B, width) -> (N, out). voxels: the finer grid of the two where it resamples."""
        if self.resample == "down":
            x, voxels = pool(x, voxels), voxels.coarse
        elif self.resample == "up":
            x = unpool(x, voxels)
        scale, shift = (voxels.spread(part) for part in self.emb_layers(embedding).chunk(2, dim=-1))
        h = self.conv1(F.silu(self.norm1(x)), voxels)
        h = self.norm2(h) * (1 + scale) + shift
        return self.conv2(F.silu(h), voxels) + self.skip_connection(x)


class FullAttention(nn.Module):
    """Self attention among all rows of an object, with normed query and key heads: keys to_qkv, q_rms_norm, k_rms_norm, to_out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.q_rms_norm = HeadNorm(heads, width // heads)
        self.k_rms_norm = HeadNorm(heads, width // heads)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return self.to_out(grouped_attention(self.q_rms_norm(q), self.k_rms_norm(k), v, voxels.whole))


class ModulatedBlock(nn.Module):
    """Self attention and feed-forward under the time step's modulation, cross attention without (3.3)."""

    def __init__(self, width: int, context: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(width, eps=1e-6)
        self.norm3 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.self_attn = FullAttention(width, heads)
        self.cross_attn = CrossAttention(width, context, heads)
        self.mlp = FeedForward(width, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, voxels: Voxels) -> Tensor:
        """x (M, width), embedding (1 or B, width), context (B, L, its width) -> (M, width)."""
        modulation = self.adaLN_modulation(embedding).chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = (voxels.spread(part) for part in modulation)
        x = x + gate1 * self.self_attn(self.norm1(x) * (1 + scale1) + shift1, voxels)
        x = x + cross_attend(self.cross_attn, self.norm2(x), voxels, context)
        return x + gate2 * self.mlp(self.norm3(x) * (1 + scale2) + shift2)


class LatentFlow(nn.Module):
    """The velocity field of stage 2: v(x, t, context) on voxels. The defaults are the released model's.

    io_channels: the widths of the convolutional levels, finest first; each level has `io_blocks` blocks, the last of which resamples.
    """

    def __init__(
        self,
        width: int = 1024,
        context: int = 1024,
        blocks: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4,
        io_channels: Sequence[int] = (128,),
        io_blocks: int = 2,
        latent: int = LATENT_CHANNELS,
    ) -> None:
        super().__init__()
        self.width = width
        self.t_embedder = StepEmbedder(width)
        self.input_layer = nn.Linear(latent, io_channels[0])
        self.input_blocks = nn.ModuleList()
        self.out_blocks = nn.ModuleList()
        for channels, deeper in zip(io_channels, [*io_channels[1:], width]):
            self.input_blocks.extend(SparseResBlock(channels, channels, width) for _ in range(io_blocks - 1))
            self.input_blocks.append(SparseResBlock(channels, deeper, width, "down"))
        self.blocks = nn.ModuleList(ModulatedBlock(width, context, heads, mlp_ratio) for _ in range(blocks))
        for channels, deeper in reversed(list(zip(io_channels, [*io_channels[1:], width]))):
            # Each block also reads the skip of its mirror image, as wide as what comes up.
            self.out_blocks.append(SparseResBlock(2 * deeper, channels, width, "up"))
            self.out_blocks.extend(SparseResBlock(2 * channels, channels, width) for _ in range(io_blocks - 1))
        self.out_layer = nn.Linear(io_channels[0], latent)

    @property
    def torso(self) -> torch.dtype:
        """What everything between the input and the output layer runs in."""
        return self.input_blocks[0].conv1.conv.weight.dtype  # type: ignore[union-attr, return-value]

    def forward(self, x: Tensor, t: Tensor, context: Tensor, voxels: Voxels) -> Tensor:
        """x (N, 8), t (1,) on the 0..1000 scale, context (B, L, width) -> velocity (N, 8), float32 where the output layer is.

        The plain twin: nothing cached. An unconditional call is one with `0 * context`.
        """
        dtype = self.torso
        embedding, context = self.t_embedder(t).to(dtype), context.to(dtype)
        h = self.input_layer(x.to(self.input_layer.weight.dtype)).to(dtype)
        levels, skips = [voxels], []
        for block in self.input_blocks:
            h = block(h, embedding, levels[-1])
            if block.resample == "down":
                levels.append(levels[-1].coarse)
            skips.append(h)
        h = h + levels[-1].positions(self.width).to(dtype)
        for block in self.blocks:
            h = block(h, embedding, context, levels[-1])
        for block in self.out_blocks:
            if block.resample == "up":
                levels.pop()
            h = block(torch.cat([h, skips.pop()], dim=-1), embedding, levels[-1])
        h = F.layer_norm(h.float(), h.shape[-1:], eps=1e-5)
        return self.out_layer(h.to(self.out_layer.weight.dtype))
