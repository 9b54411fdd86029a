"""Colours and other values of vertices, carried from one surface to another that lies on it."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .nearest import NearestFaces
from .repair import vertex_normals
from .topology import Array


def carry(values: Array, source: tuple[Array, Array], target: tuple[Array, Array]) -> Array:
    """values float (V, C) of the source's vertices -> float32 (W, C) of the target's. source, target: (vertices, faces).

    Where the target is coarser, a vertex gets the mean of all source vertices that are nearer to it than to its fellows, weighted by their area and by how well
    their normals agree: noise is averaged, and the far side of a thin wall doesn't shine through. Where none falls to it, the value at the nearest point.
    """
    vertices = target[0]
    normals, _ = vertex_normals(*target)
    source_normals, area = vertex_normals(*source)
    used = np.flatnonzero(area > 0)
    _, owner = cKDTree(vertices).query(source[0][used], workers=-1)
    agreement = np.einsum("ij,ij->i", source_normals[used], normals[owner])
    weight = area[used] * np.maximum(agreement, 0)
    total = np.bincount(owner, weight, minlength=len(vertices))
    summed = np.stack([np.bincount(owner, weight * values[used, k], minlength=len(vertices)) for k in range(values.shape[1])], axis=1)
    carried = summed / np.maximum(total, 1e-300)[:, None]
    bare = np.flatnonzero(total <= 1e-12 * max(float(total.max(initial=0.0)), 1e-300))
    if len(bare):
        carried[bare] = value_at(values, source, vertices[bare])
    return carried.astype(np.float32)


def value_at(values: Array, source: tuple[Array, Array], points: Array) -> Array:
    """values float (V, C) of the source's vertices -> float64 (P, C) at the nearest point of its surface."""
    hit = NearestFaces(*source)(points)
    return np.einsum("pk,pkc->pc", hit.weights, np.asarray(values, np.float64)[source[1][hit.face]])
