"""The flow transformer of flow.py with everything that is constant computed once; the same numbers, less work (spec: stage1.md section 12).

What is exact and free: the context's keys and values once per object; key biases dropped and value biases folded into the output's; an
unconditional row's cross attention is one constant vector; modulation as a table over the time grid; guided steps as one batch whose first block
is shared up to the cross attention; the pose's four queries pooled over the context itself instead of over projected keys. The residual streams are float32,
the products run in the weights' dtype. The pose stream runs on a side stream where there is one: the shape never waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.attention import attend, fused_attention
from ..ops.fused import head_norm_, linear_gelu, residual_norm
from .flow import LATENTS, POSE, POSE_LATENTS, SHAPE, Latents, SparseStructureFlow
from .sampler import SamplerOptions

NORM = 1e-6  # eps of every norm inside the blocks
LEAVE = 1e-5  # eps of the norm before the output layers


@dataclass(frozen=True)
class Context:
    """What is constant for a picture's objects: tokens (B, M, C), and for each block the shape stream's keys and values (B, M, 2, H, D)."""

    tokens: Tensor
    shape: list[Tensor]


@dataclass(frozen=True)
class _Cross:
    """Cross attention's weights as they are used."""

    norm: tuple[Tensor, Tensor]  # multiplier and offset of norm2, float32
    to_q: tuple[Tensor, Tensor]
    to_kv: Tensor  # (2 C, context), no bias
    to_out: tuple[Tensor, Tensor]  # the value's bias folded in
    const: Tensor  # an unconditional row's result, float32 (C,)


class CachedFlow:
    """Velocity of B objects at a time, at the steps of a fixed time grid."""

    def __init__(self, model: SparseStructureFlow) -> None:
        self.model = model
        self.dtype = model.blocks[0].self_attn.to_out[SHAPE].weight.dtype
        self.heads = model.blocks[0].self_attn.heads
        self.cross = [{name: self._fold(block, name) for name in (SHAPE, POSE)} for block in model.blocks]
        self.gamma = [
            {
                name: torch.stack([b.self_attn.q_rms_norm[name].gamma, b.self_attn.k_rms_norm[name].gamma]).float().contiguous()
                for name in (SHAPE, POSE)
            }
            for b in model.blocks
        ]
        self._side: torch.cuda.Stream | None = None

    @staticmethod
    def _fold(block: torch.nn.Module, name: str) -> _Cross:
        cross, norm = block.cross_attn[name], block.norm2[name]  # type: ignore[index]
        v_bias = cross.to_kv.bias.chunk(2)[1].float()
        bias = cross.to_out.weight.float() @ v_bias + cross.to_out.bias.float()
        # The pose's scores are computed by hand: the softmax scale goes into its queries (exact for a head width of 64: a power of two).
        scale = (cross.to_q.out_features // cross.heads) ** -0.5 if name == POSE else 1.0
        return _Cross(
            norm=(norm.weight.float(), norm.bias.float()),
            to_q=(cross.to_q.weight * scale, cross.to_q.bias * scale) if name == POSE else (cross.to_q.weight, cross.to_q.bias),
            to_kv=cross.to_kv.weight,
            to_out=(cross.to_out.weight, bias.to(cross.to_out.weight.dtype)),
            const=bias,
        )

    # -- once

    def prepare(self, tokens: Tensor, into: Context | None = None) -> Context:
        """tokens (B, M, C) of any dtype -> what every step will read; `into`: an earlier one of the same size, overwritten."""
        tokens = tokens.to(self.dtype)
        if into is None:
            return Context(tokens, [self._keys_values(tokens, cross) for cross in self.cross])
        into.tokens.copy_(tokens)
        for cross, buffer in zip(self.cross, into.shape):
            buffer.copy_(self._keys_values(tokens, cross))
        return into

    def _keys_values(self, tokens: Tensor, cross: Mapping[str, _Cross]) -> Tensor:
        return F.linear(tokens, cross[SHAPE].to_kv).unflatten(-1, (2, self.heads, -1))

    def modulation_shape(self) -> tuple[int, int, int]:
        """Of one row of the table."""
        return len(self.cross), 6, len(self.cross[0][SHAPE].const)

    def modulation(self, options: SamplerOptions) -> Tensor:
        """(steps, blocks, 6, C) float32: for each step and block shift, 1 + scale, gate of the attention, then of the feed-forward."""
        device = self.model.t_embedder.mlp[0].weight.device
        times = (1000.0 * options.times()[:-1]).float().to(device)
        step = torch.full((1,), options.step_size, device=device)
        embedded = self.model.embedding(times, step)
        table = torch.stack([block.adaLN_modulation(embedded) for block in self.model.blocks], dim=1).float()
        table = table.unflatten(-1, (6, -1)).contiguous()
        table[:, :, (1, 4)] += 1
        return table

    # -- every step

    def velocity(
        self, latents: Mapping[str, Tensor], modulation: Tensor, context: Context, *, guided: bool
    ) -> tuple[Latents, Latents | None]:
        """latents: float32, B objects. modulation: (blocks, 6, C), one row of the table. Returns the conditional velocity and, guided, the
        unconditional one, both float32.
        """
        with fused_attention(next(iter(latents.values())).device):
            return self._velocity(latents, modulation, context, guided)

    def _velocity(
        self, latents: Mapping[str, Tensor], modulation: Tensor, context: Context, guided: bool
    ) -> tuple[Latents, Latents | None]:
        shape, pose = self._enter(latents)
        count, blocks = len(shape), list(self.model.blocks)
        mods = [m.unbind(0) for m in modulation.unbind(0)]
        h = residual_norm(shape, None, None, mods[0][1], mods[0][0], eps=NORM, dtype=self.dtype)
        g = residual_norm(pose, None, None, mods[0][1], mods[0][0], eps=NORM, dtype=self.dtype)
        entered = pose, g  # alive until the end: the side stream reads them after the names have moved on
        for index, block in enumerate(blocks):
            after = (mods[index + 1][1], mods[index + 1][0], NORM) if index + 1 < len(blocks) else (None, None, LEAVE)
            gates = (mods[index][2], mods[index][5])
            norm3 = (mods[index][4], mods[index][3])
            qkv = self._qkv(index, SHAPE, h)
            with _Aside(self, shape.device):
                update = self._pose_attention(index, g, qkv)
                pose, update = _double(pose, update, guided and index == 0)
                g = self._pose_rest(index, pose, update, context, count, gates, norm3, after)
            update = F.linear(attend(*qkv.unbind(2)), *_wb(block.self_attn.to_out[SHAPE]))
            shape, update = _double(shape, update, guided and index == 0)
            h = self._shape_rest(index, shape, update, context, count, gates, norm3, after)
            self._join(shape.device)
        del entered
        conditional = self._leave(h[:count], g[:count])
        return conditional, self._leave(h[count:], g[count:]) if guided else None

    def _shape_rest(self, index, x, update, context, count, gates, norm3, after) -> Tensor:  # type: ignore[no-untyped-def]
        """Cross attention and feed-forward of the shape stream; x is updated in place, the next block's input returned."""
        cross, mlp = self.cross[index][SHAPE], self.model.blocks[index].mlp[SHAPE].mlp
        h = torch.empty(x.shape, dtype=self.dtype, device=x.device)
        normed = residual_norm(x[:count], update[:count], gates[0], *cross.norm, eps=NORM, dtype=self.dtype)
        q = F.linear(normed, *cross.to_q).unflatten(-1, (self.heads, -1))
        crossed = F.linear(attend(q, *context.shape[index].unbind(2)), *cross.to_out)
        h[:count] = residual_norm(x[:count], crossed, None, *norm3, eps=NORM, dtype=self.dtype)
        if len(x) > count:
            h[count:] = residual_norm(x[count:], update[count:], gates[0], *norm3, const=cross.const, eps=NORM, dtype=self.dtype)
        update = F.linear(linear_gelu(h, *_wb(mlp[0])), *_wb(mlp[2]))
        return residual_norm(x, update, gates[1], *after[:2], eps=after[2], dtype=self.dtype)

    def _pose_rest(self, index, x, update, context, count, gates, norm3, after) -> Tensor:  # type: ignore[no-untyped-def]
        """The same for the pose stream, whose few queries pool the context tokens themselves."""
        cross, mlp = self.cross[index][POSE], self.model.blocks[index].mlp[POSE].mlp
        normed = residual_norm(x[:count], update[:count], gates[0], *cross.norm, eps=NORM, dtype=self.dtype)
        crossed = F.linear(self._pool(normed, cross, context.tokens), *cross.to_out)
        parts = [residual_norm(x[:count], crossed, None, *norm3, eps=NORM, dtype=self.dtype)]
        if len(x) > count:
            parts.append(residual_norm(x[count:], update[count:], gates[0], *norm3, const=cross.const, eps=NORM, dtype=self.dtype))
        update = F.linear(linear_gelu(torch.cat(parts), *_wb(mlp[0])), *_wb(mlp[2]))
        return residual_norm(x, update, gates[1], *after[:2], eps=after[2], dtype=self.dtype)

    def _qkv(self, index: int, name: str, h: Tensor) -> Tensor:
        qkv = F.linear(h, *_wb(self.model.blocks[index].self_attn.to_qkv[name])).unflatten(-1, (3, self.heads, -1))
        return head_norm_(qkv, self.gamma[index][name])

    def _pose_attention(self, index: int, g: Tensor, shape_qkv: Tensor) -> Tensor:
        """The pose's tokens over pose and shape: (B, 4, C)."""
        qkv = self._qkv(index, POSE, g)
        keys_values = torch.cat([qkv[:, :, 1:], shape_qkv[:, :, 1:]], dim=1)
        return F.linear(attend(qkv[:, :, 0], *keys_values.unbind(2)), *_wb(self.model.blocks[index].self_attn.to_out[POSE]))

    def _pool(self, normed: Tensor, cross: _Cross, tokens: Tensor) -> Tensor:
        """softmax(q (K c)^T) (V c) as (softmax((q K) c^T) c) V: the projections are applied to 4 queries, not to M tokens. (B, 4, C)"""
        to_k, to_v = cross.to_kv.unflatten(0, (2, self.heads, -1)).unbind(0)  # (H, D, context) each
        count, queries, _ = normed.shape
        q = F.linear(normed, *cross.to_q).view(count * queries, self.heads, -1).transpose(0, 1)
        asked = (q @ to_k).view(self.heads, count, queries, -1).transpose(0, 1).flatten(1, 2)  # (B, H * 4, context)
        pooled = (asked @ tokens.mT).softmax(-1) @ tokens
        pooled = pooled.view(count, self.heads, queries, -1).transpose(0, 1).flatten(1, 2)
        return (pooled @ to_v.mT).transpose(0, 1).reshape(count, queries, -1)

    # -- latents in and out, in float32

    def _enter(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mapped = {}
        for name in LATENTS:
            mapping = self.model.latent_mapping[name]
            layer = mapping.input_layer
            mapped[name] = F.linear(latents[name], layer.weight.float(), layer.bias.float()) + mapping.pos_emb.float()
        return mapped[SHAPE].contiguous(), torch.cat([mapped[name] for name in POSE_LATENTS], dim=1)

    def _leave(self, h: Tensor, g: Tensor) -> Latents:
        parts = {SHAPE: h} | dict(zip(POSE_LATENTS, g.split(1, dim=1)))
        out = {}
        for name in LATENTS:
            layer = self.model.latent_mapping[name].out_layer
            out[name] = F.linear(parts[name].float(), layer.weight.float(), layer.bias.float())
        return out

    # -- two streams on a device that has them

    def _join(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.current_stream(device).wait_stream(self._side)


class _Aside:
    """Run a block on the side stream, after what the current one has queued so far; elsewhere, just run it."""

    def __init__(self, flow: CachedFlow, device: torch.device) -> None:
        self._streams = None
        if device.type == "cuda":
            if flow._side is None:
                flow._side = torch.cuda.Stream(device)
            flow._side.wait_stream(torch.cuda.current_stream(device))
            self._streams = torch.cuda.stream(flow._side)

    def __enter__(self) -> None:
        if self._streams is not None:
            self._streams.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._streams is not None:
            self._streams.__exit__(*error)


def _wb(layer: torch.nn.Module) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias  # type: ignore[return-value]


def _double(x: Tensor, update: Tensor, really: bool) -> tuple[Tensor, Tensor]:
    """The guided batch: conditional rows, then the same rows once more for the unconditional pass."""
    return (torch.cat([x, x]), torch.cat([update, update])) if really else (x, update)
