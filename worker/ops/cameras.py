"""Pinhole and orthographic cameras as tensors, and the sets of views that baking, clean-up and previews look from.

Camera axes are OpenCV's (x right, y down, z forward); the pixel in row 0 and column 0 has its centre at (0.5, 0.5).
Source of the view sets, of the two projection matrices and of the degenerate view at the pole: spec/postprocess.md section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...contract.errors import OptionError
from ...contract.scene import Camera


@dataclass(frozen=True)
class Cameras:
    """V views of one picture size.

    view: (V, 4, 4) float32, world -> camera for column vectors. focal: (V, 2), pixels per unit of tangent across and down; orthographic:
    pixels per unit of length. centre: (V, 2), the pixel position of the view axis.
    """

    view: Tensor
    focal: Tensor
    centre: Tensor
    height: int
    width: int
    orthographic: bool = False

    def __post_init__(self) -> None:
        count = self.view.shape[0] if self.view.ndim else 0
        if self.view.shape != (count, 4, 4) or self.focal.shape != (count, 2) or self.centre.shape != (count, 2):
            raise OptionError(
                f"Cameras got view {tuple(self.view.shape)}, focal {tuple(self.focal.shape)} and centre {tuple(self.centre.shape)}.",
                "Give (V, 4, 4), (V, 2) and (V, 2).",
            )
        if self.height < 1 or self.width < 1:
            raise OptionError(f"Cameras got a picture of {self.width} x {self.height} pixels.", "Give a width and height of at least 1.")

    def __len__(self) -> int:
        return int(self.view.shape[0])

    def __getitem__(self, which: int | slice | Tensor) -> Cameras:
        """Some of the views; a single one stays a set of one."""
        if isinstance(which, int):
            which = slice(which, which + 1 or None)
        return replace(self, view=self.view[which], focal=self.focal[which], centre=self.centre[which])

    def to(self, device: torch.device | str) -> Cameras:
        return replace(self, view=self.view.to(device), focal=self.focal.to(device), centre=self.centre.to(device))

    def resized(self, height: int, width: int) -> Cameras:
        """The same views in a picture of another size (of another shape: stretched)."""
        factor = self.focal.new_tensor([width / self.width, height / self.height])
        return replace(self, focal=self.focal * factor, centre=self.centre * factor, height=height, width=width)

    @property
    def position(self) -> Tensor:
        """(V, 3): where the cameras stand in the world. Orthographic: the point whose depth is 0."""
        return -(self.view[:, :3, :3].transpose(1, 2) @ self.view[:, :3, 3:])[..., 0]

    def to_camera(self, points: Tensor) -> Tensor:
        """World points (N, 3) -> camera axes (V, N, 3)."""
        return points @ self.view[:, :3, :3].transpose(1, 2) + self.view[:, None, :3, 3]

    def project(self, points: Tensor) -> Tensor:
        """World points (N, 3) -> (V, N, 3): pixel x, pixel y, depth along the view axis. Perspective: at depth 0 x and y are not finite, and
        behind the camera they are mirrored; who draws drops them by depth."""
        seen = self.to_camera(points)
        depth = seen[..., 2:]
        flat = seen[..., :2] if self.orthographic else seen[..., :2] / depth
        return torch.cat([flat * self.focal[:, None] + self.centre[:, None], depth], dim=2)

    def intrinsics(self) -> Tensor:
        """(V, 3, 3): focal lengths and centre as shares of the picture's size."""
        size = self.focal.new_tensor([self.width, self.height])
        matrix = torch.eye(3, dtype=self.focal.dtype, device=self.focal.device).repeat(len(self), 1, 1)
        matrix[:, [0, 1], [0, 1]] = self.focal / size
        matrix[:, :2, 2] = self.centre / size
        return matrix

    def opengl_view(self) -> Tensor:
        """(V, 4, 4): world -> camera in OpenGL's axes (x right, y up, z back)."""
        return self.view * self.view.new_tensor([1.0, -1.0, -1.0, 1.0])[:, None]

    def projection(self, near: float, far: float, form: Literal["opengl", "inria"] = "opengl") -> Tensor:
        """(V, 4, 4) perspective matrix: `opengl` for `opengl_view`, depth -1..1; `inria` for `view`, depth 0..1 by the original splatting
        code's convention."""
        k = self.intrinsics()
        matrix = torch.zeros_like(self.view)
        matrix[:, 0, 0], matrix[:, 1, 1] = 2 * k[:, 0, 0], 2 * k[:, 1, 1]
        if form == "opengl":
            matrix[:, 0, 2], matrix[:, 1, 2] = 1 - 2 * k[:, 0, 2], 2 * k[:, 1, 2] - 1
            matrix[:, 2, 2], matrix[:, 2, 3], matrix[:, 3, 2] = (near + far) / (near - far), 2 * near * far / (near - far), -1
        else:
            matrix[:, 0, 2], matrix[:, 1, 2] = 2 * k[:, 0, 2] - 1, 1 - 2 * k[:, 1, 2]
            matrix[:, 2, 2], matrix[:, 2, 3], matrix[:, 3, 2] = far / (far - near), near * far / (near - far), 1
        return matrix


def from_scene(cameras: Sequence[Camera], height: int, width: int) -> Cameras:
    """Cameras of the contract (glTF's axes), all of one kind, for pictures of height x width pixels. As the draft's renderers have it, a picture
    of another shape than the camera's shows more or less at the sides (perspective) or is stretched (orthographic)."""
    if len({camera.kind for camera in cameras}) != 1:
        raise OptionError("Perspective and orthographic cameras were mixed, or there were none.", "Draw each kind by itself.")
    flipped = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    views, focals = torch.eye(4, dtype=torch.float64).repeat(len(cameras), 1, 1), []
    for view, camera in zip(views, cameras):
        view[:3, :3] = flipped[:, None] * torch.as_tensor(camera.pose.rotation_matrix(), dtype=torch.float64).T
        view[:3, 3] = -view[:3, :3] @ torch.tensor(camera.pose.translation, dtype=torch.float64)
        flat = camera.kind == "orthographic"
        if not (camera.xmag > 0 and camera.ymag > 0 if flat else 0 < camera.yfov < math.pi):
            raise OptionError("A camera without a field of view can't see.", "Give xmag and ymag above 0, or a yfov between 0 and pi.")
        if flat:
            focals.append([width / (2 * camera.xmag), height / (2 * camera.ymag)])
        else:
            focals.append([height / (2 * math.tan(camera.yfov / 2))] * 2)
    centre = torch.tensor([width / 2, height / 2]).repeat(len(cameras), 1)
    return Cameras(views.float(), torch.tensor(focals), centre, height, width, cameras[0].kind == "orthographic")


def orbit(
    yaw: Tensor | list[float],
    pitch: Tensor | list[float] | float,
    radius: float = 2.0,
    fov: float = math.radians(40),
    size: int | tuple[int, int] = 1024,
    *,
    up: Literal["z", "y"] = "z",
) -> Cameras:
    """Views of the origin from `radius` away. yaw, pitch: (V,) radians; fov: radians, across the shorter side; size: pixels, or (height,
    width).

    up="z": the eye is r (sin yaw cos pitch, cos yaw cos pitch, sin pitch). up="y": r (sin yaw cos pitch, sin pitch, cos yaw cos pitch).

    Straight above or below, "up" doesn't say how the picture is turned. The sign of cos(pitch) does, in the precision that pitch comes in:
    float32(-pi/2) lies just beyond the pole and gives the identity, as the original's baking views have it; float64 lies just before
    it and gives the picture turned by 180 degrees, as its hole-filling views have it.
    """
    yaw = torch.as_tensor(yaw).double().reshape(-1)
    pitch = torch.as_tensor(pitch).double().expand_as(yaw)
    height, width = (size, size) if isinstance(size, int) else size
    sin, cos, zero = torch.sin(yaw), torch.cos(yaw), torch.zeros_like(yaw)
    level, rise = torch.cos(pitch), torch.sin(pitch)
    side = torch.where(level < 0, -1.0, 1.0)
    if up == "z":
        forward = -torch.stack([sin * level, cos * level, rise], dim=1)
        right = torch.stack([-cos * side, sin * side, zero], dim=1)
    else:
        forward = -torch.stack([sin * level, rise, cos * level], dim=1)
        right = torch.stack([cos * side, zero, -sin * side], dim=1)
    view = torch.eye(4, dtype=torch.float64, device=yaw.device).repeat(len(yaw), 1, 1)
    view[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    view[:, 2, 3] = radius  # the eye is -radius * forward, so only depth is left of -R eye
    focal = torch.full((len(yaw), 2), 0.5 * min(height, width) / math.tan(fov / 2), device=yaw.device)
    centre = torch.tensor([width / 2, height / 2], device=yaw.device).repeat(len(yaw), 1)
    return Cameras(view.float(), focal.float(), centre.float(), height, width)


def hammersley(count: int, axes: int = 2) -> Tensor:
    """(count, axes) float64 in [0, 1): n / count, then the radical inverse of n to the bases 2, 3, 5, 7."""
    numbers = torch.arange(count)
    return torch.stack([numbers.double() / count, *(_radical_inverse(numbers, base) for base in (2, 3, 5, 7)[: axes - 1])], dim=1)


def _radical_inverse(numbers: Tensor, base: int) -> Tensor:
    """The digits of whole numbers, mirrored at the point."""
    result, share = torch.zeros(len(numbers), dtype=torch.float64), 1.0
    while bool((numbers > 0).any()):
        share /= base
        result += share * (numbers % base)
        numbers = numbers // base
    return result


def spherical_hammersley(
    count: int, offset: tuple[float, float] = (0.0, 0.0), remap: bool = False, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Evenly spread directions -> (yaw, pitch), radians, (count,) each. The first looks from straight below. dtype: see `orbit` on the pole."""
    u, w = hammersley(count).unbind(1)
    u, w = u + offset[0] / count, w + offset[1]
    if remap:
        u = torch.where(u < 0.25, 2 * u, 2 * u / 3 + 1 / 3)
    return (2 * math.pi * w).to(dtype), (torch.arccos(1 - 2 * u) - math.pi / 2).to(dtype)
