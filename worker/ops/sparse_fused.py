"""Element-wise work between the convolutions of voxels, fused: norm + SiLU, and sums over gathered rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import choose


def norm_silu(x: Tensor, mult: Tensor, add: Tensor, *, eps: float) -> Tensor:
    """silu(layer_norm(x) * mult + add), computed in float32, the result in x's dtype.

    x: (N, C), contiguous, of any float dtype. mult, add: (C,) of any float dtype: a norm's parameters, or 1 + scale and shift of a modulation.
    """
    if choose(x.device, "triton") == "triton":
        from .sparse_fused_triton import norm_silu as fast

        return fast(x, mult, add, eps)
    return F.silu(F.layer_norm(x.float(), x.shape[-1:], eps=eps) * mult.float() + add.float()).to(x.dtype)


def gather_sum(values: Tensor, table: Tensor, *, bias: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """out[n] = bias + weight[n] * sum over k of values[table[n, k], k], where a negative entry of the table counts nothing. Fixed order, in float32.

    values: (R, K, C) of any float dtype, C contiguous; K may be an expanded axis (the same rows for every k). table: int32 (N, K). bias: (C,).
    weight: float32 (N,). Returns (N, C) in the values' dtype.
    """
    if choose(values.device, "triton") == "triton":
        from .sparse_fused_triton import gather_sum as fast

        return fast(values, table, bias, weight)
    out = torch.zeros(len(table), values.shape[2], device=values.device)
    if len(values):
        for k in range(table.shape[1]):
            row = table[:, k].long()
            out += torch.where(row[:, None] < 0, 0.0, values[row.clamp(min=0), k].float())
    if weight is not None:
        out *= weight[:, None]
    return (out if bias is None else out + bias.float()).to(values.dtype)
