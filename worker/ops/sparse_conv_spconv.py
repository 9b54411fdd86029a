"""Submanifold convolution by the package spconv (version 2.3), behind sparse_conv.py. It finds the neighbours anew in each call."""

from __future__ import annotations

import torch
from torch import Tensor


def submanifold_conv3(x: Tensor, coords: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """coords: int32 (N, 4), the rows (batch, x, y, z) of x."""
    import spconv.pytorch as spconv

    out_channels, channels = weight.shape[0], weight.shape[-1]
    with torch.device("meta"):  # the layer's own weights are never made
        layer = spconv.SubMConv3d(channels, out_channels, 3, bias=bias is not None)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)  # spconv's own layout
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    highest = coords.max(0).values.tolist()
    sites = spconv.SparseConvTensor(x, coords, [side + 1 for side in highest[1:]], highest[0] + 1)
    result: Tensor = layer.eval()(sites).features
    return result
