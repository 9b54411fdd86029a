"""Submanifold convolution on a set of voxels (Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks", 2018).

The plain twin gathers each row's 27 neighbours and multiplies once: runs anywhere, adds in a fixed order. Memory is bounded by chunks of rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def submanifold_conv3(x: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None = None, *, chunk: int | None = None) -> Tensor:
    """x (N, Cin), neighbours (N, 27) of `neighbour_table`, weight (Cout, 3, 3, 3, Cin) -> (N, Cout): sites and their order stay.

    A cross-correlation, as a zero-padded dense conv3d at the active sites. Any float dtype, one for all. chunk: rows at once; None takes what fits.
    """
    count, flat = len(x), weight.flatten(1)
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])  # ABSENT is -1, the last row
    if chunk is None:
        chunk = max(1, _spare_bytes(x.device) // (flat.shape[1] * x.element_size()))
    if count <= chunk:
        return F.linear(padded[table].flatten(1), flat, bias)
    out = x.new_empty(count, len(weight))
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk)
        out[rows] = F.linear(padded[table[rows]].flatten(1), flat, bias)
    return out


def _spare_bytes(device: torch.device) -> int:
    """How much the gathered rows may take: a quarter of what is free on a GPU, within limits beyond which nothing gets faster."""
    if device.type == "cuda":
        return min(max(torch.cuda.mem_get_info(device)[0] // 4, 64 << 20), 1 << 30)
    return 64 << 20
