"""How far one surface is from another, measured both ways."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from .nearest import nearest_faces, sample_surface
from .tensors import plain, rows
from .topology import Array, area_vectors, compact

Surface = tuple[Array, Array]  # vertices, faces
Placed = tuple[Tensor, Tensor]  # the same on a device


@dataclass(frozen=True)
class SurfaceError:
    """Distances as shares of the reference's bounding box diagonal, from samples of both surfaces to the exact nearest point of the other.

    mean, rms, p95, max: over both directions; to_reference, from_reference: the largest of each alone (what was added, what was lost).
    turned: share of the measured surface that faces the other way than the reference beside it.
    """

    mean: float
    rms: float
    p95: float
    max: float
    to_reference: float
    from_reference: float
    turned: float
    samples: int

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 7) for name, value in asdict(self).items()}


def surface_error(
    measured: Surface,
    reference: Surface | Placed,
    samples: int = 10_000,
    *,
    points: Array | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> SurfaceError:
    """The measured surface against the reference. points float (P, 3): samples of the reference, where only a part of it counts."""
    ours, face = sample_surface(*measured, samples, seed)
    theirs = sample_surface(*reference, samples, seed + 1)[0] if points is None else points
    there, back = nearest_faces(ours, *reference, device), nearest_faces(theirs, *measured, device)
    own, other = area_vectors(measured[0], measured[1][face]), _vectors_of(reference, there.face)
    diagonal = max(_diagonal(reference), 1e-30)
    both = np.concatenate([there.distance, back.distance]) / diagonal
    return SurfaceError(
        mean=float(both.mean()),
        rms=float(np.sqrt((both**2).mean())),
        p95=float(np.quantile(both, 0.95)),
        max=float(both.max()),
        to_reference=float(there.distance.max() / diagonal),
        from_reference=float(back.distance.max() / diagonal),
        turned=float((np.einsum("ij,ij->i", own, other) < 0).mean()),
        samples=len(both),
    )


def _vectors_of(surface: Surface | Placed, face: Array) -> Array:
    """The area vectors of some faces."""
    few = plain(rows(surface[1], face))
    if isinstance(surface[0], Tensor):
        used, few = np.unique(few, return_inverse=True)
        return area_vectors(plain(rows(surface[0], used)), few.reshape(-1, 3))
    return area_vectors(surface[0], few)


def _diagonal(surface: Surface | Placed) -> float:
    """Of the box around the vertices that faces use."""
    vertices, faces = surface
    if isinstance(vertices, Tensor) and isinstance(faces, Tensor):
        corners = vertices.double()[faces.flatten()]
        return float((corners.amax(dim=0) - corners.amin(dim=0)).norm())
    used = compact(vertices, faces)[0]
    return float(np.linalg.norm(used.max(axis=0).astype(np.float64) - used.min(axis=0)))
