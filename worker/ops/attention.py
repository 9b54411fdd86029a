"""Attention over dense sequences: PyTorch's own, with cuDNN's kernel preferred where it is the faster one (head width 64 on Hopper)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_ORDER = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """q (B, T, H, D), k and v (B, S, H, D) -> (B, T, H * D): softmax(q k^T * scale) v; scale 1/sqrt(D) by default.

    Any device and float dtype.
    """
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
    return out.transpose(1, 2).flatten(2)


@contextmanager
def fused_attention(device: torch.device) -> Iterator[None]:
    """Around a network's whole pass: on CUDA `attend` takes cuDNN's kernel first, and the next best where that can't; `device` is the current one,
    as Triton's kernels need.

    (Not inside `attend`: entering it costs more than launching the kernel.)
    """
    if device.type == "cuda":
        with torch.cuda.device(device), sdpa_kernel(_ORDER, set_priority=True):
            yield
    else:
        yield
