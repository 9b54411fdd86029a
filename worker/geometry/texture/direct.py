"""Direct mode: a texel's colour from the Gaussians around its point of the surface, without cameras.

The Gaussians near the point are seen along its normal, in parallel, and blended from the front as a splat renderer does. So what lies
below the surface stays hidden, as in the pictures that the splats were made for; a mere mean by density would mix it in. Source of the
blending: Kerbl et al., 3D Gaussian Splatting (2023); the footprint of a Gaussian along a direction is a Schur complement of its inverse
covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ....contract.scene import Splats
from ...job import Job
from ...ops.splatting import FAINT, OPAQUE, rotation_matrices
from .nearest import finder

NEIGHBOURS = 24
SAMPLE = 1024  # points that decide how far neighbours may lie
SHARE = 0.9  # of the points have all their neighbours within that distance
HOLLOW = 0.05  # opacity along the normal below which the nearest Gaussians are asked instead
LAYER = 0.25  # of the way to the farthest neighbour: standard deviation of the depth that still counts as the surface
CHUNK = 1 << 17  # points at once
LOW_PASS = 0.3  # square texels: the variance that is added to each Gaussian's, as splat renderers add it in square pixels


@dataclass(frozen=True)
class Gaussians:
    """Splats on a device. positions (N, 3), scales (N, 3), rotations (N, 4), opacities (N,), colors (N, 3), sRGB 0..1; all float32 and
    finite."""

    positions: torch.Tensor
    scales: torch.Tensor
    rotations: torch.Tensor
    opacities: torch.Tensor
    colors: torch.Tensor

    @staticmethod
    def of(splats: Splats, device: torch.device | str) -> Gaussians:
        arrays = (splats.positions, splats.scales, splats.rotations, splats.opacities, splats.colors())
        rows = [torch.tensor(values, device=device) for values in arrays]
        return Gaussians(*rows[:4], rows[4].clamp(0, 1))

    def precision(self, variance: float) -> torch.Tensor:
        """(N, 3, 3): the inverse covariance after `variance` (square metres) was added in every direction."""
        turn = rotation_matrices(self.rotations)
        return (turn / (self.scales * self.scales + variance)[:, None]) @ turn.transpose(1, 2)


def direct_colors(
    points: torch.Tensor, normals: torch.Tensor, gaussians: Gaussians, texel: float, job: Job, *, neighbours: int = NEIGHBOURS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and unit normals (N, 3) -> (colours (N, 3), opacity along the normal (N,)).

    texel: metres, a texel's width on the surface. Where the opacity stays below HOLLOW the colour is the mean of the nearest Gaussians,
    by their opacity and distance.
    """
    neighbours = min(neighbours, len(gaussians.positions))
    search = finder(gaussians.positions)
    radius = float(search.distance(points[:: max(1, len(points) // SAMPLE)], neighbours).quantile(SHARE)) * 1.0001 + 1e-12
    precision = gaussians.precision(LOW_PASS * texel * texel)
    colors, opacity = torch.empty_like(points), torch.empty_like(points[:, 0])
    for start in range(0, len(points), CHUNK):
        rows = slice(start, start + CHUNK)
        job.step("texture", start, len(points))
        who = search.nearest(points[rows], neighbours, radius)
        colors[rows], opacity[rows] = blend(points[rows], normals[rows], who, gaussians, precision)
    hollow = (opacity < HOLLOW).nonzero()[:, 0]
    while len(hollow):
        radius *= 2
        who = search.nearest(points[hollow], min(8, neighbours), radius)
        found = who[:, 0] >= 0
        colors[hollow[found]] = mean_by_distance(points[hollow[found]], who[found], gaussians)
        hollow = hollow[~found]
    return colors, opacity


def blend(
    points: torch.Tensor, normals: torch.Tensor, who: torch.Tensor, gaussians: Gaussians, precision: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is seen of the Gaussians `who` int64 (N, K), -1 for none, looking against the normals -> (colours (N, 3), opacity (N,))."""
    there = who >= 0
    who = who.clamp_min(0)
    offset = gaussians.positions[who] - points[:, None]
    height = (offset * normals[:, None]).sum(2)
    order = torch.where(there, height, -torch.inf).argsort(dim=1, descending=True)
    who, there = who.gather(1, order), there.gather(1, order)
    offset = offset.gather(1, order[..., None].expand(-1, -1, 3))
    turned = precision[who]
    along = (turned @ normals[:, None, :, None])[..., 0]  # P n
    slant = (along * offset).sum(2)
    squared = ((turned @ offset[..., None])[..., 0] * offset).sum(2) - slant * slant / (along * normals[:, None]).sum(2)
    alpha = (gaussians.opacities[who] * torch.exp(-0.5 * squared)).clamp(max=OPAQUE)
    alpha = torch.where(there & (alpha >= FAINT), alpha, 0.0)
    passing = torch.cumprod(1 - alpha, dim=1)
    weight = alpha * torch.cat([torch.ones_like(passing[:, :1]), passing[:, :-1]], dim=1)
    opacity = weight.sum(1)
    # Through a gap between the Gaussians of the surface, a speck of what lies below shines. It counts the less, the deeper it lies below what is
    # mostly seen; measured from there, and not from the mesh, which the splats may stand off by millimetres.
    height = height.gather(1, order)
    seen = (weight * height).sum(1) / opacity.clamp_min(1e-12)
    spread = LAYER * torch.where(there, offset.square().sum(2), 0.0).amax(1).sqrt().clamp_min(1e-12)
    weight = weight * torch.exp(-0.5 * ((height - seen[:, None]).clamp_max(0) / spread[:, None]).square())
    return (weight[..., None] * gaussians.colors[who]).sum(1) / weight.sum(1, keepdim=True).clamp_min(1e-12), opacity


def mean_by_distance(points: torch.Tensor, who: torch.Tensor, gaussians: Gaussians) -> torch.Tensor:
    """Colours (N, 3): the mean of the Gaussians `who` (N, K), -1 for none, weighted with opacity over squared distance."""
    there = who >= 0
    who = who.clamp_min(0)
    squared = (gaussians.positions[who] - points[:, None]).double().square().sum(2)  # far away, squares leave the range of float32
    weight = torch.where(there, (gaussians.opacities[who] + 1e-6) / squared.clamp_min(1e-18), 0.0)
    weight = (weight / weight.sum(1, keepdim=True)).float()
    return (weight[..., None] * gaussians.colors[who]).sum(1)
