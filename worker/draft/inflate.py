"""One object from beginning to end: cut out, surface, metres, splats (spec draft_engine.md 2 and 5).

Pixels become metres at the very end: the mesh's longest side is `size`, its origin the middle of its lower edge (or its centre).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...contract.request import ReconstructRequest
from ...contract.scene import Mesh, Splats
from ..job import Job, timed
from .mask import COARSE_SIDE, cut
from .presets import Parameters, resolve, texture_side
from .solid import WALL
from .splats import cut_walls, levels, splat_surface
from .surface import Surface, smooth_surface, voxel_surface

STAGES = ("mask", "mesh", "heights", "texture", "splats")
SPLAT_EDGE = 3.5  # sprite pixels that a splat's piece of surface may be long, on average: one split at 96 cells and 512 pixels
NORMAL_PASSES = 2


@dataclass(frozen=True)
class Inflated:
    """mesh, splats: in the object's frame, metres. anchor: where its origin lies in the picture, (x, y) in pixels, y down. metres: metres per
    picture pixel. info: JSON values. notes: sentences for the user."""

    mesh: Mesh
    splats: Splats
    anchor: tuple[float, float]
    metres: float
    info: dict[str, Any]
    notes: tuple[str, ...]


class _Steps:
    """Progress over all objects of a job: which stage of which object ends."""

    def __init__(self, job: Job, index: int, count: int) -> None:
        self.job, self.base, self.total = job, index * len(STAGES), count * len(STAGES)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        with timed(self.job, stage):
            yield
        self.job.step("inflate", self.base + STAGES.index(stage) + 1, self.total)


def inflate(request: ReconstructRequest, index: int, job: Job) -> Inflated:
    """The object of the request's mask `index`. Raises InputErrors that name it, and whatever `job` raises to cancel."""
    steps = _Steps(job, index, len(request.masks))
    name, draft = request.names[index], request.draft
    notes: list[str] = []
    with steps("mask"):
        alpha = None if request.alpha is None else request.alpha[index]
        wants_full = draft.preset in ("slab", "pixel") or draft.profile == "voxel" or draft.rim == "wall"
        sprite = cut(
            request.image,
            request.masks[index],
            alpha,
            name,
            keep=draft.keep,
            hole_min=draft.hole_min,
            allow_full=wants_full,
            work_side=max(texture_side(request), COARSE_SIDE),
        )
        p = resolve(request, sprite.box_mask(), sprite.pixel_art)
        if sprite.soft:
            notes.append("its edges are soft like fire or smoke: it became a solid body; a billboard or the splats may serve better")
    make = voxel_surface if p.profile == "voxel" else smooth_surface
    surface = make(sprite, p, draft.back_image, steps)
    facts = surface.facts
    if facts.get("rescued"):
        notes.append("parts thinner than the grid were thickened; a higher quality or grid keeps them exact")
    solid = surface.solid
    if p.face_budget and len(solid.faces) > p.face_budget:
        notes.append(f"it needs {len(solid.faces)} faces, more than the budget of {p.face_budget}")

    with steps("splats"):
        positions, anchor, metres = _to_metres(surface, p)
        mesh = _mesh(surface, positions)
        # Larger pictures count as `splat_side` pixels: a splat for each of their pixels would cost more than it shows.
        edge = SPLAT_EDGE * p.size / min(max(sprite.pixels), p.splat_side)
        n = levels(positions, solid.faces, edge, p.splat_target)
        geometry = positions, solid.faces, solid.rim, surface.uvs
        if p.profile == "voxel":
            geometry = cut_walls(positions, solid.faces, solid.part == WALL, solid.rim, surface.uvs)
        splats = splat_surface(*geometry, surface.texture, n, p.size)
    gates = {
        "closed": solid.is_closed(),
        "euler": solid.euler(),
        "faces": len(solid.faces),
        "splats": len(splats.positions),
    }
    info = {"parameters": p.describe(), "gates": gates, "facts": facts, "notes": list(notes)}
    return Inflated(mesh, splats, anchor, metres, info, tuple(notes))


def _to_metres(surface: Surface, p: Parameters) -> tuple[np.ndarray, tuple[float, float], float]:
    """Positions float32 (V, 3) in the object's frame; its origin in the picture (x, y), pixels; metres per picture pixel."""
    positions = surface.solid.positions
    low, high = positions.min(0), positions.max(0)
    scale = p.size / float(max(high[:2] - low[:2]))
    origin = np.array([(low[0] + high[0]) / 2, low[1] if p.pivot == "bottom" else (low[1] + high[1]) / 2, 0.0])
    anchor = (surface.left + origin[0] * surface.unit, surface.top - origin[1] * surface.unit)
    return ((positions - origin) * scale).astype(np.float32), anchor, scale / surface.unit


def _mesh(surface: Surface, positions: np.ndarray) -> Mesh:
    """The mesh with its vertices split where UVs or normals break."""
    faces, part, count = surface.solid.faces, surface.solid.part, len(positions)
    quads = np.arange(len(faces)) // 2
    island = {"smooth": surface.chart, "crisp": part, "flat": quads}[surface.normals].astype(np.int64)
    keys, first, slot = np.unique((island[:, None] * count + faces).ravel(), return_index=True, return_inverse=True)
    vertex = keys % count  # of the closed solid, for each vertex of the mesh

    corners = positions[faces].astype(np.float64)
    across = np.repeat(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), 3, 0
    )  # as long as twice the area: the weight
    group = faces.ravel() if surface.normals == "smooth" else slot.ravel()
    size = count if surface.normals == "smooth" else len(keys)
    normals = _unit(np.stack([np.bincount(group, across[:, i], minlength=size) for i in range(3)], 1))
    if surface.normals == "smooth":
        # Near the rim the sheet is steep and normals follow every step of the grid; the average with the neighbours' does not.
        for _ in range(NORMAL_PASSES):
            of_faces = normals[faces].sum(1)
            normals = _unit(np.stack([np.bincount(faces.ravel(), np.repeat(of_faces[:, i], 3), minlength=count) for i in range(3)], 1))
    return Mesh(
        vertices=positions[vertex],
        faces=slot.reshape(-1, 3).astype(np.uint32),
        normals=(normals[vertex] if surface.normals == "smooth" else normals).astype(np.float32),
        uvs=surface.uvs.reshape(-1, 2)[first].astype(np.float32),
        texture=surface.texture,
        sampler=surface.sampler,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1), 1e-30)[:, None]
