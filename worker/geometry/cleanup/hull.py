"""A convex hull for collisions, with few vertices."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from ....contract.errors import OptionError
from .topology import Array, area_vectors

FEWEST = 4


def collision_hull(vertices: Array, most: int = 64) -> tuple[Array, Array]:
    """Points float (V, 3) -> a closed convex mesh of at most `most` of them: vertices float32 (H, 3), faces int64 (2 H - 4, 3), outwards.

    It starts from four points far apart and takes in, again and again, those that lie furthest outside. It lies inside the exact hull.
    Points in a plane become a slab, a thousandth of their extent thick. OptionError for a limit below 4, or without points.
    """
    if most < FEWEST:
        raise OptionError(f"A convex hull can't have {most} vertices.", "Give at least 4, or none to leave the hull out.")
    if len(vertices) == 0:
        raise OptionError("There is no mesh to make a convex hull of.", "Leave the hull out.")
    points = _solid(vertices.astype(np.float64))
    points = points[ConvexHull(points).vertices]
    size, chosen = float(np.ptp(points, axis=0).max()), _first_four(points)
    while len(chosen) < min(most, len(points)):
        planes = ConvexHull(points[chosen]).equations
        outside = points @ planes[:, :3].T + planes[:, 3]
        far = outside.argmax(axis=0)  # of each plane
        order = np.argsort(-outside.max(axis=0), kind="stable")
        fresh = list(dict.fromkeys(int(far[plane]) for plane in order if outside[far[plane], plane] > 1e-9 * size))
        if not fresh:
            break
        chosen += fresh[: min(max(1, len(chosen) // 8), most - len(chosen))]
    found = ConvexHull(points[chosen])
    corner, number = np.unique(found.simplices, return_inverse=True)
    hull, faces = points[chosen][corner], number.reshape(-1, 3).astype(np.int64)
    inwards = np.einsum("ij,ij->i", area_vectors(hull, faces), found.equations[:, :3]) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return hull.astype(np.float32), faces


def _solid(points: Array) -> Array:
    """The points, or where they have no volume the corners of small cubes around them."""
    try:
        ConvexHull(points)
        return points
    except (QhullError, ValueError):  # ValueError: fewer than four points
        half = 5e-4 * max(float(np.ptp(points, axis=0).max()), 1e-2 * float(np.abs(points).max()), 1e-6)
        offsets = half * np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
        cubes: Array = (points[:, None] + offsets).reshape(-1, 3)
        return cubes


def _first_four(points: Array) -> list[int]:
    """Four points that span as much as can be had one after the other."""
    first = int(np.argmin(points[:, 0]))
    second = int(np.argmax(((points - points[first]) ** 2).sum(axis=1)))
    along = points[second] - points[first]
    third = int(np.argmax((np.cross(points - points[first], along) ** 2).sum(axis=1)))
    fourth = int(np.argmax(np.abs((points - points[first]) @ np.cross(along, points[third] - points[first]))))
    return [first, second, third, fourth]
