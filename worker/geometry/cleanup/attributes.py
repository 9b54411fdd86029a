"""Colours and other values of vertices, carried from one surface to another that lies on it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .nearest import nearest_faces
from .repair import vertex_normals
from .tensors import placed, plain, rows
from .topology import Array

Surface = tuple[Array, Array]
Placed = tuple[Tensor, Tensor]  # the same on a device
_PAIRS = 1 << 28  # of vertices at once: 1 GiB


def carry(values: Array, source: Surface | Placed, target: Surface, device: torch.device | str = "cpu") -> Array:
    """values float (V, C) of the source's vertices -> float32 (W, C) of the target's. source, target: (vertices, faces), the source as arrays or tensors.

    A vertex gets the mean of all source vertices that are nearer to it than to its fellows, weighted by their area and by how well their
    normals agree: noise is averaged, and the far side of a thin wall doesn't shine through. Where none falls to it (the target is finer
    there, or a hole was closed), the value at the nearest point.
    """
    gather = _gathered if torch.device(device).type == "cpu" else _gathered_on_tensors
    carried, total = gather(np.asarray(values), source, target, torch.device(device))
    bare = np.flatnonzero(total <= 1e-12 * max(float(total.max(initial=0.0)), 1e-300))
    if len(bare):
        carried[bare] = value_at(values, source, target[0][bare], device)
    return carried.astype(np.float32)


def _gathered(values: Array, source: Surface | Placed, target: Surface, device: torch.device) -> tuple[Array, Array]:
    """-> the means float64 (W, C), the weights that they are made of (W,)."""
    vertices, source = target[0], (plain(source[0]), plain(source[1]))
    normals, _ = vertex_normals(*target)
    source_normals, area = vertex_normals(*source)
    used = np.flatnonzero(area > 0)
    _, owner = cKDTree(vertices).query(source[0][used], workers=-1)
    weight = area[used] * np.maximum(np.einsum("ij,ij->i", source_normals[used], normals[owner]), 0)
    total = np.bincount(owner, weight, minlength=len(vertices))
    summed = np.stack([np.bincount(owner, weight * values[used, k], minlength=len(vertices)) for k in range(values.shape[1])], axis=1)
    return summed / np.maximum(total, 1e-300)[:, None], total


def _gathered_on_tensors(values: Array, source: Surface | Placed, target: Surface, device: torch.device) -> tuple[Array, Array]:
    """The same on a GPU, every target vertex tried for every source vertex."""
    with torch.inference_mode():
        (points, corners), (vertices, faces) = ((placed(v, device, torch.float64), placed(f, device)) for v, f in (source, target))
        normals, _ = _normals_on_tensors(vertices, faces)
        source_normals, area = _normals_on_tensors(points, corners)
        middle = vertices.mean(dim=0)
        flat, asked = (vertices - middle).float(), (points - middle).float()
        square = (flat**2).sum(1)
        step = max(1, _PAIRS // len(flat))
        owner = torch.cat([torch.addmm(square[None], part, flat.T, alpha=-2).argmin(dim=1) for part in asked.split(step)])
        weight = (area * (source_normals * normals[owner]).sum(1).clamp(min=0))[:, None]
        known = placed(values, device, torch.float64)
        summed = segment_sums(owner, torch.cat([weight * known, weight], dim=1), len(flat))
        total = summed[:, -1]
        return (summed[:, :-1] / total.clamp(min=1e-300)[:, None]).cpu().numpy(), total.cpu().numpy()


def _normals_on_tensors(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """As repair.vertex_normals."""
    a, b, c = vertices[faces].unbind(1)
    vectors = torch.linalg.cross(b - a, c - a) / 2
    each = torch.cat([vectors, vectors.norm(dim=1, keepdim=True) / 3], dim=1)
    summed = segment_sums(faces.flatten(), each.repeat_interleave(3, dim=0), len(vertices))
    return summed[:, :3] / summed[:, :3].norm(dim=1, keepdim=True).clamp(min=1e-30), summed[:, 3]


def segment_sums(index: Tensor, values: Tensor, count: int) -> Tensor:
    """values (N, C), row i added to row index[i] of the answer (count, C): always in the same order, unlike `index_add_` on a GPU."""
    order = index.argsort(stable=True)
    return torch.segment_reduce(values[order], "sum", lengths=torch.bincount(index, minlength=count), axis=0, unsafe=True)


def value_at(values: Array, source: Surface | Placed, points: Array, device: torch.device | str = "cpu") -> Array:
    """values float (V, C) of the source's vertices -> float64 (P, C) at the nearest point of its surface."""
    hit = nearest_faces(points, *source, device)
    return np.einsum("pk,pkc->pc", hit.weights, np.asarray(values, np.float64)[plain(rows(source[1], hit.face))])
