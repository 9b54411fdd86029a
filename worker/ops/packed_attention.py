"""Attention of sequences packed one after another in a tensor: each one's queries read its own keys and no others.

Backends: `torch` (this file: PyTorch's attention, sequence by sequence), `triton` (packed_attention_triton.py; CUDA, some head
widths; float32 by name only). The second is the faster one at head width 64 on Hopper and, unlike cuDNN's, builds nothing for a length it hasn't met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import attend
from .backends import choose

BACKENDS = ("triton",)
WIDTHS = (16, 32, 64, 128)  # of a head, that Triton's kernel knows


@dataclass(frozen=True)
class Lengths:
    """Sequences in their order. ends: int32 (B + 1,), 0 first, on the device of the rows."""

    each: tuple[int, ...]
    ends: Tensor

    @classmethod
    def of(cls, each: Sequence[int], device: torch.device) -> Lengths:
        return cls(tuple(each), torch.tensor([0, *each]).cumsum(0).to(device, torch.int32))


def packed_attention(q: Tensor, k: Tensor, v: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """q (N, H, D) of sequences as long as `queries`, k and v (S, H, D) as long as `keys` -> (N, H * D), scale 1/sqrt(D). Any float dtype.

    A sequence with queries needs a key.
    """
    offered = BACKENDS if q.dtype in (torch.float16, torch.bfloat16) else ()
    if q.shape[2] in WIDTHS and choose(q.device, *offered, by_name=BACKENDS) == "triton":
        from .packed_attention_triton import packed_attention as fast

        return fast(q, k, v, queries.ends, keys.ends, max(queries.each))
    parts = [q.new_empty(0, q.shape[1] * q.shape[2])]
    for a, b, c in zip(q.split(queries.each), k.split(keys.each), v.split(keys.each)):
        if len(a):
            parts.append(attend(a[None], b[None], c[None])[0])
    return torch.cat(parts) if len(parts) != 2 else parts[1]
