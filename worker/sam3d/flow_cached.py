"""The flow transformer of flow.py with everything that is constant computed once; the same numbers, less work (spec: stage1.md section 12).

What is exact and free: the context's keys and values once per object; key biases dropped and value biases folded into the output's; an
unconditional row's cross attention is one constant vector; modulation as a table over the time grid; guided steps as one batch whose first block
is shared up to the cross attention; the pose's four queries pooled over the context itself instead of over projected keys. The residual streams are float32,
the products run in the weights' dtype. In a graph the pose stream runs on a side stream: the shape never waits for it.

Objects don't notice each other: where a library's kernel would change its order of summation with their number, they go one by one. Elsewhere the
kernels were seen to give the same bits for any number (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.attention import attend, fused_attention
from ..ops.fused import head_norm_, linear_gelu, residual_norm
from ..ops.streams import stream
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
    heads_kv: tuple[Tensor, Tensor]  # the same, by head: key (H, D, context), value (H, context, D)
    to_out: tuple[Tensor, Tensor]  # the value's bias folded in
    const: Tensor  # an unconditional row's result, float32 (C,)


@dataclass(frozen=True)
class _Layers:
    """The other layers of a block's stream, (weight, bias) each. (Looked up in the modules, they cost the host as much as some launches.)"""

    qkv: tuple[Tensor, Tensor]  # the weight transposed, a view
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Modulation:
    """One block's share of a row of the modulation table; every tensor float32 (C,)."""

    gate1: Tensor  # of the self attention
    norm3: tuple[Tensor, Tensor]  # multiplier and offset before the feed-forward
    gate2: Tensor  # of the feed-forward
    after: tuple[Tensor | None, Tensor | None]  # multiplier and offset of the norm that makes the next block's input; none after the last
    eps: float  # of that norm


class CachedFlow:
    """Velocity of B objects at a time, at the steps of a fixed time grid.

    model: its weights, of one dtype, are used as they are, except for the folded biases and the pose's queries. long: `attend` or its equal, for
    the shape's attention.
    """

    def __init__(self, model: SparseStructureFlow, long: Callable[[Tensor, Tensor, Tensor], Tensor] = attend) -> None:
        self.model, self.long = model, long
        self.device = model.t_embedder.mlp[0].weight.device
        self.dtype = model.blocks[0].self_attn.to_out[SHAPE].weight.dtype
        self.heads = model.blocks[0].self_attn.heads
        self.cross = [{name: self._fold(block, name) for name in (SHAPE, POSE)} for block in model.blocks]
        self.layers = [{name: self._of(block, name) for name in (SHAPE, POSE)} for block in model.blocks]
        self.gamma = [
            {
                name: torch.stack([b.self_attn.q_rms_norm[name].gamma, b.self_attn.k_rms_norm[name].gamma]).float().contiguous()
                for name in (SHAPE, POSE)
            }
            for b in model.blocks
        ]

    @staticmethod
    def _fold(block: torch.nn.Module, name: str) -> _Cross:
        cross, norm = block.cross_attn[name], block.norm2[name]  # type: ignore[index]
        v_bias = cross.to_kv.bias.chunk(2)[1].float()
        bias = cross.to_out.weight.float() @ v_bias + cross.to_out.bias.float()
        to_k, to_v = cross.to_kv.weight.unflatten(0, (2, cross.heads, -1)).unbind(0)
        # The pose's scores are computed by hand: the softmax scale goes into its queries (exact for a head width of 64: a power of two).
        scale = (cross.to_q.out_features // cross.heads) ** -0.5 if name == POSE else 1.0
        return _Cross(
            norm=(norm.weight.float(), norm.bias.float()),
            to_q=(cross.to_q.weight * scale, cross.to_q.bias * scale) if name == POSE else (cross.to_q.weight, cross.to_q.bias),
            to_kv=cross.to_kv.weight,
            heads_kv=(to_k, to_v.mT),
            to_out=(cross.to_out.weight, bias.to(cross.to_out.weight.dtype)),
            const=bias,
        )

    @staticmethod
    def _of(block: torch.nn.Module, name: str) -> _Layers:
        attention, mlp = block.self_attn, block.mlp[name].mlp  # type: ignore[index]
        weight, bias = _wb(attention.to_qkv[name])
        return _Layers((weight.t(), bias), _wb(attention.to_out[name]), _wb(mlp[0]), _wb(mlp[2]))

    # -- once

    def prepare(self, tokens: Tensor, into: Context | None = None) -> Context:
        """tokens (B, M, C) of any dtype, anywhere -> what every step will read; `into`: an earlier one of the same size, overwritten."""
        # A copy of our own: a later picture overwrites it.
        tokens = tokens.to(self.device, self.dtype, copy=into is None)
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
        """The table for a time grid: one row, (blocks, 6, C) float32, for each step."""
        return self.modulation_at(1000.0 * options.times()[:-1], options.step_size)

    def modulation_at(self, times: Tensor, step: float) -> Tensor:
        """times (n,) and the step size on the 0..1000 scale -> (n, blocks, 6, C) float32.

        In each block shift, 1 + scale and gate of the attention, then of the feed-forward.
        """
        t = times.float().to(self.device)  # float64 stays on the CPU: not every device has it
        embedded = self.model.embedding(t, torch.full((1,), step, device=self.device))
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
        with fused_attention(self.device):
            return self._velocity(latents, modulation, context, guided)

    def _velocity(
        self, latents: Mapping[str, Tensor], modulation: Tensor, context: Context, guided: bool
    ) -> tuple[Latents, Latents | None]:
        shape, pose = self._enter(latents)
        count = len(shape)
        first, blocks = self._unpack(modulation)
        h = residual_norm(shape, None, None, *first, eps=NORM, dtype=self.dtype)
        g = residual_norm(pose, None, None, *first, eps=NORM, dtype=self.dtype)
        entered = pose, g  # alive until the end: the side stream reads them after the names have moved on
        for index, mod in enumerate(blocks):
            # The shape's tokens, then the pose's: one attends to the first part, the other to all of it, and nothing is copied together.
            qkv = torch.empty(len(h), h.shape[1] + g.shape[1], 3, self.heads, h.shape[2] // self.heads, dtype=self.dtype, device=h.device)
            own = self._qkv(index, SHAPE, h, qkv[:, : h.shape[1]])
            with self._aside():
                update = self._pose_attention(index, g, qkv)
                pose, update = _double(pose, update, guided and index == 0)
                g = self._rest(index, POSE, pose, update, context, count, mod)
            update = F.linear(self.long(*own.unbind(2)), *self.layers[index][SHAPE].out)
            shape, update = _double(shape, update, guided and index == 0)
            h = self._rest(index, SHAPE, shape, update, context, count, mod)
            self._join()
        del entered
        conditional = self._leave(h[:count], g[:count])
        return conditional, self._leave(h[count:], g[count:]) if guided else None

    @staticmethod
    def _unpack(modulation: Tensor) -> tuple[tuple[Tensor, Tensor], list[_Modulation]]:
        """A row of the table -> multiplier and offset of the first block's input, and each block's part."""
        rows = [row.unbind(0) for row in modulation.unbind(0)]  # shift 1, 1 + scale 1, gate 1, then the same for 2
        entries: list[tuple[Tensor | None, Tensor | None]] = [(row[1], row[0]) for row in rows]
        after = [*((mult, add, NORM) for mult, add in entries[1:]), (None, None, LEAVE)]
        blocks = [_Modulation(row[2], (row[4], row[3]), row[5], (mult, add), eps) for row, (mult, add, eps) in zip(rows, after)]
        return (rows[0][1], rows[0][0]), blocks

    def _rest(self, index: int, name: str, x: Tensor, update: Tensor, context: Context, count: int, mod: _Modulation) -> Tensor:
        """A block of one stream after its self attention (`update`). x is updated in place; returns the next block's input.

        Rows up to `count` are conditional and attend to the context; for the others that attention is a constant.
        """
        cross, layers = self.cross[index][name], self.layers[index][name]
        normed = residual_norm(x[:count], update[:count], mod.gate1, *cross.norm, eps=NORM, dtype=self.dtype)
        q = F.linear(normed, *cross.to_q).view(*normed.shape[:2], self.heads, -1)
        crossed = self.long(q, *context.shape[index].unbind(2)) if name == SHAPE else self._pool(q, *cross.heads_kv, context.tokens)
        h = torch.empty(x.shape, dtype=self.dtype, device=x.device)
        residual_norm(x[:count], F.linear(crossed, *cross.to_out), None, *mod.norm3, eps=NORM, dtype=self.dtype, out=h[:count])
        if len(x) > count:
            free = cross.const
            residual_norm(x[count:], update[count:], mod.gate1, *mod.norm3, const=free, eps=NORM, dtype=self.dtype, out=h[count:])
        update = F.linear(linear_gelu(h, *layers.up), *layers.down)
        return residual_norm(x, update, mod.gate2, *mod.after, eps=mod.eps, dtype=self.dtype)

    def _qkv(self, index: int, name: str, h: Tensor, into: Tensor) -> Tensor:
        """Query, key and value of a stream's tokens (B, T, C), heads normed, into (B, T, 3, H, D), a part of each row of a larger tensor."""
        weight, bias = self.layers[index][name].qkv
        for row, place in zip(h, into):  # a row of the shape fills the chip
            torch.addmm(bias, row, weight, out=place.view(len(row), -1))
        return head_norm_(into, self.gamma[index][name])

    def _pose_attention(self, index: int, g: Tensor, qkv: Tensor) -> Tensor:
        """The pose's tokens over shape and pose: (B, 4, C). qkv: of both, the pose's last and still to be filled in."""
        q = self._qkv(index, POSE, g, qkv[:, -g.shape[1] :])[:, :, 0]
        return F.linear(attend(q, *qkv[:, :, 1:].unbind(2)), *self.layers[index][POSE].out)

    def _pool(self, q: Tensor, to_k: Tensor, to_v: Tensor, tokens: Tensor) -> Tensor:
        """softmax(q (K c)^T) (V c) as (softmax((q K) c^T) c) V: the projections are applied to 4 queries, not to M tokens.

        q: (B, 4, H, D), the softmax's scale in it. to_k: (H, D, C). to_v: (H, C, D). tokens: (B, M, C). Returns (B, 4, H * D).
        """
        count, queries = q.shape[:2]
        asked = (q.flatten(0, 1).transpose(0, 1) @ to_k).view(self.heads, count, queries, -1).transpose(0, 1).flatten(1, 2)
        weights = (asked @ tokens.mT).softmax(-1)  # (B, H * 4, M)
        # One by one: a single object's sum over M is split between multiprocessors, that of several isn't.
        pooled = torch.cat([w @ t for w, t in zip(weights.split(1), tokens.split(1))]) if count > 1 else weights @ tokens  # (B, H * 4, C)
        pooled = pooled.view(count, self.heads, queries, -1).transpose(0, 1).flatten(1, 2)
        return (pooled @ to_v).transpose(0, 1).reshape(count, queries, -1)

    # -- latents in and out, in float32

    def _enter(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mapped = {}
        for name in LATENTS:
            mapping = self.model.latent_mapping[name]
            mapped[name] = _linear32(latents[name], mapping.input_layer) + mapping.pos_emb.float()
        return mapped[SHAPE].contiguous(), torch.cat([mapped[name] for name in POSE_LATENTS], dim=1)

    def _leave(self, h: Tensor, g: Tensor) -> Latents:
        parts = {SHAPE: h} | dict(zip(POSE_LATENTS, g.split(1, dim=1)))
        return {name: _linear32(parts[name], self.model.latent_mapping[name].out_layer) for name in LATENTS}

    # -- two streams in a graph

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """While a graph is captured: what is launched inside follows all that was launched before, and runs beside what is launched after, until `_join`.

        Launched one by one it would gain nothing: then the host is the bound, and each change of stream is some more launches.
        """
        if not self._capturing():
            yield
            return
        side = stream(self.device, "side")
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            yield

    def _join(self) -> None:
        if self._capturing():
            torch.cuda.current_stream(self.device).wait_stream(stream(self.device, "side"))

    def _capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _wb(layer: torch.nn.Module) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias  # type: ignore[return-value]


def _linear32(x: Tensor, layer: torch.nn.Module) -> Tensor:
    """x (B, T, channels) of any float dtype, through a layer in float32; one object after another, since products this thin round by their number."""
    weight, bias = (value.float() for value in _wb(layer))
    return torch.cat([F.linear(row, weight, bias) for row in x.float().split(1)])


def _double(x: Tensor, update: Tensor, really: bool) -> tuple[Tensor, Tensor]:
    """The guided batch: conditional rows, then the same rows once more for the unconditional pass."""
    return (torch.cat([x, x]), torch.cat([update, update])) if really else (x, update)
