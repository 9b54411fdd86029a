"""Iterated closest points, point to point, rigid (Besl and McKay, 1992), with Open3D's stop rule (spec: postprocess.md section 8 step 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

Array = np.ndarray

REACH = 0.05  # metres: pairs further apart don't count
ROUNDS = 30
SETTLED = 1e-6  # change of fitness and of rmse below which it stops


@dataclass(frozen=True)
class Registration:
    """matrix: float64 (4, 4) for column vectors, source -> target. fitness: the share of source points with a partner. rmse: of those, metres."""

    matrix: Array
    fitness: float
    rmse: float


def icp(source: Array, target: Array, reach: float = REACH, rounds: int = ROUNDS) -> Registration:
    """source (N, 3), target (M, 3), M > 0. Without a single pair within reach the matrix is the identity."""
    tree = cKDTree(target)
    moved, matrix = source.astype(np.float64), np.eye(4)
    near, partner, fitness, rmse = _pairs(tree, moved, reach)
    for _ in range(rounds):
        if not near.any():
            break
        step = rigid(moved[near], tree.data[partner[near]])
        moved, matrix = moved @ step[:3, :3].T + step[:3, 3], step @ matrix
        near, partner, now_fitness, now_rmse = _pairs(tree, moved, reach)
        settled = abs(now_fitness - fitness) < SETTLED and abs(now_rmse - rmse) < SETTLED
        fitness, rmse = now_fitness, now_rmse
        if settled:
            break
    return Registration(matrix, fitness, rmse)


def _pairs(tree: cKDTree, points: Array, reach: float) -> tuple[Array, Array, float, float]:
    distance, partner = tree.query(points, distance_upper_bound=reach)
    near = np.isfinite(distance)
    rmse = float(np.sqrt(np.mean(distance[near] ** 2))) if near.any() else 0.0
    return near, partner, float(near.mean()), rmse


def rigid(source: Array, target: Array) -> Array:
    """(N, 3) each -> the (4, 4) rotation and translation that bring them together best, in the sense of least squares (Kabsch; Umeyama, 1991)."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - b).T @ (source - a))
    sign = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    out = np.eye(4)
    out[:3, :3] = u @ sign @ vt
    out[:3, 3] = b - out[:3, :3] @ a
    return out
