"""Stage 1's network: a flow transformer with two streams, shape and pose, that share their modulation (spec: stage1.md section 4).

Mixture of transformers: each stream has weights of its own; the shape attends to itself, the pose to pose and shape. So what the shape
becomes never depends on the pose. Latents are dictionaries, name -> (B, tokens, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import attend
from .layers import LayerNorm32

SHAPE, POSE = "shape", "6drotation_normalized"  # the streams, as the checkpoint calls them
# The pose stream's tokens in their order inside the network; the released model's channels.
POSE_LATENTS = {"6drotation_normalized": 6, "translation": 3, "scale": 3, "translation_scale": 1}
SHAPE_CHANNELS = 8
LATENTS = tuple(sorted([*POSE_LATENTS, SHAPE]))  # the checkpoint's order, which is the noise's too

Latents = dict[str, Tensor]


def sincos_table(resolution: int, channels: int) -> Tensor:
    """Fixed position embedding of a cube's voxels, float32 (resolution^3, channels): per axis sines then cosines, zero-padded at the end."""
    count = channels // 3 // 2
    # Not on the meta device, where a checkpoint's module is built: PyTorch would import its compiler for it, for seconds.
    frequencies = 1.0 / 10000 ** (torch.arange(count, dtype=torch.float32, device="cpu") / count)
    axis = torch.arange(resolution, dtype=torch.float32, device="cpu")
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    angles = grid[:, :, None] * frequencies
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(table, (0, channels - table.shape[1])).to(torch.get_default_device())


class StepEmbedder(nn.Module):
    """A number on the 0..1000 scale, (n,) -> (n, width). Keys mlp.0, mlp.2."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features_count = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def features(self, value: Tensor) -> Tensor:
        """(n,) -> (n, features) float32: cosines, then sines. The frequencies are float32 on purpose: near 1000 an ulp of one shows."""
        half = self.features_count // 2
        index = torch.arange(half, dtype=torch.float32, device=value.device)
        angles = value.float()[:, None] * torch.exp(-math.log(10000.0) * index / half)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, value: Tensor) -> Tensor:
        return self.mlp(self.features(value).to(self.mlp[0].weight.dtype))


class HeadNorm(nn.Module):
    """Each head's vector to length sqrt(D), times a learned gamma (heads, D); in float32."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        return (F.normalize(x.float(), dim=-1) * self.gamma.float() * x.shape[-1] ** 0.5).to(x.dtype)


class TwoStreamSelfAttention(nn.Module):
    """Streams (B, T, width) by name -> the same: the shape attends to itself, the pose to pose and shape; query and key heads are normed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = _streams(lambda: nn.Linear(width, 3 * width))
        self.q_rms_norm = _streams(lambda: HeadNorm(heads, width // heads))
        self.k_rms_norm = _streams(lambda: HeadNorm(heads, width // heads))
        self.to_out = _streams(lambda: nn.Linear(width, width))

    def forward(self, x: Mapping[str, Tensor]) -> Latents:
        q, k, v = {}, {}, {}
        for name, h in x.items():
            q[name], k[name], v[name] = self.to_qkv[name](h).unflatten(-1, (3, self.heads, -1)).unbind(2)
            q[name], k[name] = self.q_rms_norm[name](q[name]), self.k_rms_norm[name](k[name])
        shape = attend(q[SHAPE], k[SHAPE], v[SHAPE])
        pose = attend(q[POSE], torch.cat([k[POSE], k[SHAPE]], 1), torch.cat([v[POSE], v[SHAPE]], 1))
        return {SHAPE: self.to_out[SHAPE](shape), POSE: self.to_out[POSE](pose)}


class CrossAttention(nn.Module):
    """One stream, (B, T, width), over the context, (B, M, context width) -> (B, T, width); no norm of query and key."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(context, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.to_out(attend(q, k, v))


class FeedForward(nn.Module):
    """Tanh-approximated GELU between two layers: keys mlp.0, mlp.2."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class TwoStreamBlock(nn.Module):
    """Self attention, cross attention, feed-forward on both streams under one modulation."""

    def __init__(self, width: int, context: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = _streams(lambda: LayerNorm32(width, eps=1e-6))
        self.norm3 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.self_attn = TwoStreamSelfAttention(width, heads)
        self.cross_attn = _streams(lambda: CrossAttention(width, context, heads))
        self.mlp = _streams(lambda: FeedForward(width, mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Mapping[str, Tensor], embedding: Tensor, context: Tensor) -> Latents:
        """x: shape (B, N, width), pose (B, 4, width). embedding: (B or 1, width) of the time step. context: (B, M, context width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(embedding)[:, None].chunk(6, dim=-1)
        attended = self.self_attn({name: self.norm1(h) * (1 + scale1) + shift1 for name, h in x.items()})
        out = {}
        for name, h in x.items():
            h = h + gate1 * attended[name]
            h = h + self.cross_attn[name](self.norm2[name](h), context)
            out[name] = h + gate2 * self.mlp[name](self.norm3(h) * (1 + scale2) + shift2)
        return out


class LatentMapping(nn.Module):
    """One latent's way in and out: (B, T, channels) <-> (B, T, width)."""

    def __init__(self, channels: int, width: int, positions: Tensor | None = None) -> None:
        super().__init__()
        self.input_layer = nn.Linear(channels, width)
        self.out_layer = nn.Linear(width, channels)
        if positions is None:
            self.pos_emb = nn.Parameter(torch.zeros(1, width))
        else:  # fixed, yet in the state dict
            self.register_buffer("pos_emb", positions)

    def enter(self, latent: Tensor) -> Tensor:
        """Of any float dtype -> tokens in the weights' dtype, positions added."""
        return self.input_layer(latent.to(self.input_layer.weight.dtype)) + self.pos_emb

    def leave(self, hidden: Tensor) -> Tensor:
        """Normed without parameters, eps 1e-5, in float32, then projected in the dtype of `hidden`."""
        return self.out_layer(F.layer_norm(hidden.float(), hidden.shape[-1:], eps=1e-5).to(hidden.dtype))


class SparseStructureFlow(nn.Module):
    """The velocity field of stage 1: v(latents, t, d, context).

    Latents: shape (B, resolution^3, 8), token (i * r + j) * r + k for the cube's axes in order; 6drotation_normalized (B, 1, 6), translation
    and scale (B, 1, 3), translation_scale (B, 1, 1).
    """

    def __init__(
        self, width: int = 1024, context: int = 1024, blocks: int = 24, heads: int = 16, mlp_ratio: float = 4, resolution: int = 16
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.t_embedder = StepEmbedder(width)
        self.d_embedder = StepEmbedder(width)
        self.blocks = nn.ModuleList(TwoStreamBlock(width, context, heads, mlp_ratio) for _ in range(blocks))
        self.latent_mapping = nn.ModuleDict(
            {
                name: LatentMapping(SHAPE_CHANNELS, width, sincos_table(resolution, width))
                if name == SHAPE
                else LatentMapping(POSE_LATENTS[name], width)
                for name in LATENTS
            }
        )

    def embedding(self, t: Tensor, d: Tensor | None) -> Tensor:
        """t, d: (1,) on the 0..1000 scale -> (1, width). d = 0 is embedded too; only None is skipped."""
        embedded = self.t_embedder(t)
        return embedded if d is None else embedded + self.d_embedder(d)

    def enter(self, latents: Mapping[str, Tensor]) -> Latents:
        """Latents -> the two streams' tokens."""
        mapped = {name: self.latent_mapping[name].enter(latents[name]) for name in LATENTS}  # type: ignore[operator]
        return {SHAPE: mapped[SHAPE], POSE: torch.cat([mapped[name] for name in POSE_LATENTS], dim=1)}

    def leave(self, streams: Mapping[str, Tensor]) -> Latents:
        """The inverse of `enter`, for velocities."""
        parts = {SHAPE: streams[SHAPE]} | dict(zip(POSE_LATENTS, streams[POSE].split(1, dim=1)))
        return {name: self.latent_mapping[name].leave(parts[name]) for name in LATENTS}  # type: ignore[operator]

    def forward(self, latents: Mapping[str, Tensor], t: Tensor, d: Tensor | None, context: Tensor) -> Latents:
        """The plain twin: nothing cached. An unconditional call is one with `0 * context`."""
        embedding = self.embedding(t, d)
        streams = self.enter(latents)
        context = context.to(embedding.dtype)
        for block in self.blocks:
            streams = block(streams, embedding, context)
        return self.leave(streams)


def _streams(make: Callable[[], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({SHAPE: make(), POSE: make()})
