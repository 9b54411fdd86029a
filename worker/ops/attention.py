"""Attention over dense sequences: PyTorch's own, with cuDNN's kernel preferred where it is the faster one; for long ones on Hopper our own."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .backends import choose

# Before PyTorch 2.6 one could say which kernels may run, not which first; there flash attention comes before the others by itself.
_PRIORITY = {"set_priority": True} if "set_priority" in inspect.signature(sdpa_kernel).parameters else {}
_ORDER = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (B, T, H, D), k and v (B, S, H, D) -> (B, T, H * D): softmax(q k^T / sqrt(D)) v. Any device and float dtype."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def attend_long(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` for thousands of queries and keys: the kernel of attention_hopper.py where it can run. Meant for graphs: it takes long to launch.

    The bits of a row don't depend on the batch. q, k, v: each token's heads side by side in memory.
    """
    if q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] == 64 and choose(q.device, "triton") == "triton" and _hopper(q.device):
        from .attention_hopper import attend as fast

        return fast(q, k, v)
    return attend(q, k, v)


@functools.cache
def _hopper(device: torch.device) -> bool:
    """Can attention_hopper.py run here? Its dialect is experimental, so only with a Triton that it was run with."""
    import triton

    return torch.cuda.get_device_capability(device) == (9, 0) and triton.__version__.startswith("3.6.")


class _Order:
    """`_ORDER` in force as long as somebody is inside. PyTorch keeps it for the process, not for a thread: only the last one out may set it back."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._set: AbstractContextManager[object] = nullcontext()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._set = sdpa_kernel(_ORDER, **_PRIORITY)
                self._set.__enter__()

    def __exit__(self, *problem: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set.__exit__(None, None, None)


_order = _Order()


@contextmanager
def fused_attention(device: torch.device) -> Iterator[None]:
    """Around a network's whole pass: on CUDA `attend` takes cuDNN's kernel first, and the next best where that can't; `device` is the current one,
    as Triton's kernels need. From several threads at once.

    (Not inside `attend`: entering it costs more than launching the kernel.)
    """
    if device.type == "cuda":
        with torch.cuda.device(device), _order:
            yield
    else:
        yield
