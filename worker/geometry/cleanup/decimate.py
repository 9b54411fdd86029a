"""Fewer faces: quadric edge collapse by fast-simplification, and what it breaks put right (spec: postprocess.md 2.1).

The library collapses the edges whose quadric error is least, round by round (Garland and Heckbert, 1997; Forstmann's fast form of it). It doesn't check that the
surface stays a manifold: where two sheets come to touch, an edge gets four faces. `repair.split_crowded` cuts them apart again, so that what was closed stays closed.
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass

import numpy as np

from ....contract.errors import EngineError, SetupError
from .repair import fit_faces, split_crowded
from .topology import Array, balanced, compact

HARSHNESS = (5.0, 7.0, 9.0)  # how fast the tolerated error grows from round to round; the first that reaches the budget is taken
_LOCK = threading.Lock()  # the library works on global variables


@dataclass(frozen=True)
class Decimated:
    """vertices float64 (V, 3), faces int64 (F, 3). split: vertices added to cut touching sheets apart. tries: runs that it took. reached: within the budget."""

    vertices: Array
    faces: Array
    split: int
    tries: int
    reached: bool


def decimate(vertices: Array, faces: Array, budget: int) -> Decimated:
    """At most `budget` faces of the surface. Closed stays closed; a boundary is kept where that leaves enough to collapse.

    vertices inside a cube of about 1: the library's tolerance is absolute. Raises SetupError where it isn't installed.
    """
    if len(faces) <= budget:
        return Decimated(vertices.astype(np.float64), faces, 0, 0, True)
    if importlib.util.find_spec("fast_simplification") is None:
        raise SetupError("Decimating a mesh needs the package fast-simplification, which isn't installed.")
    open_ = not balanced(faces)
    best: Decimated | None = None
    ways = [(h, border) for border in ([True, False] if open_ else [False]) for h in HARSHNESS]
    for tries, (harshness, border) in enumerate(ways, 1):
        made = _decimated(vertices, faces, budget, harshness, border, tries)
        sound = len(made.faces) > 0 and (open_ or balanced(made.faces))
        if sound and (best is None or len(made.faces) < len(best.faces)):
            best = made
        if sound and made.reached:
            return made
    if best is None:
        raise EngineError("Decimation left nothing of the mesh that is closed.", "Give a larger face budget.")
    return best


def _decimated(vertices: Array, faces: Array, budget: int, harshness: float, border: bool, tries: int) -> Decimated:
    from fast_simplification import simplify

    points = np.ascontiguousarray(vertices, np.float64)
    corners = np.ascontiguousarray(faces, np.int32)
    with _LOCK:
        points, corners = simplify(points, corners, target_count=budget, agg=harshness, preserve_border=border)
    fit, _ = fit_faces(points, np.asarray(corners, np.int64))
    points, fit, _, split = split_crowded(*compact(points, fit)[:2])
    return Decimated(points, fit, split, tries, len(fit) <= budget)
