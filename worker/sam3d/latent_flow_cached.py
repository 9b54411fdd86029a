"""The network of latent_flow.py with everything that is constant computed once; the same numbers, less work (spec: stage2.md section 13).

What is exact and free: modulation as a table over the time grid; the context's keys and values once per object; key biases dropped and value biases
folded into the output's; an unconditional row's cross attention is one constant vector; guided steps as one batch of two passes, which share the input
blocks, the positions and the first self attention; in a block that goes back to the finer grid, norm, SiLU, skip and the first kernel's 27 products run
on the coarse rows, and each fine row sums its neighbours'. The transformer's residual stream is float32, everything else runs in the weights' dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.attention import fused_attention
from ..ops.fused import head_norm_, linear_gelu, residual_norm
from ..ops.packed_attention import Lengths, packed_attention
from ..ops.sparse_conv import submanifold_conv3
from ..ops.sparse_fused import gather_sum, norm_silu
from .latent_flow import LatentFlow, ModulatedBlock, SparseResBlock
from .sampler import SamplerOptions
from .sparse import SubmanifoldConv3, Voxels

NORM = 1e-6  # eps of every norm inside the blocks
LEAVE = 1e-5  # eps of the norm before the output layer


@dataclass(frozen=True)
class Fold:
    """Between a resolution of N rows and the next coarser one of M. Of two passes: both in one tensor, one after the other."""

    parents: Tensor  # int64 (N,): each row's coarse row
    beside: Tensor  # int32 (N, 27): the neighbours' coarse rows
    children: Tensor  # int32 (M, 8), -1 where there is none
    share: Tensor  # float32 (M,): 1 / (children + 1), which is what the weights were trained with

    @classmethod
    def of(cls, voxels: Voxels) -> Fold:
        near, parents = voxels.neighbours, voxels.parent
        x, y, z = (voxels.coords[:, 1:] % 2).long().unbind(1)
        children = voxels.coords.new_full((len(voxels.coarse), 8), -1)
        children[parents, 4 * x + 2 * y + z] = torch.arange(len(voxels), dtype=torch.int32, device=children.device)
        beside = torch.where(near < 0, -1, parents.int()[near.clamp(min=0).long()])
        return cls(parents, beside, children, 1 / (1 + (children >= 0).sum(1).float()))

    def twice(self) -> Fold:
        fine, coarse = len(self.parents), len(self.children)
        tables = _twice(self.parents, coarse), _twice(self.beside, coarse), _twice(self.children, fine)
        return Fold(*tables, torch.cat([self.share, self.share]))


class Grid:
    """What is constant for a set of voxels, of one object or several: the tables of each resolution, positions, and the objects' rows."""

    def __init__(self, voxels: Voxels, flow: LatentFlow) -> None:
        near, folds = [voxels.neighbours], []
        for _ in range(sum(block.resample == "down" for block in flow.input_blocks)):
            folds.append(Fold.of(voxels))
            voxels = voxels.coarse
            near.append(voxels.neighbours)
        self.single = near, folds  # finest first; near: int32 (N, 27)
        self.positions = voxels.positions(flow.width)
        self.objects = {passes: Lengths.of(voxels.counts * passes, voxels.coords.device) for passes in (1, 2)}  # the transformer's rows

    @cached_property
    def double(self) -> tuple[list[Tensor], list[Fold]]:
        """The tables for two passes."""
        near, folds = self.single
        return [_twice(table, len(table)) for table in near], [fold.twice() for fold in folds]


@dataclass(frozen=True)
class Context:
    """What is constant for the objects' tokens: each block's keys and values (B * L, 2, H, D), object by object."""

    blocks: list[Tensor]
    objects: Lengths


@dataclass(frozen=True)
class _Cross:
    """Cross attention's weights as they are used."""

    norm: tuple[Tensor, Tensor]  # multiplier and offset of norm2, float32
    to_kv: Tensor  # (2 C, context), no bias
    to_out: tuple[Tensor, Tensor]  # the value's bias folded in
    const: Tensor  # an unconditional row's result, float32 (C,)


class CachedLatentFlow:
    """Velocity of one object or several in one packed batch, at the steps of a fixed time grid.

    model: its weights are used as they are, except for the folded biases and the kernels of `_widening`, whose order is another. Once the table of
    a time grid is made, the weights behind it (`adaLN_modulation`, `emb_layers`, `t_embedder`: 154 M numbers) are not read any more.
    """

    def __init__(self, model: LatentFlow) -> None:
        self.model = model
        self.device = model.input_layer.weight.device
        self.dtype = model.torso
        self.heads = model.blocks[0].self_attn.heads  # type: ignore[union-attr]
        self.cross = [self._fold(block) for block in model.blocks]  # type: ignore[arg-type]
        self.gamma = [
            torch.stack([b.self_attn.q_rms_norm.gamma, b.self_attn.k_rms_norm.gamma]).float().contiguous()  # type: ignore[union-attr]
            for b in model.blocks
        ]
        self.conv_blocks: list[SparseResBlock] = [*model.input_blocks, *model.out_blocks]  # type: ignore[list-item]
        # A widening block's first kernel as 27 matrices of its coarse rows: (27 Cout, Cin).
        self._widening = {
            b: b.conv1.conv.weight.flatten(1, 3).transpose(0, 1).flatten(0, 1) for b in self.conv_blocks if b.resample == "up"
        }
        conv = [2 * block.conv1.conv.weight.shape[0] for block in self.conv_blocks]
        self._parts = [6 * model.width * len(model.blocks), *conv]  # of a row of the table

    @staticmethod
    def _fold(block: ModulatedBlock) -> _Cross:
        cross, norm = block.cross_attn, block.norm2
        v_bias = cross.to_kv.bias.chunk(2)[1].float()
        bias = cross.to_out.weight.float() @ v_bias + cross.to_out.bias.float()
        folded = cross.to_out.weight, bias.to(cross.to_out.weight.dtype)
        return _Cross((norm.weight.float(), norm.bias.float()), cross.to_kv.weight, folded, bias)

    # -- once

    def prepare(self, tokens: Tensor) -> Context:
        """Tokens (B, L, width) of any dtype, anywhere -> what every step will read."""
        objects = Lengths.of([tokens.shape[1]] * len(tokens), self.device)
        tokens = tokens.to(self.device, self.dtype).flatten(0, 1)
        return Context([F.linear(tokens, cross.to_kv).unflatten(-1, (2, self.heads, -1)) for cross in self.cross], objects)

    @property
    def modulation_size(self) -> int:
        """Of one row of the table."""
        return sum(self._parts)

    def modulation(self, options: SamplerOptions) -> Tensor:
        """The table for a time grid: one row for each step."""
        return self.modulation_at(1000.0 * options.times()[:-1])

    def modulation_at(self, times: Tensor) -> Tensor:
        """Times (n,) on the 0..1000 scale -> float32 (n, modulation_size).

        A row holds every block's six vectors (shift, 1 + scale and gate of the attention, then of the feed-forward), then 1 + scale and shift of each
        convolution block.
        """
        embedded = self.model.t_embedder(times.float().to(self.device)).to(self.dtype)  # float64 stays on the CPU: not every device has it
        blocks = torch.stack([block.adaLN_modulation(embedded) for block in self.model.blocks], dim=1).float()  # type: ignore[operator]
        blocks = blocks.unflatten(-1, (6, -1))
        blocks[:, :, (1, 4)] += 1
        conv = [block.emb_layers(embedded).float().unflatten(-1, (2, -1)) for block in self.conv_blocks]
        for part in conv:
            part[:, 0] += 1
        return torch.cat([part.flatten(1) for part in (blocks, *conv)], dim=1)

    # -- every step

    def velocity(self, x: Tensor, modulation: Tensor, context: Context, grid: Grid, *, guided: bool) -> tuple[Tensor, Tensor | None]:
        """x: float32 (N, 8). modulation: one row of the table. Returns the conditional velocity and, guided, the unconditional
        one, float32 (N, 8).
        """
        with fused_attention(self.device):
            passes = self._velocity(x, modulation, context, grid, guided)
        return passes[0], passes[1] if guided else None

    def _velocity(self, x: Tensor, modulation: Tensor, context: Context, grid: Grid, guided: bool) -> Tensor:
        blocks, *conv = modulation.split(self._parts)
        scales = {block: part.chunk(2) for block, part in zip(self.conv_blocks, conv)}
        near, folds = grid.single
        depth, skips = 0, []
        h = _linear32(x, self.model.input_layer).to(self.dtype)
        for block in self.model.input_blocks:
            if block.resample == "down":
                h = gather_sum(h[:, None].expand(-1, 8, -1), folds[depth].children, weight=folds[depth].share)
                depth += 1
            h = self._convolve(block, h, *scales[block], near[depth])  # type: ignore[arg-type, misc]
            skips.append(h)
        h = self._transform(h, blocks.view(len(self.cross), 6, -1), context, grid, guided)
        near, folds = grid.double if guided else grid.single
        for block in self.model.out_blocks:
            skip = skips.pop()
            h = torch.cat([h, torch.cat([skip, skip]) if guided else skip], dim=-1)
            depth -= block.resample == "up"
            fold = folds[depth] if block.resample == "up" else None
            h = self._convolve(block, h, *scales[block], near[depth], fold)  # type: ignore[arg-type, misc]
        h = _linear32(F.layer_norm(h.float(), h.shape[-1:], eps=LEAVE), self.model.out_layer)
        return h.unflatten(0, (2 if guided else 1, -1))

    def _convolve(self, block: SparseResBlock, x: Tensor, mult: Tensor, add: Tensor, near: Tensor, up: Fold | None = None) -> Tensor:
        """A residual block after what makes the grid coarser. up: x is on the coarse rows of it, the result on the fine ones."""
        h = norm_silu(x, block.norm1.weight, block.norm1.bias, eps=NORM)
        x = block.skip_connection(x)
        if up is None:
            h = _convolution(block.conv1, h, near)
        else:  # what works row by row may as well come before the rows are copied
            products = F.linear(h, self._widening[block]).unflatten(-1, (27, -1))
            h, x = gather_sum(products, up.beside, bias=block.conv1.conv.bias), x[up.parents]
        return _convolution(block.conv2, norm_silu(h, mult, add, eps=NORM), near) + x

    def _transform(self, h: Tensor, modulation: Tensor, context: Context, grid: Grid, guided: bool) -> Tensor:
        """Positions and all blocks: (M, width) -> the same or, guided, (2 M, width), the unconditional rows last. modulation: (blocks, 6, width)."""
        count = len(h)
        rows = [row.unbind(0) for row in modulation.unbind(0)]  # shift 1, 1 + scale 1, gate 1, then the same for 2
        x = h.float() + grid.positions
        h = residual_norm(x, None, None, rows[0][1], rows[0][0], eps=NORM, dtype=self.dtype)
        for index, (_, _, gate1, shift2, scale2, gate2) in enumerate(rows):
            update = self._attend(index, h, grid.objects[len(x) // count])
            if guided and index == 0:
                x, update = torch.cat([x, x]), torch.cat([update, update])
            h = torch.empty(x.shape, dtype=self.dtype, device=x.device)
            crossed = self._cross(index, x[:count], update[:count], gate1, context, grid)
            residual_norm(x[:count], crossed, None, scale2, shift2, eps=NORM, dtype=self.dtype, out=h[:count])
            if guided:
                free = self.cross[index].const
                residual_norm(x[count:], update[count:], gate1, scale2, shift2, const=free, eps=NORM, dtype=self.dtype, out=h[count:])
            mlp = self.model.blocks[index].mlp.mlp  # type: ignore[union-attr]
            update = F.linear(linear_gelu(h, mlp[0].weight, mlp[0].bias), mlp[2].weight, mlp[2].bias)  # type: ignore[index, arg-type]
            if index + 1 < len(rows):
                h = residual_norm(x, update, gate2, rows[index + 1][1], rows[index + 1][0], eps=NORM, dtype=self.dtype)
        return (x + gate2 * update).to(self.dtype)

    def _attend(self, index: int, h: Tensor, objects: Lengths) -> Tensor:
        """Self attention, each object's rows of each pass by themselves: (rows, width) -> the same."""
        attention = self.model.blocks[index].self_attn
        qkv = attention.to_qkv(h).unflatten(-1, (3, self.heads, -1))  # type: ignore[operator, union-attr]
        return attention.to_out(packed_attention(*head_norm_(qkv, self.gamma[index]).unbind(1), objects, objects))  # type: ignore[operator, union-attr]

    def _cross(self, index: int, x: Tensor, update: Tensor, gate: Tensor, context: Context, grid: Grid) -> Tensor:
        """Cross attention of the conditional rows after the self attention's `update`, which goes into x in place."""
        cross, to_q = self.cross[index], self.model.blocks[index].cross_attn.to_q  # type: ignore[union-attr]
        h = residual_norm(x, update, gate, *cross.norm, eps=NORM, dtype=self.dtype)
        q = to_q(h).unflatten(-1, (self.heads, -1))  # type: ignore[operator]
        return F.linear(packed_attention(q, *context.blocks[index].unbind(1), grid.objects[1], context.objects), *cross.to_out)


def _convolution(layer: SubmanifoldConv3, x: Tensor, near: Tensor) -> Tensor:
    """Without coordinates, so never by spconv, even if it is asked for: it waits for the GPU, which a graph that is being captured can't."""
    return submanifold_conv3(x, near, layer.conv.weight, layer.conv.bias)


def _linear32(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    return F.linear(x, layer.weight.float(), layer.bias.float())


def _twice(table: Tensor, size: int) -> Tensor:
    """Rows of the first pass, then of the second, which reads `size` rows further on."""
    return torch.cat([table, torch.where(table < 0, table, table + size)])
