"""Picture in, geometry out: a network's prediction, then focal length, shift, intrinsics and mask (spec: moge.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ...contract.errors import ImageError, OptionError
from . import focal as cameras
from .model import MoGeV1
from .model_v2 import MoGeV2

LEVELS = 9


@dataclass(frozen=True)
class Geometry:
    """What is known about a picture; with a leading batch axis where the picture had one. float32, on the model's device.

    points: (H, W, 3), x right, y down, z forward; metres if the model is metric, else of unknown scale. depth: (H, W), their z. Both are +inf
    where there is nothing. mask: bool (H, W). intrinsics: (3, 3) for a picture of size 1 x 1. normal: (H, W, 3), 0 where there is nothing, or None.
    """

    points: Tensor
    depth: Tensor
    mask: Tensor
    intrinsics: Tensor
    normal: Tensor | None = None


def token_count(tokens: tuple[int, int], level: float) -> int:
    """How many patches a picture is cut into: `level` 0 is the fewest that the model was trained on, 9 the most."""
    if not 0 <= level <= LEVELS:
        raise OptionError(f"resolution_level is {level}.", f"Give a number from 0 (fast) to {LEVELS} (fine).")
    low, high = tokens
    return int(low + level / LEVELS * (high - low))


@torch.inference_mode()
def infer(
    model: MoGeV1 | MoGeV2,
    picture: Tensor,
    *,
    fov_x: float | None = None,
    resolution_level: float = LEVELS,
    num_tokens: int | None = None,
    force_projection: bool = False,
    apply_mask: bool = True,
) -> Geometry:
    """picture: float (3, H, W) or (B, 3, H, W), sRGB in 0..1.

    fov_x: the camera's horizontal field of view in degrees, if it is known. num_tokens overrides resolution_level. force_projection moves each
    point onto its pixel's ray; without it x and y stay as predicted, as SAM 3D Objects has them. apply_mask puts +inf where there is nothing.
    Raises ImageError and OptionError.
    """
    _check(picture, fov_x, num_tokens)
    batch = picture if picture.ndim == 4 else picture[None]
    height, width = batch.shape[-2:]
    tokens = token_count(model.config.tokens, resolution_level) if num_tokens is None else num_tokens
    device = next(model.parameters()).device
    found = model(batch.to(device, torch.float32), tokens)
    mask = None if found.mask is None else found.mask > model.mask_threshold

    solved = _cameras(found.points, mask, fov_x)
    matrices = torch.from_numpy(np.stack([cameras.intrinsics(focal, width / height) for focal, _ in solved])).to(device)
    shifts = found.points.new_tensor([shift for _, shift in solved])
    points = torch.cat([found.points[..., :2], found.points[..., 2:] + shifts[:, None, None, None]], dim=-1)
    depth = points[..., 2]
    if mask is not None and model.needs_positive_depth:
        mask = mask & (depth > 0)
    if force_projection:
        points = unproject(depth, matrices)
    if found.scale is not None:
        points, depth = points * found.scale[:, None, None, None], depth * found.scale[:, None, None]
    normal = found.normal
    if apply_mask and mask is not None:
        points, depth = points.where(mask[..., None], torch.inf), depth.where(mask, torch.inf)
        normal = None if normal is None else normal.where(mask[..., None], 0.0)
    if mask is None:
        mask = torch.ones_like(depth, dtype=torch.bool)
    whole = Geometry(points, depth, mask, matrices, normal)
    return whole if picture.ndim == 4 else _first(whole)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth (B, H, W) along the optical axis and (B, 3, 3) for a picture of size 1 x 1 -> points (B, H, W, 3)."""
    height, width = depth.shape[-2:]
    u = (torch.arange(width, device=depth.device) + 0.5) / width
    v = (torch.arange(height, device=depth.device) + 0.5) / height
    entry = intrinsics[:, :, :, None, None]
    x = (u - entry[:, 0, 2]) / entry[:, 0, 0] * depth
    y = (v[:, None] - entry[:, 1, 2]) / entry[:, 1, 1] * depth
    return torch.stack([x, y, depth], dim=-1)


def _cameras(points: Tensor, mask: Tensor | None, fov_x: float | None) -> list[tuple[float, float]]:
    """Focal and shift of each picture. Only the sample that the solver looks at leaves the device."""
    height, width = points.shape[1:3]
    rows, columns = (cameras.sample(length) for length in (height, width))
    grid = np.ix_(rows, columns)
    at = tuple(torch.from_numpy(index).to(points.device) for index in grid)
    few = points[:, at[0], at[1]].cpu().numpy()
    masks = [None] * len(few) if mask is None else list(mask[:, at[0], at[1]].cpu().numpy())
    uv = cameras.places(height, width)[grid]
    known = None if fov_x is None else cameras.focal_of_fov(fov_x, width / height)
    return [cameras.solve(one, uv, valid, known) for one, valid in zip(few, masks)]


def _check(picture: Tensor, fov_x: float | None, num_tokens: int | None) -> None:
    if picture.ndim not in (3, 4) or picture.shape[-3] != 3 or not picture.is_floating_point() or 0 in picture.shape:
        raise ImageError(
            f"A picture for MoGe is a float tensor (3, H, W) or (B, 3, H, W), not {picture.dtype} {tuple(picture.shape)}.",
            "Convert it to RGB in 0..1.",
        )
    if fov_x is not None and not 0 < fov_x < 180:
        raise OptionError(f"fov_x is {fov_x}.", "Give the horizontal field of view in degrees, between 0 and 180.")
    if num_tokens is not None and num_tokens < 1:
        raise OptionError(f"num_tokens is {num_tokens}.", "Give a number of patches, such as 2551.")


def _first(whole: Geometry) -> Geometry:
    return Geometry(**{field.name: None if (value := getattr(whole, field.name)) is None else value[0] for field in fields(Geometry)})
