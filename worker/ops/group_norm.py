"""Group norm over the rows of packed objects, with the SiLU that follows it (Wu and He, "Group Normalization", 2018; spec: stage2.md 2.3).

Backends: `torch` (this file, any device) and `triton` (CUDA; group_norm_triton.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import choose

_ROWS = 1 << 16  # at once in the twin: there is never a float32 copy of everything


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
        parts = x[rows].split(_ROWS)
        moments = [torch.var_mean(part.float().unflatten(1, (groups, -1)), dim=(0, 2), correction=0) for part in parts]
        variances, means = (torch.stack(values) for values in zip(*moments))
        share = torch.tensor([[len(part) / (rows.stop - rows.start)] for part in parts], device=x.device)
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        repeat = x.shape[1] // groups
        mult = torch.rsqrt(variance + eps).repeat_interleave(repeat) * weight.float()
        mean = mean.repeat_interleave(repeat)
        for part, place in zip(parts, out[rows].split(_ROWS)):
            normed = (part.float() - mean) * mult + bias.float()
            place.copy_(F.silu(normed, inplace=True) if silu else normed)
    return out
