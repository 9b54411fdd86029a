"""Group norm over the rows of packed objects, with the SiLU that follows it (Wu and He, "Group Normalization", 2018; spec: stage2.md 2.3).

Backends: `torch` (this file, any device) and `triton` (CUDA; group_norm_triton.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import choose

_ROWS = 1 << 16  # normalised at once in the twin: no float32 copy of everything


def group_norm(
    x: Tensor, objects: Sequence[slice], weight: Tensor, bias: Tensor, groups: int, *, eps: float = 1e-5, silu: bool = False
) -> Tensor:
    """x (N, C), contiguous -> the same shape and dtype: each object's rows normalised over (rows, C / groups channels), times weight, plus bias.

    objects: each one's rows, which may be none. weight, bias: (C,) of any float dtype. silu: its SiLU. All of it is computed in float32.
    """
    out = torch.empty_like(x)
    fast = choose(x.device, "triton") == "triton"
    for rows in objects:
        if rows.start == rows.stop:
            continue
        if fast:
            from .group_norm_triton import group_norm as kernel

            kernel(x[rows], weight, bias, groups, eps, silu, out[rows])
            continue
        variance, mean = torch.var_mean(x[rows].float().unflatten(1, (groups, -1)), dim=(0, 2), correction=0)
        repeat = x.shape[1] // groups
        mult = torch.rsqrt(variance + eps).repeat_interleave(repeat) * weight.float()
        mean = mean.repeat_interleave(repeat)
        for start in range(rows.start, rows.stop, _ROWS):
            some = slice(start, min(start + _ROWS, rows.stop))
            normed = (x[some].float() - mean) * mult + bias.float()
            out[some] = F.silu(normed, inplace=True) if silu else normed
    return out
