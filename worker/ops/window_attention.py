"""Attention inside groups of rows of one packed tensor: windows of voxels, or a batch's elements (Liu et al., "Swin Transformer", 2021).

Backends: `torch` (this file: groups of similar length are padded to the longest among them and go to PyTorch's attention; any device), `triton`
(CUDA; window_attention_triton.py), `varlen` (CUDA: PyTorch's own attention for variable lengths); by name alone `xformers` (CUDA).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...contract.errors import SetupError
from .backends import choose
from .neighbours import linear_keys

_SHORT = 1024  # rows: PyTorch's own kernels take over from Triton's in longer groups


@dataclass(frozen=True)
class Groups:
    """A partition of N rows into G groups, made once for a coordinate set.

    order: int64 (N,), the rows group by group. offsets: int32 (G + 1,), where each group starts in it. longest: the rows of the largest one.
    """

    order: Tensor
    offsets: Tensor
    longest: int

    @cached_property
    def lengths(self) -> list[int]:
        return self.offsets.diff().tolist()

    @cached_property
    def buckets(self) -> list[tuple[Tensor, Tensor | None]]:
        """Groups of similar length together: (rows int64 (n, L), valid bool (n, L) or None where all are)."""
        lengths, starts = self.offsets.diff().long(), self.offsets[:-1].long()
        magnitude = torch.ceil(torch.log2(lengths.float())).int()  # lengths 2^(m-1) < L <= 2^m share one: less than half of it is padding
        buckets = []
        for m in magnitude.unique().tolist():
            chosen = magnitude == m
            start, length = starts[chosen, None], lengths[chosen, None]
            longest = int(length.max())
            position = torch.arange(longest, device=self.order.device)
            valid = position < length
            rows = self.order[start + torch.minimum(position, length - 1)]
            buckets.append((rows, None if bool(valid.all()) else valid))
        return buckets


def group_rows(ids: Tensor) -> Groups:
    """(N,) int64: rows with the same number form a group. The groups' order, and that inside a group, mean nothing."""
    ordered, order = torch.sort(ids, stable=True)
    lengths = torch.unique_consecutive(ordered, return_counts=True)[1]
    offsets = F.pad(lengths.cumsum(0), (1, 0)).int()
    return Groups(order, offsets, int(lengths.max()) if len(ids) else 0)


def window_ids(coords: Tensor, size: int, shift: int) -> Tensor:
    """int32 (N, 4) -> int64 (N,), one number for each cube of `size`^3 voxels. The shift is added to the coordinates; nothing wraps around."""
    if len(coords) == 0:
        return coords.new_zeros(0, dtype=torch.int64)
    windows = (coords + coords.new_tensor([0, shift, shift, shift])).div(coords.new_tensor([1, size, size, size]), rounding_mode="floor")
    return linear_keys(windows, int(windows[:, 1:].max()) + 1)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> Tensor:
    """q, k, v (N, H, D) -> (N, H * D): each row attends to the rows of its group, scale 1/sqrt(D). Any float dtype."""
    preferred = ("triton", "varlen") if groups.longest <= _SHORT else ("varlen", "triton")
    backend = choose(q.device, *preferred, by_name=("xformers",))
    if len(q) == 0:
        return q.flatten(1)
    if backend == "triton":
        from .window_attention_triton import grouped_attention as fast

        return fast(q, k, v, groups.order, groups.offsets, groups.longest)
    if backend in ("varlen", "xformers"):
        packed = (_varlen if backend == "varlen" else _xformers)(*(t[groups.order] for t in (q, k, v)), groups)
        return torch.empty_like(packed).index_copy_(0, groups.order, packed).flatten(1)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for rows, valid in groups.buckets:
        mask = None if valid is None else valid[:, None, None]
        attended = F.scaled_dot_product_attention(*(t[rows].transpose(1, 2) for t in (q, k, v)), attn_mask=mask).transpose(1, 2)
        if valid is None:
            out[rows] = attended
        else:
            out[rows[valid]] = attended[valid]
    return out.flatten(1)


def _varlen(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> Tensor:
    """Packed (N, H, D) -> the same. From PyTorch 2.10 on its flash kernel by name; before, and in float32, through jagged nested tensors."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        varlen_attn = None
    if varlen_attn is not None and q.dtype != torch.float32 and torch.cuda.get_device_capability(q.device) >= (8, 0):
        offsets, longest = groups.offsets, groups.longest
        out: Tensor = varlen_attn(q, k, v, offsets, offsets, longest, longest)  # type: ignore[assignment]
        return out
    shortest = min(groups.lengths)
    with warnings.catch_warnings():  # nested tensors call themselves a prototype
        warnings.simplefilter("ignore")
        jagged = [
            torch.nested.nested_tensor_from_jagged(t, groups.offsets.long(), min_seqlen=shortest, max_seqlen=groups.longest)
            for t in (q, k, v)
        ]
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in jagged)).transpose(1, 2).values()


def _xformers(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> Tensor:
    import xformers.ops
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    mask: Any = BlockDiagonalMask.from_seqlens(groups.lengths)
    try:
        return xformers.ops.memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)[0]
    except NotImplementedError as error:  # some of its builds have no kernels
        raise SetupError(
            "The backend 'xformers' was asked for, but has no kernel for this device and these numbers.",
            "Leave SAM3D_OPS unset.",
            detail=str(error),
        ) from error
