"""Pose latents -> rotation, translation, scale (spec: stage1.md section 7).

The original's convention throughout: row vectors, `p_cam = (p_obj * scale) @ matrix(rotation) + translation`, PyTorch3D camera axes, quaternions
w x y z. worker/geometry/frames.py turns it into ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATION_MEAN = (
    -0.06366084883674913, 0.008438224692279752, 0.00017084786438302483, 0.0007126610473540038, -0.0030916726538816417, 0.5166093753457688,
)  # fmt: skip
ROTATION_STD = (
    0.6656971967514863, 0.6787012271867754, 0.30345010594844524, 0.4394504420678794, 0.39817973931717104, 0.6176286868761914,
)  # fmt: skip

Convention = Literal["ScaleShiftInvariant", "ApparentSize", "DisparitySpace"]  # the released configuration has the first


@dataclass(frozen=True)
class DecodedPose:
    """translation (B, 3), rotation (B, 4) with w >= 0, scale (B, 3) of three equal values."""

    translation: Tensor
    rotation: Tensor
    scale: Tensor


def decode_pose(
    latents: Mapping[str, Tensor],
    scene_scale: Tensor,
    scene_shift: Tensor,
    downsample: int | Tensor = 1,
    convention: Convention = "ScaleShiftInvariant",
) -> DecodedPose:
    """latents: 6drotation_normalized (B, 1, 6), translation and scale (B, 1, 3). scene_scale, scene_shift: (B or 1, 3) of the normaliser.

    downsample: what `occupancy.halve` returned, one for all or (B,); a halved grid makes a smaller object, which the scale makes up for. convention:
    how translation and size relate to the scene (spec: postprocess.md 9); all but the default read translation_scale (B, 1, 1) too.
    """
    raw = latents["6drotation_normalized"][:, 0].float()
    rotation = rot6d_to_matrix(raw * raw.new_tensor(ROTATION_STD) + raw.new_tensor(ROTATION_MEAN))
    rotation = quat_to_matrix(matrix_to_quat(rotation))
    size = latents["scale"][:, 0].float().exp()
    translation, unit = _in_scene(latents, scene_scale, scene_shift, convention)
    affine = size[:, :, None] * rotation * unit[:, None, :]  # rows: the object's axes, in metres
    lengths = affine.norm(dim=-1)
    scale = lengths.mean(-1, keepdim=True).expand(-1, 3)
    if isinstance(downsample, Tensor):
        downsample = downsample.view(-1, 1)
    return DecodedPose(
        translation=translation,
        rotation=matrix_to_quat(affine / lengths[:, :, None]),
        scale=scale * downsample,
    )


def _in_scene(latents: Mapping[str, Tensor], scale: Tensor, shift: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """-> translation (B, 3) in metres, and what the latent's unit of size is there (B, 3)."""
    moved = latents["translation"][:, 0].float()
    if convention == "ScaleShiftInvariant":
        return moved * scale + shift, scale
    far = latents["translation_scale"][:, 0].float().exp()
    if convention == "ApparentSize":
        return moved * far * scale, far * scale
    depth = far * shift[:, 2:].exp() * scale  # DisparitySpace: a shift in the picture, and the logarithm of a depth
    return torch.cat([moved[:, :2] + shift[:, :2], torch.ones_like(far)], dim=1) * depth, depth


def rot6d_to_matrix(rotation: Tensor) -> Tensor:
    """(..., 6) -> (..., 3, 3) whose columns are the two given directions, made orthonormal, and their cross product (Zhou et al. 2019)."""
    a1, a2 = rotation[..., :3], rotation[..., 3:]
    b1 = F.normalize(a1, dim=-1)
    b2 = F.normalize(a2 - (b1 * a2).sum(-1, keepdim=True) * b1, dim=-1)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], dim=-1)


def matrix_to_quat(matrix: Tensor) -> Tensor:
    """(..., 3, 3) rotation -> (..., 4) w x y z with w >= 0, from the best conditioned of four candidates."""
    m = matrix
    d0, d1, d2 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + d0 + d1 + d2, 1 + d0 - d1 - d2, 1 - d0 + d1 - d2, 1 - d0 - d1 + d2], dim=-1)
    roots = squares.clamp(min=0).sqrt()
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    w, x, y, z = (roots**2).unbind(-1)
    rows = [torch.stack(row, dim=-1) for row in ((w, a, b, c), (a, x, d, e), (b, d, y, f), (c, e, f, z))]
    candidates = torch.stack(rows, dim=-2) / (2 * roots.clamp(min=0.1))[..., None]
    best = roots.argmax(-1)[..., None, None].expand(*roots.shape[:-1], 1, 4)
    q = candidates.gather(-2, best)[..., 0, :]
    return torch.where(q[..., :1] < 0, -q, q)


def quat_to_matrix(quaternion: Tensor) -> Tensor:
    """(..., 4) of any length -> (..., 3, 3), the usual matrix for column vectors."""
    w, x, y, z = quaternion.unbind(-1)
    s = 2 / (quaternion * quaternion).sum(-1)
    rows = [
        torch.stack([1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)], dim=-1),
        torch.stack([s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)], dim=-1),
        torch.stack([s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def transform_points(points: Tensor, rotation: Tensor, translation: Tensor, scale: Tensor) -> Tensor:
    """(B, N, 3) object -> camera: `(points * scale) @ matrix(rotation) + translation`; rotation (B, 4), the others (B, 3)."""
    return (points * scale[:, None]) @ quat_to_matrix(rotation) + translation[:, None]
