"""Noise smoothed away without shrinking (Taubin, "A Signal Processing Approach to Fair Surface Design", 1995)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, diags

from .topology import Array, edges

INWARD, PASS_BAND = 0.5, 0.1  # lambda; the frequency that is neither damped nor raised


def taubin(vertices: Array, faces: Array, rounds: int) -> Array:
    """Vertices, in their dtype, after `rounds` steps towards the neighbours' mean, each with a slightly longer one back. A boundary stays."""
    if rounds <= 0 or len(faces) == 0:
        return vertices
    found = edges(faces)
    a, b = found.ends.T
    count = len(vertices)
    graph = coo_matrix((np.ones(2 * len(a)), (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(count, count)).tocsr()
    degree = np.asarray(graph.sum(axis=1)).ravel()
    free = (degree > 0).astype(np.float64)
    free[found.ends[found.degree == 1].ravel()] = 0
    mean = diags(1 / np.maximum(degree, 1)) @ graph
    outward = 1 / (PASS_BAND - 1 / INWARD)
    moved = vertices.astype(np.float64)
    for _ in range(rounds):
        for step in (INWARD, outward):
            moved = moved + step * free[:, None] * (mean @ moved - moved)
    return moved.astype(vertices.dtype)
