"""PyTorch3D and nvdiffrast behind the call of rasterise.py, for comparison. Both run only where they are forced by name.

Each decides coverage at a face's edge by its own rule and in its own precision: nvdiffrast rounds corners to sixteenths of a pixel (Laine and Karras,
High-Performance Software Rasterization on GPUs, 2011), so faces of a few pixels move; in 1.8 % of the pixels of a sphere of 4,680 faces in a picture
64 wide, another face is in front. PyTorch3D is BSD-3-Clause. nvdiffrast's licence forbids
commercial use, so nothing of ours ever chooses it.
Source: their public Python interfaces (PyTorch3D 0.7, nvdiffrast 0.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...contract.errors import OptionError
from .rasterise import REACH, Cull, Fragments


def rasterise(
    name: str, screen: Tensor, faces: Tensor, height: int, width: int, perspective: bool, cull: Cull, near: float, bary: bool
) -> Fragments:
    draw = _pytorch3d if name == "pytorch3d" else _nvdiffrast
    empty = screen.new_zeros(height, width).int() - 1, screen.new_zeros(height, width, 3)
    found = []
    for corners in screen:
        kept = _kept(corners, faces.long(), cull, near)
        face, weights = draw(corners, faces.long()[kept], height, width, perspective) if len(kept) else empty
        found.append((torch.where(face >= 0, kept[face.clamp(min=0).long()].int(), -1) if len(kept) else face, weights))
    face, weights = (torch.stack(part) for part in zip(*found))
    depths = screen[..., 2].gather(1, faces.long()[face.clamp(min=0).long()].view(len(screen), -1)).view_as(weights)
    depth = torch.where(face >= 0, (depths * weights).sum(dim=-1), torch.inf)
    return Fragments(face, weights if bary else None, depth)


def _kept(corners: Tensor, faces: Tensor, cull: Cull, near: float) -> Tensor:
    """The faces that the call's rules let through."""
    usable = torch.isfinite(corners).all(dim=1) & (corners[:, 2] > near) & (corners[:, :2].abs() < REACH).all(dim=1)
    a, b, c = corners[faces, :2].unbind(dim=1)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    facing = area != 0 if cull is None else area < 0 if cull == "back" else area > 0
    return (usable[faces].all(dim=1) & facing).nonzero()[:, 0]


def _pytorch3d(corners: Tensor, faces: Tensor, height: int, width: int, perspective: bool) -> tuple[Tensor, Tensor]:
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes  # type: ignore[import-not-found, unused-ignore]
    from pytorch3d.structures import Meshes  # type: ignore[import-not-found, unused-ignore]

    used = torch.where(torch.isfinite(corners), corners, 1.0)
    size = used.new_tensor([width, height])
    flat = (size - 2 * used[:, :2]) / min(height, width)  # its axes: x to the left, y up, the shorter side from -1 to 1
    lift = 0.0 if perspective else 1.0 - float(used[:, 2].min())  # it draws nothing at depths below 0
    meshes = Meshes([torch.cat([flat, used[:, 2:] + lift], dim=1)], [faces])
    face, _, weights, _ = rasterize_meshes(meshes, (height, width), faces_per_pixel=1, perspective_correct=perspective)
    return face[0, ..., 0].int(), weights[0, :, :, 0].clamp(min=0)


def _nvdiffrast(corners: Tensor, faces: Tensor, height: int, width: int, perspective: bool) -> tuple[Tensor, Tensor]:
    import nvdiffrast.torch as nvdiffrast  # type: ignore[import-not-found, unused-ignore]

    if height % 8 or width % 8:
        raise OptionError(f"nvdiffrast can't draw {width} x {height} pixels.", "Choose multiples of 8, or another backend.")
    size = corners.new_tensor([width, height])
    flat = 2 * corners[:, :2] / size - 1  # its first row is the one of y = -1
    depth = corners[:, 2:]
    drawn = depth[faces]
    low, high = float(drawn.min()), float(drawn.max())
    if perspective:
        low, high = low * 0.99, high * 1.01
        along, w = ((high + low) * depth - 2 * high * low) / (high - low), depth
    else:
        along, w = (depth - low) / max(high - low, 1e-9) * 1.98 - 0.99, torch.ones_like(depth)
    clip = torch.cat([flat * w, along, w], dim=1)
    clip = torch.where(torch.isfinite(clip), clip, 1.0)
    found, _ = nvdiffrast.rasterize(nvdiffrast.RasterizeCudaContext(), clip[None].contiguous(), faces.int().contiguous(), (height, width))
    u, v, _, number = found[0].unbind(dim=-1)
    face = number.int() - 1
    weights = torch.stack([u, v, 1 - u - v], dim=-1)
    return face, torch.where(face[..., None] >= 0, weights, 0.0)
