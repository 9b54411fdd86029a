"""What the heads of both versions are made of, and what a network answers (spec: moge.md sections 2.3, 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import GROUP


@dataclass(frozen=True)
class Prediction:
    """What a network says about B pictures of H x W, before focal length and shift are known. float32.

    points: (B, H, W, 3), x right, y down, z forward, correct up to a shift in z, a focal length and a scale. mask: (B, H, W), to be compared with
    the model's threshold, or None. normal: (B, H, W, 3) of length 1, or None. scale: (B,), metres per unit of the points, or None.
    """

    points: Tensor
    mask: Tensor | None = None
    normal: Tensor | None = None
    scale: Tensor | None = None


def conv(channels: int, out: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size and repeats the picture's edge."""
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, padding_mode="replicate" if kernel > 1 else "zeros")


def upsample(kind: str, channels: int, out: int) -> nn.Sequential:
    """Twice the height and width: `conv_transpose` or `bilinear`, then a 3x3 convolution."""
    if kind == "conv_transpose":
        return nn.Sequential(nn.ConvTranspose2d(channels, out, 2, 2), conv(out, out))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), conv(channels, out))


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(1 if kind == "layer_norm" else channels // GROUP, channels)


class ResBlock(nn.Module):
    """x + two 3x3 convolutions of normed, rectified values; as many channels out as in."""

    def __init__(self, channels: int, hidden: int, in_norm: str, hidden_norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(in_norm, channels), nn.ReLU(), conv(channels, hidden), _norm(hidden_norm, hidden), nn.ReLU(), conv(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def uv_map(height: int, width: int, aspect: float, like: Tensor) -> Tensor:
    """(B, 2, h, w) in the batch, dtype and place of `like`: each pixel centre's offset from the middle, u to the right and v downwards.

    Unit: half the diagonal of a picture with `aspect` = width / height.
    """
    diagonal = (1 + aspect**2) ** 0.5
    x, y = aspect / diagonal * (width - 1) / width, 1 / diagonal * (height - 1) / height
    u = torch.linspace(-x, x, width, device=like.device)
    v = torch.linspace(-y, y, height, device=like.device)
    grid = torch.stack([u.expand(height, width), v[:, None].expand(height, width)])
    return grid.to(like.dtype).expand(len(like), -1, -1, -1)


def remap(raw: Tensor, how: str) -> Tensor:
    """What the points' head gives, (..., 3) -> points."""
    if how == "linear":
        return raw
    if how == "sinh":
        return raw.sinh()
    xy, z = raw[..., :2], raw[..., 2:]
    if how == "exp":
        return torch.cat([xy * z.exp(), z.exp()], dim=-1)
    return torch.cat([xy.sinh(), z.exp()], dim=-1)


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear, without antialias."""
    return F.interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=False)


def to_picture(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """A head's answer at its own size, (B, C, h, w) -> (B, H, W, C) float32 at the picture's."""
    return resize(raw.float(), size).permute(0, 2, 3, 1)


class ImageNet(nn.Module):
    """Holds the mean and the deviation that pictures are normalised with. They are in the file; always float32."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("image_mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def normalise(self, picture: Tensor) -> Tensor:
        return (picture - self.image_mean.float()) / self.image_std.float()
