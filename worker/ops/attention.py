"""Attention over dense sequences: PyTorch's own, with cuDNN's kernel preferred where it is the faster one (head width 64 on Hopper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_ORDER = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """q (B, T, H, D), k and v (B, S, H, D) -> (B, T, H * D): softmax(q k^T * scale) v; scale 1/sqrt(D) by default.

    Any device and float dtype; on CUDA half precision takes the fused kernels.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.device.type == "cuda" and q.dtype != torch.float32:
        with sdpa_kernel(_ORDER, set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).flatten(2)
