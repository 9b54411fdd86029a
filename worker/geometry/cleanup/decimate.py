"""Fewer faces: quadric edge collapse by fast-simplification, and what it breaks put right (spec: postprocess.md 2.1).

The library collapses the edges whose quadric error is least, round by round (Garland and Heckbert, 1997; Forstmann's fast form of it). It
doesn't check that the surface stays a manifold: where two sheets come to touch, an edge gets four faces. `repair.split_crowded` cuts them
apart again, so that what was closed stays closed.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ....contract.errors import SetupError
from . import tensors
from .collapse import thin
from .repair import fit_faces, split_crowded
from .tensors import plain
from .topology import Array, balanced, compact

PARALLEL = 50_000  # faces from which a GPU is the faster way
HARSHNESS = (5.0, 7.0, 9.0)  # how fast the tolerated error grows from round to round; the first that reaches the budget is taken
_LOCK = threading.Lock()  # the library works on global variables


@dataclass(frozen=True)
class Decimated:
    """vertices float64 (V, 3), faces int64 (F, 3). split: vertices added where sheets touched. tries: runs that it took. reached: the budget."""

    vertices: Array
    faces: Array
    split: int
    tries: int
    reached: bool


def decimate(vertices: Array | Tensor, faces: Array | Tensor, budget: int, device: torch.device | str = "cpu") -> Decimated:
    """At most `budget` faces of the surface, or as near as it gets. Closed stays closed, and where every way would lose that, the faces stay as
    many as they are; a boundary is kept where that leaves enough to collapse.

    vertices inside a cube of about 1: tolerances are absolute. device: on a GPU, a large closed mesh is thinned there, in parallel
    (collapse.py); it may be there already. Raises SetupError where the library isn't installed.
    """
    if len(faces) <= budget:
        return Decimated(plain(vertices).astype(np.float64), plain(faces), 0, 0, True)
    closed = tensors.balanced(faces) if isinstance(faces, Tensor) else balanced(faces)
    best: Decimated | None = None
    for tries, way in enumerate(_ways(len(faces), budget, closed, torch.device(device)), 1):
        points, fit, split = _sound(*way(vertices, faces, budget))
        made = Decimated(points, fit, split, tries, len(fit) <= budget)
        if len(fit) == 0 or (closed and not balanced(fit)):
            continue
        if made.reached:
            return made
        if best is None or len(fit) < len(best.faces):
            best = made
    if best is None:  # more small bodies than the budget has faces for
        points, fit, split = _sound(plain(vertices).astype(np.float64), plain(faces))
        return Decimated(points, fit, split, tries, False)
    return best


_Way = Callable[["Array | Tensor", "Array | Tensor", int], tuple[Array, Array]]


def _ways(count: int, budget: int, closed: bool, device: torch.device) -> list[_Way]:
    """What to try, best first."""
    plain: list[_Way] = [
        partial(_collapsed, harshness=h, border=border) for border in ([False] if closed else [True, False]) for h in HARSHNESS
    ]
    parallel = device.type != "cpu" and closed and count > PARALLEL
    return [partial(thin, device=device), *plain] if parallel else plain


def _collapsed(vertices: Array | Tensor, faces: Array | Tensor, budget: int, harshness: float, border: bool) -> tuple[Array, Array]:
    if importlib.util.find_spec("fast_simplification") is None:
        raise SetupError("Decimating a mesh needs the package fast-simplification, which isn't installed.")
    from fast_simplification import simplify

    points = np.ascontiguousarray(plain(vertices), np.float64)
    corners = np.ascontiguousarray(plain(faces), np.int32)
    with _LOCK:
        points, corners = simplify(points, corners, target_count=budget, agg=harshness, preserve_border=border)
    return points, np.asarray(corners, np.int64)


def _sound(points: Array, faces: Array) -> tuple[Array, Array, int]:
    """What the collapses left, as a manifold -> vertices, faces, vertices added."""
    fit, _ = fit_faces(points, faces)
    points, fit, _, split = split_crowded(*compact(points, fit)[:2])
    return points, fit, split
