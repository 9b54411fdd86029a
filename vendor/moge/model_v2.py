"""MoGe version 2: metric scale and, in some files, normals (spec: moge.md section 6).

A neck spreads the ViT's features over five resolutions; each head runs up the same ladder once more and answers at its last rung.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract.errors import ImageError
from .backbone import DinoV2
from .config import StackConfig, V2Config, ViTSize
from .layers import ImageNet, Prediction, ResBlock, remap, to_picture, upsample, uv_map


class _Encoder(ImageNet):
    def __init__(self, vit: ViTSize, taps: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.taps = taps
        self.backbone = DinoV2(vit)
        self.output_projections = nn.ModuleList(nn.Conv2d(vit.width, features, 1) for _ in taps)

    def forward(self, picture: Tensor, hp: int, wp: int) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in 0..1 -> features (B, F, hp, wp) and the last tap's class token (B, width)."""
        patch = self.backbone.size.patch
        resized = F.interpolate(picture, size=(patch * hp, patch * wp), mode="bilinear", align_corners=False, antialias=True)
        found = self.backbone(self.normalise(resized), self.taps)
        grids = [project(patches.transpose(1, 2).unflatten(2, (hp, wp))) for project, (patches, _) in zip(self.output_projections, found)]
        return torch.stack(grids).sum(0), found[-1][1]


class _Stack(nn.Module):
    """A ladder of resolutions, each twice the last: an input at every level is added to what comes from below."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()

        def pointwise(channels: int | None, out: int | None) -> nn.Module:
            return nn.Identity() if channels is None or out is None else nn.Conv2d(channels, out, 1)

        self.input_blocks = nn.ModuleList(pointwise(*pair) for pair in zip(config.dims_in, config.dims))
        self.res_blocks = nn.ModuleList(
            nn.Sequential(*(ResBlock(dim, config.res_hidden * dim, config.in_norm, config.hidden_norm) for _ in range(count)))
            for dim, count in zip(config.dims, config.res_blocks)
        )
        self.resamplers = nn.ModuleList(upsample(*each) for each in zip(config.resamplers, config.dims, config.dims[1:]))
        self.output_blocks = nn.ModuleList(pointwise(*pair) for pair in zip(config.dims, config.dims_out))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """One (B, C_l, h * 2**l, w * 2**l) for each level l in, one out."""
        outputs: list[Tensor] = []
        x = None
        for level, (given, block, res, out) in enumerate(zip(inputs, self.input_blocks, self.res_blocks, self.output_blocks)):
            entering = block(given)
            x = res(entering if x is None else self.resamplers[level - 1](x) + entering)
            outputs.append(out(x))
        return outputs


class MoGeV2(nn.Module):
    mask_threshold = 0.5
    needs_positive_depth = True

    def __init__(self, config: V2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config.vit, config.taps, config.dim_features)
        self.neck = _Stack(config.neck)
        self.points_head = _Stack(config.points_head)
        self.mask_head = _Stack(config.mask_head) if config.mask_head else None
        self.normal_head = _Stack(config.normal_head) if config.normal_head else None
        self.scale_head = _mlp(config.scale_head) if config.scale_head else None

    @property
    def metric(self) -> bool:
        return self.scale_head is not None

    @staticmethod
    def grid(height: int, width: int, tokens: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises ImageError for a picture so narrow that not one patch fits across."""
        aspect = width / height
        hp, wp = round((tokens / aspect) ** 0.5), round((tokens * aspect) ** 0.5)
        if min(hp, wp) < 1:
            raise ImageError(f"The picture is {width}x{height}: too narrow for a point map.", "Crop it, or extend its short side.")
        return hp, wp

    def forward(self, picture: Tensor, tokens: int) -> Prediction:
        """(B, 3, H, W) float32 in 0..1 -> points, probability that there is something, normals and scale where the file has them."""
        height, width = picture.shape[-2:]
        hp, wp = self.grid(height, width, tokens)
        features, cls = self.encoder(picture, hp, wp)
        levels: list[Tensor] = [uv_map(hp << level, wp << level, width / height, features) for level in range(len(self.config.neck.dims))]
        levels[0] = torch.cat([features, levels[0]], dim=1)
        shared = self.neck(levels)

        def answer(head: nn.Module) -> Tensor:
            return to_picture(head(shared)[-1], (height, width))

        return Prediction(
            points=remap(answer(self.points_head), self.config.remap),
            mask=None if self.mask_head is None else answer(self.mask_head)[..., 0].sigmoid(),
            normal=None if self.normal_head is None else F.normalize(answer(self.normal_head), dim=-1),
            scale=None if self.scale_head is None else self.scale_head(cls).float().exp()[:, 0],
        )


def _mlp(dims: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(dims):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
