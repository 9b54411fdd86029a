"""Attention inside groups of rows of one packed tensor: windows of voxels, or a batch's elements (Liu et al., "Swin Transformer", 2021).

The plain twin pads groups of similar length to the longest among them and hands each such bucket to PyTorch's attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .neighbours import linear_keys


@dataclass(frozen=True)
class Groups:
    """A partition of N rows, made once for a coordinate set. buckets: (rows int64 (G, L), valid bool (G, L) or None where all are)."""

    buckets: tuple[tuple[Tensor, Tensor | None], ...]


def group_rows(ids: Tensor) -> Groups:
    """(N,) int64: rows with the same number form a group. The groups' order, and that inside a group, mean nothing."""
    order = torch.argsort(ids, stable=True)
    lengths = torch.unique_consecutive(ids[order], return_counts=True)[1]
    starts = lengths.cumsum(0) - lengths
    magnitude = torch.ceil(torch.log2(lengths.float())).int()  # lengths 2^(m-1) < L <= 2^m share a bucket: less than half of it is padding
    buckets = []
    for m in magnitude.unique().tolist():
        chosen = magnitude == m
        start, length = starts[chosen, None], lengths[chosen, None]
        longest = int(length.max())
        position = torch.arange(longest, device=ids.device)
        valid = position < length
        rows = order[start + torch.minimum(position, length - 1)]
        buckets.append((rows, None if bool(valid.all()) else valid))
    return Groups(tuple(buckets))


def window_ids(coords: Tensor, size: int, shift: int) -> Tensor:
    """int32 (N, 4) -> int64 (N,), one number for each cube of `size`^3 voxels. The shift is added to the coordinates; nothing wraps around."""
    if len(coords) == 0:
        return coords.new_zeros(0, dtype=torch.int64)
    windows = (coords + coords.new_tensor([0, shift, shift, shift])).div(coords.new_tensor([1, size, size, size]), rounding_mode="floor")
    return linear_keys(windows, int(windows[:, 1:].max()) + 1)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, groups: Groups) -> Tensor:
    """q, k, v (N, H, D) -> (N, H * D): each row attends to the rows of its group, scale 1/sqrt(D). Any float dtype."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for rows, valid in groups.buckets:
        mask = None if valid is None else valid[:, None, None]
        attended = F.scaled_dot_product_attention(*(t[rows].transpose(1, 2) for t in (q, k, v)), attn_mask=mask).transpose(1, 2)
        if valid is None:
            out[rows] = attended
        else:
            out[rows[valid]] = attended[valid]
    return out.flatten(1)
