"""Multi-view mode: the splats are rendered from all around, and each texel takes the mean of what the views show of its point.

A view counts where nothing of the mesh stands before the point, and the more the closer it looks along the normal: seen aslant, colours
are smeared over the surface. Which views: spec/postprocess.md section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import grid_sample, max_pool2d

from ...job import Job
from ...ops.cameras import Cameras, orbit, spherical_hammersley
from ...ops.rasterise import interpolate, rasterise
from ...ops.splatting import splat
from .direct import Gaussians
from .fit import bilinear, fit

FOV = math.radians(40)
MARGIN = 1.05  # how much more than the mesh a picture shows
SHARPNESS = 4  # power of the cosine between the normal and the direction to the camera
LEAST = 0.1  # cosine below which a view doesn't count
EDGE = 3  # pixels around the outline of what hides a part: splats stand out of their mesh, and would be painted onto what lies behind
SLACK = 4.0  # pixels: what may stand before a point and still be its own surface
CLEAR = 0.9  # opacity above which a pixel shows the object and nothing else
BATCH = 4  # views at once


@dataclass(frozen=True)
class Rig:
    """Cameras around a mesh, and what they look at: the mesh's middle is moved to the origin."""

    cameras: Cameras
    middle: torch.Tensor

    @staticmethod
    def around(vertices: torch.Tensor, views: int, size: int) -> Rig:
        """vertices (V, 3); pictures of size x size pixels, in which the whole mesh is seen."""
        middle = (vertices.amin(0) + vertices.amax(0)) / 2
        extent = float((vertices - middle).norm(dim=1).max())
        cameras = orbit(*spherical_hammersley(views), radius=MARGIN * max(extent, 1e-9) / math.sin(FOV / 2), fov=FOV, size=size)
        return Rig(cameras.to(vertices.device), middle)

    def pictures(self, gaussians: Gaussians, views: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours (B, H, W, 3), multiplied with the opacity, and the opacity (B, H, W)."""
        g = gaussians
        rendered = splat(g.positions - self.middle, g.scales, g.rotations, g.opacities, g.colors, self.cameras[views], near=self._near())
        return rendered.image, rendered.alpha

    def _near(self) -> float:
        """Splats that stand out of the mesh must not fill a picture."""
        return 0.1 * float(self.cameras.position.norm(dim=1).max())


def view_colors(
    points: torch.Tensor, normals: torch.Tensor, vertices: torch.Tensor, faces: torch.Tensor, gaussians: Gaussians, rig: Rig, job: Job
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on the mesh and unit normals (N, 3); vertices (V, 3), faces int64 (F, 3) -> (colours (N, 3), weight (N,), 0 where no view
    sees the point)."""
    total, weight = torch.zeros_like(points), torch.zeros_like(points[:, 0])
    centred = points - rig.middle
    for start in range(0, len(rig.cameras), BATCH):
        views = slice(start, start + BATCH)
        job.step("texture", start, len(rig.cameras))
        cameras = rig.cameras[views]
        image, alpha = rig.pictures(gaussians, views)
        depth = rasterise(cameras.project(vertices - rig.middle), faces, cameras.height, cameras.width, bary=False).depth
        layers = torch.cat([image, alpha[..., None]], dim=3).permute(0, 3, 1, 2)
        nearest = -max_pool2d(-depth[:, None], 2 * EDGE, stride=1)
        for view in range(len(cameras)):
            screen = cameras[view].project(centred)[0]
            towards = torch.nn.functional.normalize(cameras.position[view] - centred, dim=1)
            cosine = (towards * normals).sum(1)
            seen = (cosine > LEAST) & _unhidden(screen, nearest[view, 0], cosine, float(cameras.focal[view, 0]))
            which = seen.nonzero()[:, 0]
            grid = screen[which, :2] * (2 / screen.new_tensor([cameras.width, cameras.height])) - 1
            found = grid_sample(layers[view : view + 1], grid[None, None], align_corners=False, padding_mode="border")[0, :, 0].T
            share = cosine[which] ** SHARPNESS * found[:, 3]  # the colour comes multiplied with the opacity: both weigh by its square
            total.index_add_(0, which, found[:, :3] * share[:, None])
            weight.index_add_(0, which, found[:, 3] * share)
    return total / weight.clamp_min(1e-12)[:, None], weight


def _unhidden(screen: torch.Tensor, nearest: torch.Tensor, cosine: torch.Tensor, focal: float) -> torch.Tensor:
    """bool (N,): whether no face stands before the points, nor beside them at less than EDGE pixels.

    screen: (N, 3) as Cameras.project gives it; nearest: the least depth of each window of 2 EDGE x 2 EDGE pixels. A surface seen aslant is nearer
    in the next pixel, by the pixel's width times the angle's tangent: that much is allowed.
    """
    column = (screen[:, 0] + 0.5 - EDGE).floor().long().clamp(0, nearest.shape[1] - 1)
    row = (screen[:, 1] + 0.5 - EDGE).floor().long().clamp(0, nearest.shape[0] - 1)
    pixel = screen[:, 2] / focal
    return nearest[row, column] > screen[:, 2] - SLACK * pixel * (1 + 1 / cosine.clamp_min(LEAST))


def fitted(
    texture: torch.Tensor,
    uvs: torch.Tensor,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    gaussians: Gaussians,
    rig: Rig,
    steps: int,
    job: Job,
) -> torch.Tensor:
    """The texture (H, W, 3), fitted to the rig's pictures in `steps` steps of one view each. uvs (V, 2); vertices (V, 3);
    faces int64 (F, 3)."""
    height, width = texture.shape[:2]
    lookups, colors = [], []
    for view in range(len(rig.cameras)):
        job.step("texture", view, len(rig.cameras) + steps)
        image, alpha = rig.pictures(gaussians, slice(view, view + 1))
        camera = rig.cameras[view]
        fragments = rasterise(camera.project(vertices - rig.middle), faces, camera.height, camera.width)
        clear = fragments.covered & (alpha > CLEAR)
        places = interpolate(uvs, faces, fragments)[clear] * uvs.new_tensor([width, height]) - 0.5
        lookups.append(bilinear(places, height, width))
        colors.append(image[clear] / alpha[clear][:, None])

    def order() -> Iterator[int]:
        generator = torch.Generator().manual_seed(0)
        for step in range(steps):
            job.step("texture", len(rig.cameras) + step, len(rig.cameras) + steps)
            yield int(torch.randint(len(rig.cameras), (), generator=generator))

    return fit(texture, lookups, colors, order(), steps)
