"""Several objects' splats in one scene, as the original's demo places and normalises them (spec: stage2.md section 10).

Frame: PyTorch3D camera axes (x left, y up, z forward), row vectors: `p_scene = (p_object * scale) @ matrix(rotation) + translation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .gaussians import Gaussians, merge
from .pose import DecodedPose, quat_to_matrix

SOLID = 0.9  # splats above this opacity say how large a scene is
LEAST_OVER_KERNEL = 1.1


def place(splats: Gaussians, rotation: Tensor, translation: Tensor, scale: Tensor) -> Gaussians:
    """Object -> scene. rotation (4,) w x y z, translation (3,), scale (3,) of three equal numbers. The kernel scales too.

    Row vectors turn by the transposed matrix, so orientations turn by the conjugate; they end with w >= 0.
    """
    size = float(scale.float().mean())
    positions = (splats.positions() * scale) @ quat_to_matrix(rotation) + translation
    turned = quaternion_product(rotation * rotation.new_tensor([1.0, -1.0, -1.0, -1.0]), splats.rotations())
    turned = torch.where(turned[:, :1] < 0, -turned, turned)
    kernel = splats.kernel * size
    scales = (splats.scales() * scale).clamp(min=LEAST_OVER_KERNEL * kernel)
    return splats.with_positions(positions).with_quaternions(turned).with_scales(scales, kernel)


def make_scene(objects: Sequence[tuple[Gaussians, DecodedPose]]) -> Gaussians:
    """Every object placed by its pose (of batch 1), in the order given."""
    return merge([place(splats, pose.rotation[0], pose.translation[0], pose.scale[0]) for splats, pose in objects])


def normalise_scene(scene: Gaussians, *, fix_alignment: bool = False) -> Gaussians:
    """Centre the solid splats' box at the origin, its longest side 1. fix_alignment: first (x, y, z) -> (-x, z, y), orientations left alone.

    A scene without a solid splat is measured by all of its splats (the original fails there); a scene without extent keeps its size.
    """
    positions = scene.positions()
    if fix_alignment:
        positions = torch.stack([-positions[:, 0], positions[:, 2], positions[:, 1]], dim=1)
    if len(scene) == 0:
        return scene
    solid = scene.opacities()[:, 0] > SOLID
    measured = positions[solid] if bool(solid.any()) else positions
    low, high = measured.amin(0), measured.amax(0)
    extent = float((high - low).max()) or 1.0
    centred = positions / extent - (low / extent + high / extent) / 2
    return scene.with_positions(centred).with_scales(scene.scales() / extent, scene.kernel / extent)


def quaternion_product(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product of (..., 4) w x y z, broadcast."""
    pw, pv, qw, qv = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
    pv, qv = torch.broadcast_tensors(pv, qv)
    real = pw * qw - (pv * qv).sum(-1, keepdim=True)
    return torch.cat([real, pw * qv + qw * pv + torch.linalg.cross(pv, qv)], dim=-1)
