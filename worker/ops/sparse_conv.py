"""Submanifold convolution on a set of voxels (Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks", 2018).

Backends: `torch` (this file: gathers each row's neighbours and multiplies once, in chunks of rows; any device, a fixed order of sums), `triton`
(CUDA; sparse_conv_triton.py), `spconv` (CUDA; sparse_conv_spconv.py; where the rows' coordinates are given). Float32 takes the last two by name only:
cuBLAS is faster there.

A finer grid made by splitting every voxel in 2 x 2 x 2 needs no table of its own: `levels` says how often the table's set was split.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import choose
from .neighbours import CHILDREN, OFFSETS, child_table

BACKENDS = ("triton", "spconv")


def submanifold_conv3(
    x: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    levels: int = 0,
    coords: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """x (N, Cin), neighbours (N, 27) of `neighbour_table`, weight (Cout, 3, 3, 3, Cin) -> (N, Cout): sites and their order stay.

    A cross-correlation, as a zero-padded dense conv3d at the active sites. Any float dtype, one for all. levels: x has 8^levels rows for each row
    of the table, in `child_table`'s order. coords: int32 (N, 4), the rows (batch, x, y, z) of x. chunk: the twin's rows at once; None takes what
    fits.
    """
    backend = _chosen(x, BACKENDS[: 1 if coords is None else 2])
    if backend == "triton":
        from .sparse_conv_triton import sparse_conv

        return sparse_conv(x, table, weight.flatten(1, 3).contiguous(), bias, levels, split=False)
    if backend == "spconv" and coords is not None:
        from .sparse_conv_spconv import submanifold_conv3 as fast

        return fast(x, coords, weight, bias)
    flat, padded, out = weight.flatten(1), _padded(x), x.new_empty(len(x), len(weight))
    for rows, near in _chunks(x, table, levels, chunk):
        out[rows] = F.linear(padded[near].flatten(1), flat, bias)
    return out


def subdivided_conv3(
    x: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None = None, *, levels: int = 0, chunk: int | None = None
) -> Tensor:
    """The convolution of rows that were each split in 8 equal ones: x (N, Cin) -> (8 N, Cout), in 64 products for each row instead of 216.

    The same as `submanifold_conv3` of every row of x 8 times over, on the finer grid. A child's 27 neighbours lie in 8 parents, so the kernel's
    cells that fall on the same parent are added beforehand, in float32. table, levels: the neighbours of x's rows.
    """
    folded = folded_kernel(weight)
    if _chosen(x, BACKENDS[:1]) == "triton":
        from .sparse_conv_triton import sparse_conv

        return sparse_conv(x, table, folded, bias, levels, split=True)
    padded, out = _padded(x), x.new_empty(len(x), 8, len(weight))
    for rows, near in _chunks(x, table, levels, chunk):
        for child, parents in enumerate(_PARENTS):
            out[rows, child] = F.linear(padded[near[:, parents]].flatten(1), folded[child].flatten(1), bias)
    return out.flatten(0, 1)


def folded_kernel(weight: Tensor) -> Tensor:
    """(Cout, 3, 3, 3, Cin) -> (8, Cout, 8, Cin) in the weight's dtype: for each child, the sums over the cells that see each of its 8 parents."""
    folded = torch.einsum("cpk,oki->copi", _shares(weight.device), weight.flatten(1, 3).float())
    return folded.to(weight.dtype).contiguous()


def _parent_offset(child: int, offset: tuple[int, ...]) -> int:
    """The column of a parent's neighbours that its child's neighbour at `offset` lies in."""
    x, y, z = ((o + d) // 2 + 1 for o, d in zip(CHILDREN[child], offset))
    return 9 * x + 3 * y + z


# For each child, the columns of its parent's neighbours that it sees: 2 x 2 x 2 of them, on its side.
_PARENTS = [sorted({_parent_offset(child, offset) for offset in OFFSETS}) for child in range(8)]


@functools.cache
def _shares(device: torch.device) -> Tensor:
    """float32 (8, 8, 27): 1 where a child sees, through a cell of the kernel, a parent of _PARENTS."""
    shares = torch.zeros(8, 8, 27)
    for child, parents in enumerate(_PARENTS):
        for k, offset in enumerate(OFFSETS):
            shares[child, parents.index(_parent_offset(child, offset)), k] = 1
    return shares.to(device)


def _chosen(x: Tensor, backends: tuple[str, ...]) -> str:
    half = x.dtype in (torch.float16, torch.bfloat16)
    return choose(x.device, *(backends if half else ()), by_name=backends)


def _padded(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(1, x.shape[1])])  # ABSENT is -1, the last row


def _table_of(table: Tensor, levels: int) -> Tensor:
    for _ in range(levels):
        table = child_table(table)
    return table


def _chunks(x: Tensor, table: Tensor, levels: int, chunk: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Slices of x's rows and their neighbours, never all of a finer grid's table at once."""
    if chunk is None:
        chunk = _spare_bytes(x.device) // (27 * (x.shape[1] * x.element_size() + 4))
    children = 8**levels
    step = max(1, chunk // children)
    for start in range(0, len(table), step):
        near = _table_of(table[start : start + step], levels)
        yield slice(start * children, start * children + len(near)), near


def _spare_bytes(device: torch.device) -> int:
    """How much the gathered rows may take: a quarter of what is free on a GPU, within limits beyond which nothing gets faster."""
    if device.type == "cuda":
        return min(max(torch.cuda.mem_get_info(device)[0] // 4, 64 << 20), 1 << 30)
    return 64 << 20
