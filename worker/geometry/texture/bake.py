"""A cleaned mesh and its splats in, a textured mesh out: unwrap, find each texel's point of the surface, colour it, fill what lies
between the charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ....contract.errors import InputError
from ....contract.record import Record, limits
from ....contract.scene import Mesh, Splats
from ...job import Job, timed
from ..surfaces import sound, unit_normals
from .atlas import Texels, texels
from .direct import HOLLOW, Gaussians, direct_colors
from .multiview import Rig, fitted, view_colors
from .padding import fill
from .unwrap import Unwrapped, unwrap


@dataclass(frozen=True)
class BakeOptions(Record):
    """How a texture is made.

    size: texels, both ways. mode: `direct` gathers the splats around each texel's point; `views` renders them from `views` sides and
    takes means; `fit` does that, then fits the texels to these pictures in `steps` steps (the original's way); `vertex` takes the mesh's
    vertex colours and needs no splats. unwrap: `auto` is xatlas, and box charts where it fails. padding: texels between charts.
    view_size: pixels of the pictures; None: as `size`, at most 1024. unwrap_limit: seconds for xatlas.
    """

    size: int = limits(1024, 256, 4096)
    mode: Literal["direct", "views", "fit", "vertex"] = "direct"
    unwrap: Literal["auto", "xatlas", "box"] = "auto"
    padding: int = limits(4, 0, 64)
    views: int = limits(40, 4, 1000)
    view_size: int | None = limits(None, 64, 4096)
    steps: int = limits(200, 1, 10000)
    neighbours: int = limits(24, 1, 256)
    unwrap_limit: float = limits(60.0, 0.1, 3600.0)


@dataclass(frozen=True)
class Baked:
    """mesh: vertices split along the charts' borders, with UVs, texture and normals. report: what was done, as JSON values."""

    mesh: Mesh
    report: dict[str, Any]


def bake(
    mesh: Mesh, splats: Splats | None, job: Job, options: BakeOptions | None = None, device: torch.device | str | None = None
) -> Baked:
    """Mesh (closed or not, decimated; its own texture and UVs aren't looked at) and splats in the same frame -> the mesh with a texture.

    device: default the first CUDA device, else the CPU. Raises InputError where there are no splats (or, for `vertex`, no vertex
    colours), or the mesh has no faces; OutputError where none of the splats is finite; the errors of `unwrap`; JobCancelled from the job.
    """
    options = options or BakeOptions()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.mode == "vertex" and mesh.vertex_colors is None:
        raise InputError("The mesh has no vertex colours to bake.", "Bake from splats instead.")
    if options.mode != "vertex" and (splats is None or len(splats.positions) == 0):
        raise InputError("There are no splats to take the texture's colours from.", "Give the object's splats, or bake vertex colours.")
    with timed(job, "unwrap"):
        charts = unwrap(
            mesh.vertices, mesh.faces, job, method=options.unwrap, size=options.size, padding=options.padding, limit=options.unwrap_limit,
            device=device,
        )  # fmt: skip
    with timed(job, "texture"), torch.inference_mode():
        job.step("texture", 0, 1)
        surface = Surface.of(mesh, charts, options.size, device)
        job.step("texture", 0, 1)
        if options.mode == "vertex":
            assert mesh.vertex_colors is not None
            corners = torch.from_numpy(mesh.vertex_colors[charts.source, :3].astype(np.float32) / 255).to(device)
            colors, report = surface.texels.at(corners, surface.faces), {}
        else:
            assert splats is not None
            gaussians = Gaussians.of(sound(splats), device)
            colors, report = _from_splats(surface, gaussians, options, job)
        job.step("texture", 0, 1)
        image = fill(surface.spread(colors), surface.known)
        if options.mode == "fit":
            fine = fitted(image, surface.uvs, surface.vertices, surface.faces, gaussians, _rig(surface, options), options.steps, job)
            image = fill(fine, surface.known)
        texture = (image.clamp(0, 1) * 255).round_().to(torch.uint8).cpu().numpy()
        job.step("texture", 1, 1)
    report = {
        "mode": options.mode, "size": options.size, "unwrap": charts.method, "charts": len(np.unique(charts.charts)),
        "vertices": len(charts.source), "faces": len(charts.faces), "coverage": surface.coverage, "texel": surface.texel,
        "device": device.type, **report, **({"note": charts.note} if charts.note else {}),
    }  # fmt: skip
    baked = Mesh(
        mesh.vertices[charts.source],
        charts.faces.astype(np.uint32),
        normals=surface.normals.cpu().numpy(),
        uvs=charts.uvs,
        texture=texture,
        roughness=mesh.roughness,
    )
    return Baked(baked, report)


@dataclass(frozen=True)
class Surface:
    """The unwrapped mesh on a device, and its texels. vertices, normals (V, 3); faces int64 (F, 3); uvs (V, 2);
    texel: a texel's mean width in metres; coverage: the share of the texture that faces cover."""

    vertices: torch.Tensor
    normals: torch.Tensor
    faces: torch.Tensor
    uvs: torch.Tensor
    texels: Texels
    size: int
    texel: float
    coverage: float

    @staticmethod
    def of(mesh: Mesh, charts: Unwrapped, size: int, device: torch.device) -> Surface:
        normals = unit_normals(Mesh(mesh.vertices, mesh.faces))[charts.source]
        arrays = (mesh.vertices[charts.source], normals, charts.faces, charts.uvs, charts.charts >= 0)
        vertices, turned, faces, uvs, usable = (torch.tensor(array, device=device) for array in arrays)
        found = texels(uvs[faces], size, size, usable=usable)
        a, b, c = vertices[faces].unbind(1)
        area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2
        inside = max(int(found.inside.sum()), 1)
        return Surface(vertices, turned, faces, uvs, found, size, (area / inside) ** 0.5, inside / size**2)

    @property
    def known(self) -> torch.Tensor:
        """bool (size, size): the texels that have a colour of their own."""
        known = torch.zeros(self.size**2, dtype=torch.bool, device=self.uvs.device)
        known[self.texels.index] = True
        return known.view(self.size, self.size)

    def spread(self, colors: torch.Tensor) -> torch.Tensor:
        """The texels' colours (N, C) in their places, (size, size, C); 0 elsewhere."""
        image = colors.new_zeros(self.size**2, colors.shape[1])
        image[self.texels.index] = colors
        return image.view(self.size, self.size, -1)


def _from_splats(surface: Surface, gaussians: Gaussians, options: BakeOptions, job: Job) -> tuple[torch.Tensor, dict[str, Any]]:
    points = surface.texels.at(surface.vertices, surface.faces)
    normals = torch.nn.functional.normalize(surface.texels.at(surface.normals, surface.faces), dim=1)
    if options.mode == "direct":
        colors, opacity = direct_colors(points, normals, gaussians, surface.texel, job, neighbours=options.neighbours)
        return colors, {"hollow": int((opacity < HOLLOW).sum())}
    colors, weight = view_colors(points, normals, surface.vertices, surface.faces, gaussians, _rig(surface, options), job)
    unseen = (weight < 1e-4).nonzero()[:, 0]
    if len(unseen):
        colors[unseen] = direct_colors(points[unseen], normals[unseen], gaussians, surface.texel, job, neighbours=options.neighbours)[0]
    return colors, {"views": options.views, "unseen": len(unseen)}


def _rig(surface: Surface, options: BakeOptions) -> Rig:
    return Rig.around(surface.vertices, options.views, options.view_size or min(options.size, 1024))
