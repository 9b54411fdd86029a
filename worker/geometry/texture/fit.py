"""Textures from pictures whose cameras are known, as the original bakes them: colours dropped into texels (`scatter`), or texels fitted
until the lookups give the pictures (`fit`). Source: spec/postprocess.md section 5.

Pixels come as flat lists with a place in the texture: x and y in texels, with texel centres on whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

FIRST_RATE, LAST_RATE = 1e-2, 1e-5
BETAS, EPSILON = (0.5, 0.9), 1e-8


class Lookup(NamedTuple):
    """A bilinear lookup as numbers: texels int64 (P, 4), flat, and weights float32 (P, 4)."""

    texels: torch.Tensor
    weights: torch.Tensor

    def __call__(self, texture: torch.Tensor) -> torch.Tensor:
        """Texture (H, W, C) -> (P, C)."""
        return (texture.flatten(0, 1)[self.texels] * self.weights[..., None]).sum(1)


def bilinear(places: torch.Tensor, height: int, width: int) -> Lookup:
    """Places (P, 2), x and y in texels, clamped to the texture."""
    x, y = places[:, 0].clamp(0, width - 1), places[:, 1].clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    across, down = x - left, y - top
    left, top = left.long(), top.long()
    right, bottom = (left + 1).clamp_max(width - 1), (top + 1).clamp_max(height - 1)
    texels = torch.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right], dim=1)
    weights = torch.stack([(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down], dim=1)
    return Lookup(texels, weights)


def scatter(places: torch.Tensor, colors: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the colours (P, C) that fall into each texel -> (texture (H, W, C), 0 where none did; bool (H, W), where some did)."""
    x, y = (places + 0.5).floor().long().unbind(1)
    texels = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    total = colors.new_zeros(height * width, colors.shape[1]).index_add_(0, texels, colors)
    count = torch.bincount(texels, minlength=height * width)
    return (total / count.clamp_min(1)[:, None]).view(height, width, -1), (count > 0).view(height, width)


def fit(
    texture: torch.Tensor,
    lookups: Sequence[Lookup],
    colors: Sequence[torch.Tensor],
    order: Iterable[int],
    steps: int,
    smoothness: float = 0.01,
) -> torch.Tensor:
    """Texels that make each view's lookup give its colours (P, C), in the least-absolute sense.

    texture: (H, W, C), where to start. order: the view of each of the `steps` steps. Loss: mean |lookup - colours| + smoothness times the
    total variation (mean |difference| down plus mean |difference| across, over the whole texture). Adam, with the rate on a cosine from
    FIRST_RATE to LAST_RATE. The gradient is written out, so that it runs in inference mode, too.
    """
    texture = texture.clone()
    height, width, channels = texture.shape
    first, second = torch.zeros_like(texture), torch.zeros_like(texture)
    down, across = smoothness / ((height - 1) * width * channels), smoothness / (height * (width - 1) * channels)
    for step, view in zip(range(1, steps + 1), order):
        lookup, wanted = lookups[view], colors[view]
        error = (lookup(texture) - wanted).sign_() / wanted.numel()
        gradient = torch.zeros_like(texture)
        gradient.view(-1, channels).index_add_(0, lookup.texels.flatten(), (lookup.weights[..., None] * error[:, None]).flatten(0, 1))
        slope = (texture[1:] - texture[:-1]).sign_() * down
        gradient[1:] += slope
        gradient[:-1] -= slope
        slope = (texture[:, 1:] - texture[:, :-1]).sign_() * across
        gradient[:, 1:] += slope
        gradient[:, :-1] -= slope
        first.lerp_(gradient, 1 - BETAS[0])
        second.lerp_(gradient * gradient, 1 - BETAS[1])
        rate = LAST_RATE + 0.5 * (FIRST_RATE - LAST_RATE) * (1 + math.cos(math.pi * (step - 1) / steps))
        spread = (second / (1 - BETAS[1] ** step)).sqrt_() + EPSILON
        texture -= rate / (1 - BETAS[0] ** step) * first / spread
    return texture
