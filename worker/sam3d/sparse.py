"""Voxels, what is derived from them, and the layers on them that both networks of stage 2 share (spec: stage2.md sections 2 and 3.2).

Features are plain tensors (N, C) beside a `Voxels` of N rows. A batch packs several objects: rows (b, x, y, z), those of an object together.
Kernels are stored as spconv has them, (out, kx, ky, kz, in).
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import attend
from ..ops.group_norm import group_norm
from ..ops.neighbours import CHILDREN, child_table, linear_keys, neighbour_table
from ..ops.sparse_conv import subdivided_conv3, submanifold_conv3
from ..ops.window_attention import Groups, group_rows, grouped_attention, window_ids
from .flow import CrossAttention, FeedForward
from .layers import LayerNorm32


class Voxels:
    """A coordinate set; neighbours, windows, the coarser and the finer grid are each made when first asked for, and kept.

    coords: int32 (N, 4), rows (batch, x, y, z), all different, none negative, the batch column ascending. batch: the number of objects,
    where the last ones may have no voxel; None takes it from the rows (1 where there are none).
    """

    def __init__(self, coords: Tensor, batch: int | None = None) -> None:
        objects = coords[:, 0].long()
        counts: list[int] = torch.bincount(objects, minlength=batch or 1).tolist()
        if (objects.diff() < 0).any() or (batch is not None and len(counts) > batch):
            raise ValueError("voxels of a batch must stand object by object")
        self._set(coords, counts, None)

    def _set(self, coords: Tensor, counts: list[int], split: tuple[Tensor, int] | None) -> Voxels:
        self.coords, self.counts, self._split = coords, counts, split
        self._groups: dict[tuple[int, int], Groups] = {}
        self._positions: dict[int, Tensor] = {}
        return self

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def objects(self) -> Tensor:
        """int64 (N,): each row's object."""
        return self.coords[:, 0].long()

    @property
    def batch(self) -> int:
        return len(self.counts)

    @cached_property
    def slices(self) -> list[slice]:
        """Each object's rows."""
        ends = torch.tensor(self.counts).cumsum(0).tolist()
        return [slice(end - count, end) for end, count in zip(ends, self.counts)]

    @cached_property
    def neighbours(self) -> Tensor:
        """int32 (N, 27), see `neighbour_table`."""
        if self._split is None:
            return neighbour_table(self.coords)
        table, levels = self._split
        for _ in range(levels):
            table = child_table(table)
        return table

    @property
    def table(self) -> tuple[Tensor, int]:
        """What a convolution needs: a neighbour table, and how often its set was split to get to this one."""
        return self._split or (self.neighbours, 0)

    @cached_property
    def _halved(self) -> tuple[Voxels, Tensor]:
        coarse = self.coords.div(self.coords.new_tensor([1, 2, 2, 2]), rounding_mode="floor")
        side = int(coarse[:, 1:].max()) + 1 if len(coarse) else 1
        keys, parent = torch.unique(linear_keys(coarse, side), return_inverse=True)
        digits = [keys // side**3, keys // side**2 % side, keys // side % side, keys % side]
        return Voxels(torch.stack(digits, dim=1).int(), self.batch), parent

    @property
    def coarse(self) -> Voxels:
        """The grid of half the resolution: cells that hold a voxel, in lexicographic order."""
        return self._halved[0]

    @property
    def parent(self) -> Tensor:
        """int64 (N,): each voxel's row in `coarse`."""
        return self._halved[1]

    @cached_property
    def fine(self) -> Voxels:
        """The grid of twice the resolution: every voxel as 8 rows one after another, z fastest. Its neighbours come by arithmetic."""
        child = torch.tensor([(0, *c) for c in CHILDREN], dtype=torch.int32, device=self.coords.device)
        double = self.coords * self.coords.new_tensor([1, 2, 2, 2])
        table, levels = self.table
        coords = (double[:, None] + child).flatten(0, 1)
        return Voxels.__new__(Voxels)._set(coords, [len(child) * count for count in self.counts], (table, levels + 1))

    def windows(self, size: int, shift: int) -> Groups:
        """The partition into cubes of `size`^3, moved by `shift`."""
        if (size, shift) not in self._groups:
            self._groups[size, shift] = group_rows(window_ids(self.coords, size, shift))
        return self._groups[size, shift]

    @cached_property
    def whole(self) -> Groups:
        """The partition into objects."""
        return group_rows(self.objects)

    def spread(self, values: Tensor) -> Tensor:
        """(1 or B, C), one row for each object -> what broadcasts against (N, C)."""
        return values if len(values) == 1 else values[self.objects]

    def positions(self, channels: int) -> Tensor:
        """The fixed position embedding, float32 (N, channels): per axis sines then cosines, zero-padded at the end (2.8)."""
        if channels not in self._positions:
            count = channels // 6
            index = torch.arange(count, dtype=torch.float32, device=self.coords.device)
            angles = self.coords[:, 1:, None].float() * (1.0 / 10000 ** (index / count))
            table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
            self._positions[channels] = F.pad(table, (0, channels - table.shape[1]))
        return self._positions[channels]


def pool(x: Tensor, voxels: Voxels) -> Tensor:
    """(N, C) -> (M, C) on the coarse grid: the children's sum over their number *plus one*, which is what the weights were trained with (2.6)."""
    sums = torch.zeros(len(voxels.coarse), x.shape[1], device=x.device).index_add_(0, voxels.parent, x.float())
    children = torch.bincount(voxels.parent, minlength=len(voxels.coarse))
    return (sums / (children + 1)[:, None]).to(x.dtype)


def unpool(x: Tensor, voxels: Voxels) -> Tensor:
    """(M, C) on the coarse grid -> (N, C), each voxel with its parent's features."""
    return x[voxels.parent]


def subdivide(x: Tensor) -> Tensor:
    """(N, C) -> (8 N, C) on the fine grid, each child with its parent's features."""
    return x.repeat_interleave(len(CHILDREN), dim=0)


class Kernel(nn.Module):
    """A stored kernel: weight (out, size, size, size, in), bias (out,)."""

    def __init__(self, channels: int, out: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, size, size, size, channels))
        self.bias = nn.Parameter(torch.zeros(out))


class SubmanifoldConv3(nn.Module):
    """3 x 3 x 3 convolution at the active sites: (N, Cin) -> (N, Cout). Keys conv.weight, conv.bias."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Kernel(channels, out, 3)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        table, levels = voxels.table
        return submanifold_conv3(x, table, self.conv.weight, self.conv.bias, levels=levels, coords=voxels.coords)

    def subdivided(self, x: Tensor, voxels: Voxels) -> Tensor:
        """Of every row of x 8 times over: (N, Cin) on `voxels` -> (8 N, Cout) on `voxels.fine`."""
        table, levels = voxels.table
        return subdivided_conv3(x, table, self.conv.weight, self.conv.bias, levels=levels)


class PointwiseConv(nn.Module):
    """(N, Cin) -> (N, Cout), with the stored weight's *memory* read as a row-major (Cin, Cout) matrix, not transposed (2.5).

    The library that the model was trained with did so for 1 x 1 x 1 kernels. Keys conv.weight (out, 1, 1, 1, in), conv.bias.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Kernel(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.conv.bias, x, self.conv.weight.reshape(x.shape[1], -1))


class SparseGroupNorm(nn.Module):
    """Group norm over an object's rows and each group of channels, eps 1e-5; in float32, the result in the input's dtype (2.3)."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, voxels: Voxels, *, silu: bool = False) -> Tensor:
        return group_norm(x, voxels.slices, self.weight, self.bias, self.groups, silu=silu)


class WindowAttention(nn.Module):
    """Self attention inside shifted windows: keys to_qkv, to_out."""

    def __init__(self, width: int, heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.heads, self.size, self.shift = heads, size, shift
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return self.to_out(grouped_attention(q, k, v, voxels.windows(self.size, self.shift)))


class WindowedBlock(nn.Module):
    """The decoders' pre-norm transformer block, norms without parameters (3.2): keys attn, mlp."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4, size: int = 8, shift: int = 0) -> None:
        super().__init__()
        self.norm = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.attn = WindowAttention(width, heads, size, shift)
        self.mlp = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        """x: (N, width) -> the same, in x's dtype."""
        x = x + self.attn(self.norm(x), voxels)
        return x + self.mlp(self.norm(x))


def cross_attend(attention: CrossAttention, x: Tensor, voxels: Voxels, context: Tensor) -> Tensor:
    """Each object's rows (N, C) attend to its tokens, context (B, L, C') -> (N, C)."""
    k, v = attention.to_kv(context).unflatten(-1, (2, attention.heads, -1)).unbind(2)
    q = attention.to_q(x).unflatten(-1, (attention.heads, -1))
    parts = [attend(q[None, rows], k[b : b + 1], v[b : b + 1])[0] for b, rows in enumerate(voxels.slices)]
    return attention.to_out(torch.cat(parts))
