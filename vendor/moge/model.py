"""MoGe version 1, the model that SAM 3D Objects conditions on: spec moge.md section 2.

A ViT's tokens are projected, summed and upsampled eight-fold with each pixel's place beside them; two small output blocks make points and mask.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract.errors import ImageError
from .backbone import DinoV2
from .config import V1Config
from .layers import ImageNet, Prediction, ResBlock, conv, remap, resize, to_picture, upsample, uv_map


class _Head(nn.Module):
    def __init__(self, config: V1Config) -> None:
        super().__init__()

        def res_blocks(channels: int, count: int) -> list[nn.Module]:
            return [ResBlock(channels, config.res_hidden * channels, "layer_norm", config.hidden_norm) for _ in range(count)]

        self.projects = nn.ModuleList(nn.Conv2d(config.vit.width, config.dim_proj, 1) for _ in config.taps)
        channels = (config.dim_proj, *config.dim_upsample)
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(upsample("conv_transpose", before + 2, after), *res_blocks(after, config.res_blocks))
            for before, after in pairwise(channels)
        )
        self.output_block = nn.ModuleList(
            nn.Sequential(
                conv(channels[-1] + 2, config.last_channels),
                *res_blocks(config.last_channels, config.last_res_blocks),
                nn.ReLU(),
                conv(config.last_channels, out, config.last_kernel),
            )
            for out in (3, 1)
        )

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Patch tokens of each tap as (B, width, hp, wp) -> raw points (B, 3, *size) and raw mask (B, 1, *size)."""
        aspect = size[1] / size[0]
        x = torch.stack([project(feature) for project, feature in zip(self.projects, features)]).sum(0)
        for block in self.upsample_blocks:
            x = block(_with_places(x, aspect))
        x = _with_places(resize(x, size), aspect)
        points, mask = self.output_block
        return points(x), mask(x)


def _with_places(x: Tensor, aspect: float) -> Tensor:
    return torch.cat([x, uv_map(*x.shape[-2:], aspect, x)], dim=1)


class MoGeV1(ImageNet):
    metric = False
    needs_positive_depth = False

    def __init__(self, config: V1Config) -> None:
        super().__init__()
        self.config = config
        self.mask_threshold = config.mask_threshold
        self.backbone = DinoV2(config.vit)
        self.head = _Head(config)

    def prepare(self, picture: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in 0..1 -> the same normalised, at the size that holds about `tokens` patches, and cut down to whole patches.

        Raises ImageError for a picture so narrow that not one patch fits across.
        """
        patch, (height, width) = self.config.vit.patch, picture.shape[-2:]
        ratio = (tokens * patch**2 / (height * width)) ** 0.5
        size = int(height * ratio), int(width * ratio)
        if min(size) < patch:
            raise ImageError(f"The picture is {width}x{height}: too narrow for a point map.", "Crop it, or extend its short side.")
        resized = F.interpolate(picture, size=size, mode="bicubic", align_corners=False, antialias=True)
        resized = self.normalise(resized)
        whole = [side // patch * patch for side in size]
        return resized, F.interpolate(resized, size=whole, mode="bilinear", align_corners=False, antialias=True)

    def forward(self, picture: Tensor, tokens: int) -> Prediction:
        """(B, 3, H, W) float32 in 0..1 -> points, and a mask that is near 1 where there is something (trained on 0 and 1: no logit)."""
        resized, patched = self.prepare(picture, tokens)
        grid = [side // self.config.vit.patch for side in patched.shape[-2:]]
        features = [patches.transpose(1, 2).unflatten(2, grid) for patches, _ in self.backbone(patched, self.config.taps)]
        height, width = resized.shape[-2:]
        points, mask = self.head(features, (height, width))
        height, width = picture.shape[-2:]
        # Remapped after resizing: exp of a mean, not a mean of exps.
        return Prediction(remap(to_picture(points, (height, width)), self.config.remap), to_picture(mask, (height, width))[..., 0])
