"""Gaussian splats as the decoders make them: raw attributes, what they mean, and a PLY's columns (spec: stage2.md 8.2, 8.3).

Frame: the model's object frame, z up, the cube [-0.5, 0.5]. Kerbl et al., "3D Gaussian Splatting", 2023; the kernel floor is a 3D low-pass filter.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL = 9e-4  # smallest standard deviation, in object units
BLOCK = 1 << 12  # splats at once on a CPU: they stay in its cache, and no operation wakes further threads for so few
ATTRIBUTES = ("xyz", "features_dc", "scaling", "rotation", "opacity")
COLUMNS = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")  # fmt: skip


@dataclass(frozen=True)
class Encoding:
    """What raw numbers mean; the defaults are the released configuration's. The cube from `origin`, `size` wide, is 0..1.

    scale_bias, opacity_bias: what a raw 0 means. softplus: scales went through its inverse; else through the logarithm.
    """

    origin: float = -0.5
    size: float = 1.0
    scale_bias: float = 0.004
    opacity_bias: float = 0.1
    softplus: bool = True

    @functools.cached_property
    def raw_scale_bias(self) -> float:
        """Computed as the original does, in float32."""
        return float(self.inverse(torch.tensor(self.scale_bias, dtype=torch.float32)))

    @functools.cached_property
    def raw_opacity_bias(self) -> float:
        return float(torch.tensor(math.log(self.opacity_bias / (1 - self.opacity_bias)), dtype=torch.float32))

    def activate(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) if self.softplus else raw.exp()

    def inverse(self, scales: Tensor) -> Tensor:
        return scales + torch.log(-torch.expm1(-scales)) if self.softplus else torch.log(scales)


RELEASED = Encoding()


@dataclass(frozen=True)
class Gaussians:
    """n splats, raw float32: xyz (n, 3) in 0..1, features_dc (n, 1, 3), scaling (n, 3), rotation (n, 4) less the identity, opacity (n, 1).

    kernel: the floor under their scales, a part of the object: scenes change it. encoding: what the raw numbers mean.
    """

    xyz: Tensor
    features_dc: Tensor
    scaling: Tensor
    rotation: Tensor
    opacity: Tensor
    kernel: float = KERNEL
    encoding: Encoding = RELEASED

    def __len__(self) -> int:
        return len(self.xyz)

    def rows(self, chosen: slice) -> Gaussians:
        """Some of the splats, views."""
        return Gaussians(*(getattr(self, name)[chosen] for name in ATTRIBUTES), kernel=self.kernel, encoding=self.encoding)

    # -- activated

    def positions(self) -> Tensor:
        """(n, 3) in the object's cube."""
        return (self.xyz if self.encoding.size == 1 else self.xyz * self.encoding.size) + self.encoding.origin

    def scales(self) -> Tensor:
        """(n, 3), standard deviations, none below the kernel."""
        return torch.hypot(
            self.encoding.activate(self.scaling + self.encoding.raw_scale_bias), torch.full((), self.kernel, device=self.scaling.device)
        )

    def quaternions(self) -> Tensor:
        """(n, 4) w x y z, of any length: what a PLY holds."""
        return self.rotation + _identity(self.rotation)

    def rotations(self) -> Tensor:
        """(n, 4) w x y z, unit."""
        return F.normalize(self.quaternions(), dim=-1)

    def opacities(self) -> Tensor:
        """(n, 1) in 0..1."""
        return torch.sigmoid(self.opacity + self.encoding.raw_opacity_bias)

    # -- the way back

    def with_positions(self, positions: Tensor) -> Gaussians:
        return replace(self, xyz=(positions - self.encoding.origin) / self.encoding.size)

    def with_scales(self, scales: Tensor, kernel: float) -> Gaussians:
        """Scales below the kernel become the kernel."""
        free = (scales.square() - kernel**2).clamp(min=0).sqrt()
        return replace(self, scaling=self.encoding.inverse(free) - self.encoding.raw_scale_bias, kernel=kernel)

    def with_quaternions(self, quaternions: Tensor) -> Gaussians:
        return replace(self, rotation=quaternions - _identity(quaternions))

    def with_opacities(self, opacities: Tensor) -> Gaussians:
        """0 and 1 become infinite logits."""
        return replace(self, opacity=_logit(opacities) - self.encoding.raw_opacity_bias)

    # -- a PLY's rows

    def records(self) -> Tensor:
        """float32 (n, 17), the columns COLUMNS: positions, zeros, DC coefficients, logit, log scales, quaternion; logits may be infinite."""
        rows = self.xyz.new_empty(len(self), len(COLUMNS))
        block = BLOCK if rows.device.type == "cpu" else max(len(self), 1)
        for start in range(0, len(self), block):
            here, part = rows[start : start + block], self.rows(slice(start, start + block))
            here[:, 0:3] = part.positions()
            here[:, 3:6] = 0
            here[:, 6:9] = part.features_dc[:, 0]
            here[:, 9:10] = _logit(part.opacities())
            here[:, 10:13] = _log(part.scales())
            here[:, 13:17] = part.quaternions()
        return rows


def from_records(records: Tensor, kernel: float = KERNEL, encoding: Encoding = RELEASED) -> Gaussians:
    """float32 (n, 17) as `Gaussians.records` makes them -> splats. Scales on the kernel's floor stay on it."""
    xyz, _, features, logit, scales, quaternions = records.split([3, 3, 3, 1, 3, 4], dim=1)
    empty = Gaussians(xyz, features[:, None], scales, quaternions, logit, encoding=encoding)
    made = empty.with_positions(xyz).with_quaternions(quaternions).with_opacities(torch.sigmoid(logit))
    return made.with_scales(scales.exp(), kernel)


def merge(parts: list[Gaussians]) -> Gaussians:
    """Splats of several objects of one encoding in a row, under the smallest of their kernels: those with a larger one come out slightly smaller."""
    return Gaussians(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ATTRIBUTES),
        kernel=min(part.kernel for part in parts),
        encoding=parts[0].encoding,
    )


def _logit(p: Tensor) -> Tensor:
    return _log(p / (1 - p))


def _log(x: Tensor) -> Tensor:
    """The logarithm; torch.log wakes threads for as few as 2048 numbers, and on a busy machine waits for them longer than it works."""
    return torch.special.xlogy(1.0, x)


def _identity(like: Tensor) -> Tensor:
    return like.new_tensor([1.0, 0.0, 0.0, 0.0])
