"""The element-wise work between a transformer's matrix products, fused: residual + norm + modulation, and the norm of query and key heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import choose


def residual_norm(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    mult: Tensor | None,
    add: Tensor | None,
    *,
    const: Tensor | None = None,
    eps: float,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """x += gate * update + const, in place; returns layer_norm(x) * mult + add in `dtype`.

    x: float32 (..., C), contiguous: the residual stream. update: (..., C) of any float dtype, or None. gate, mult, add, const: (C,) of any float
    dtype, None for 1, 1, 0, 0. All of it is computed in float32. out: where the result goes, contiguous, of x's shape and `dtype`; None: a new tensor.
    """
    if choose(x.device, "triton") == "triton":
        from .fused_triton import residual_norm as fast

        return fast(x, update, gate, mult, add, const, eps, torch.empty(x.shape, dtype=dtype, device=x.device) if out is None else out)
    if update is not None:
        x += update if gate is None else gate.float() * update.float()
    if const is not None:
        x += const
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    if mult is not None:
        normed = normed * mult.float()
    if add is not None:
        normed = normed + add.float()
    return normed.to(dtype) if out is None else out.copy_(normed)


def head_norm_(qkv: Tensor, gamma: Tensor) -> Tensor:
    """Query and key heads to length sqrt(D), times gamma, in place; values stay.

    qkv: (..., 3, H, D), contiguous, or (B, T, 3, H, D) with each of its B contiguous. gamma: float32 (2, H, D), of query and key.
    """
    if choose(qkv.device, "triton") == "triton":
        from .fused_triton import head_norm_ as fast

        return fast(qkv, gamma)
    qk = qkv[..., :2, :, :]
    qk.copy_(F.normalize(qk.float(), dim=-1) * gamma * qkv.shape[-1] ** 0.5)
    return qkv


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x @ weight^T + bias), tanh approximation; the product's own epilogue on CUDA."""
    if x.device.type == "cuda" and x.dtype != torch.float32:
        rows = x.reshape(-1, x.shape[-1])
        return torch._addmm_activation(bias, rows, weight.t(), use_gelu=True).view(*x.shape[:-1], len(weight))
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")
