"""Heights over the planar mesh: puffball or Poisson with a square root, then saturation (spec draft_engine.md 2.3).

Lengths are in pixels. Sources: Twarog, Tappen and Adelson, "Playing with Puffball" (2012); Dvoroznak et al., "Monster Mash" (2020).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy import ndimage
from scipy.sparse.linalg import cg, spsolve

from .planar import Planar

DIRECT_LIMIT = 30_000  # unknowns up to which a factorisation beats conjugate gradients


def laplacian(planar: Planar, points: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
    """Cotangent Laplacian (V, V), positive semidefinite, and lumped mass (V,) of the planar mesh at `points` (V, 2)."""
    corners = planar.triangles
    rows, columns, weights = [], [], []
    first, second, third = (points[corners[:, i]] for i in range(3))
    double_area = np.abs(_cross(second - first, third - first))
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        a, b = points[corners[:, j]] - points[corners[:, i]], points[corners[:, k]] - points[corners[:, i]]
        half_cotangent = (a * b).sum(1) / (2 * double_area)
        rows += [corners[:, j], corners[:, k]]
        columns += [corners[:, k], corners[:, j]]
        weights += [half_cotangent, half_cotangent]
    count = len(points)
    adjacency = sp.coo_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)).tocsr()
    mass = np.bincount(corners.ravel(), np.repeat(double_area / 6, 3), minlength=count)
    diagonal = np.asarray(adjacency.sum(1)).ravel()
    return (sp.diags(diagonal) - adjacency).tocsr(), mass


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _solve(matrix: sp.csr_matrix, right: np.ndarray, *, iterate: bool = False) -> np.ndarray:
    """A symmetric positive definite system; iterate: well conditioned, so a few conjugate gradient steps do."""
    if not iterate and len(right) <= DIRECT_LIMIT:
        return np.atleast_1d(spsolve(matrix.tocsc(), right, permc_spec="MMD_AT_PLUS_A"))
    inverse = sp.diags(1 / matrix.diagonal())
    found, _ = cg(matrix, right, rtol=1e-6, atol=0.0, maxiter=5000, M=inverse)
    return found


def puffball(planar: Planar, points: np.ndarray, depth: np.ndarray, cell: float, system: tuple[sp.csr_matrix, np.ndarray]) -> np.ndarray:
    """Squared heights (interior,): the union of all balls inscribed in the mask, its creases smoothed.

    points: (V, 2), pixels; depth: float32 (h, w). `max over p of depth(p)^2 - |x - p|^2` is a dilation with a paraboloid, hence separable.
    """
    step = cell / 2
    height, width = depth.shape
    rows, columns = int(height / step) + 2, int(width / step) + 2
    grid = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    inside = np.maximum(ndimage.map_coordinates(depth, [g - 0.5 for g in grid], order=1, mode="constant") - 0.5, 0).astype(np.float32)
    balls = np.where(inside > 0, inside**2, -np.float32(1e9))
    reach = int(inside.max() / step)
    for axis in (1, 0):
        balls = _dilate(balls, axis, reach, step)
    inner = points[: planar.interior]
    squared = ndimage.map_coordinates(balls, [inner[:, 1] / step, inner[:, 0] / step], order=1, mode="nearest").astype(float)
    squared = np.maximum(squared, (0.05 * cell) ** 2)
    # A constant amount of smoothing would erase thin parts; it is bounded by their own height.
    stiffness, mass = system
    amount = np.minimum((2 * cell) ** 2, 0.1 * squared)
    matrix = stiffness[: planar.interior, : planar.interior] + sp.diags(mass[: planar.interior] / amount)
    smoothed = _solve(matrix.tocsr(), mass[: planar.interior] * squared / amount, iterate=True)
    return np.maximum(smoothed, (0.25 * cell) ** 2)


def _dilate(values: np.ndarray, axis: int, reach: int, step: float) -> np.ndarray:
    """max over k of values shifted by k along axis, minus (k step)^2."""
    out = values.copy()
    size = values.shape[axis]
    for k in range(1, min(reach, size - 1) + 1):
        low, high = np.take(values, range(size - k), axis), np.take(values, range(k, size), axis)
        ahead = (slice(k, None), slice(None)) if axis == 0 else (slice(None), slice(k, None))
        behind = (slice(None, -k), slice(None)) if axis == 0 else (slice(None), slice(None, -k))
        drop = np.float32((k * step) ** 2)
        np.maximum(out[ahead], low - drop, out=out[ahead])
        np.maximum(out[behind], high - drop, out=out[behind])
    return out


def poisson(planar: Planar, cell: float, flatten: float, system: tuple[sp.csr_matrix, np.ndarray]) -> np.ndarray:
    """Squared heights (interior,): solve -laplace u = 4, u = 0 on the contour. A disc becomes a hemisphere.

    flatten: kappa; large areas level off at 2 l / kappa, l being the root of the area.
    """
    stiffness, mass = system
    inner = planar.interior
    matrix = stiffness[:inner, :inner]
    if flatten > 0:
        matrix = matrix + sp.diags(mass[:inner] * (flatten**2 / mass.sum()))
    return np.maximum(_solve(matrix.tocsr(), 4 * mass[:inner]), (0.05 * cell) ** 2)


def wall_heights(
    planar: Planar, points: np.ndarray, cell: float, inset: float, system: tuple[sp.csr_matrix, np.ndarray], flatten: float
) -> np.ndarray:
    """Squared heights (V,) to add so that the sheet ends in a wall instead of falling to 0 at the contour (rim = wall).

    The wall is as high as the round sheet would be `inset` pixels inside, from its slope at the rim; harmonic in between.
    """
    stiffness, mass = system
    inner, count = planar.interior, len(points)
    u = np.zeros(count)
    u[:inner] = poisson(planar, cell, flatten, system)
    flux = 4 * mass - stiffness @ u
    if flatten > 0:
        flux -= mass * (flatten**2 / mass.sum()) * u
    following = planar.following - inner
    previous = np.empty_like(following)
    previous[following] = np.arange(len(following))
    contour = points[inner:]
    length = np.linalg.norm(contour[following] - contour, axis=1)
    slope = np.maximum(flux[inner:] / ((length + length[previous]) / 2), 0)
    for _ in range(12):
        slope = (slope[previous] + 2 * slope + slope[following]) / 4
    edge = 0.8 * slope * np.minimum(inset, 0.09 * slope)
    lift = np.zeros(count)
    lift[inner:] = np.maximum(edge, (0.25 * cell) ** 2)
    lift[:inner] = _solve(stiffness[:inner, :inner].tocsr(), -(stiffness[:inner, inner:] @ lift[inner:]))
    return np.maximum(lift, 0)


def saturate(heights: np.ndarray, limit: float, power: float) -> np.ndarray:
    """Level heights off towards `limit`; low ones keep theirs, so the rim keeps its slope. limit 0: unchanged."""
    if limit <= 0:
        return heights
    return heights / (1 + (heights / limit) ** power) ** (1 / power)
