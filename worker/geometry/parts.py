"""What an engine wants beside a mesh: coarser levels of it, and a convex hull for collisions.

A room of its own: it builds on cleanup/, which needs the layer `model`. Nothing here is imported before it is asked for.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from ...contract.errors import SetupError
from ...contract.scene import Mesh
from .surfaces import vertex_colors, weld

FEWEST = 64  # faces: a level never has fewer, nor more than the mesh itself
HULL_VERTICES = 32  # engines want convex shapes small: PhysX takes 255 at most


def need() -> None:
    """SetupError where this can't be made."""
    if missing := [name for name in ("torch", "fast_simplification") if importlib.util.find_spec(name) is None]:
        raise SetupError(
            f"Levels of detail and collision hulls need {' and '.join(missing)}, not installed here.",
            "Add the layer: python install.py --layers model",
        )


def levels(mesh: Mesh, count: int) -> list[Mesh]:
    """`count` coarser meshes, each with half the faces of the one before, decimated from the mesh itself.

    They have vertex colours in the place of the texture: its UVs don't survive the collapse of edges.
    """
    from .cleanup.attributes import value_at
    from .cleanup.lods import levels as decimated
    from .cleanup.topology import compact

    vertices, faces, first = weld(mesh)
    centre, size = vertices.mean(axis=0), float(np.ptp(vertices, axis=0).max()) or 1.0
    unit = (vertices - centre) / size  # decimation's tolerances are absolute
    budgets = [max(min(FEWEST, len(faces)), len(faces) >> number) for number in range(1, count + 1)]
    colors = vertex_colors(mesh)[first].astype(np.float64)
    made = []
    for level in decimated(unit, faces, budgets):
        points, corners = compact(level.vertices, level.faces)[:2]
        carried = value_at(colors, (unit, faces), points)
        made.append(
            Mesh(
                (points * size + centre).astype(np.float32),
                corners.astype(np.uint32),
                vertex_colors=np.clip(np.round(carried), 0, 255).astype(np.uint8),
                roughness=mesh.roughness,
            )
        )
    return made


def hull(mesh: Mesh) -> Mesh:
    """A closed convex mesh around it, of few vertices."""
    from .cleanup.hull import collision_hull

    vertices, faces = collision_hull(mesh.vertices[np.unique(mesh.faces)], HULL_VERTICES)
    return Mesh(vertices, faces.astype(np.uint32), roughness=mesh.roughness)
