"""The exact nearest point of a triangle mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .topology import Array, area_vectors

FIRST = 12  # faces of each class that are tried at first
_PAIRS = 1 << 28  # of points and faces at once on a GPU: 1 GiB
_TRIED = 1 << 22  # of points and faces at once on a CPU: slivers side by side make every one of them a candidate


@dataclass(frozen=True)
class Hit:
    """face int64 (P,): the nearest one; weights float64 (P, 3): the nearest point on it, as shares of its corners; distance float64 (P,)."""

    face: Array
    weights: Array
    distance: Array


class NearestFaces:
    """A mesh, ready to be asked. Faces are sorted into classes of like size, so that a long sliver doesn't make every search wide."""

    def __init__(self, vertices: Array, faces: Array) -> None:
        self.vertices, self.faces = vertices.astype(np.float64, copy=False), faces
        a, b, c = (self.vertices[faces[:, i]] for i in range(3))
        centre = (a + b + c) / 3
        self.reach = np.sqrt(np.maximum.reduce([((corner - centre) ** 2) @ np.ones(3) for corner in (a, b, c)]))
        size = np.floor(2 * np.log2(np.maximum(self.reach, 1e-12) / max(float(np.median(self.reach)), 1e-12))).astype(np.int64)
        size = np.maximum(size, 0)  # what is smaller than most needs no class of its own
        self.classes = []
        for number in np.flatnonzero(np.bincount(size)):
            rows = np.flatnonzero(size == number)
            tree = cKDTree(centre[rows], balanced_tree=False, compact_nodes=False)
            self.classes.append((rows, tree, float(self.reach[rows].max())))

    def __call__(self, points: Array) -> Hit:
        """points float (P, 3) -> the nearest point of the mesh to each.

        In each class, the k faces with the nearest centres are tried; it is proven that no other is nearer once the k-th centre is further
        away than the best distance and the largest reach together. Points without proof are asked again with a larger k.
        """
        points = np.asarray(points, np.float64)
        hit = Hit(np.zeros(len(points), np.int64), np.zeros((len(points), 3)), np.full(len(points), np.inf))
        for rows, tree, reach in self.classes:
            open_, k = np.arange(len(points)), min(FIRST, len(rows))
            while len(open_):
                unproven = []
                for asked in np.array_split(open_, -(-len(open_) * k // _TRIED)):
                    far, near = tree.query(points[asked], k=np.arange(1, k + 1), workers=-1)
                    self._try(points, asked, rows[near], far, hit)
                    unproven.append(asked[far[:, -1] < hit.distance[asked] + reach])
                if k == len(rows):
                    break
                open_ = np.concatenate(unproven)
                k = min(3 * k, len(rows))
        return hit

    def _try(self, points: Array, asked: Array, faces: Array, far: Array, hit: Hit) -> None:
        """Lower `hit` for the points `asked` by faces int64 (A, k), whose centres are `far` (A, k) away."""
        able = far - self.reach[faces] < hit.distance[asked][:, None]
        if not np.isfinite(hit.distance[asked]).all():  # a first bound, so that few pairs are left
            self._lower(points, asked, faces[:, 0], hit)
            able = far - self.reach[faces] < hit.distance[asked][:, None]
        who, which = np.nonzero(able)
        if len(who) == 0:
            return
        weights, distance = self._closest(points[asked[who]], faces[who, which])
        order = np.lexsort((distance, who))
        best = order[np.flatnonzero(np.diff(who[order], prepend=-1))]
        better = best[distance[best] < hit.distance[asked[who[best]]]]
        at = asked[who[better]]
        hit.face[at], hit.weights[at], hit.distance[at] = faces[who[better], which[better]], weights[better], distance[better]

    def _lower(self, points: Array, asked: Array, faces: Array, hit: Hit) -> None:
        weights, distance = self._closest(points[asked], faces)
        better = distance < hit.distance[asked]
        at = asked[better]
        hit.face[at], hit.weights[at], hit.distance[at] = faces[better], weights[better], distance[better]

    def _closest(self, points: Array, faces: Array) -> tuple[Array, Array]:
        weights, distance = closest_on_triangles(torch.from_numpy(points), torch.from_numpy(self.vertices[self.faces[faces]]))
        return weights.numpy(), distance.numpy()


def nearest_faces(points: Array, vertices: Array, faces: Array, device: torch.device | str = "cpu") -> Hit:
    """The nearest point of the mesh to each of points float (P, 3): by k-d trees on the CPU, by trying all faces on a GPU."""
    if torch.device(device).type == "cpu":
        return NearestFaces(vertices, faces)(points)
    return nearest_by_all(points, vertices, faces, device)


def nearest_by_all(points: Array, vertices: Array, faces: Array, device: torch.device | str) -> Hit:
    """The same by brute force on tensors. The distances to all centres, in float32, leave a few faces for each point; those are measured in
    float64.
    """
    with torch.inference_mode():
        corners = torch.tensor(vertices, dtype=torch.float64, device=device)[torch.tensor(faces, device=device)]
        asked, middle = torch.tensor(points, dtype=torch.float64, device=device), corners.mean(dim=(0, 1))
        centre = corners.mean(dim=1)
        reach = (corners - centre[:, None]).norm(dim=2).amax(dim=1).float()
        flat, from_middle = (centre - middle).float(), (asked - middle).float()
        far = (flat**2).sum(1)
        slack = 4e-6 * float(torch.maximum(far.amax(), (from_middle**2).sum(1).amax()))  # float32 rounds squares by less
        # |p - c|^2 <= (bound + reach)^2 as one product of matrices: [p, bound, 1] . [-2 c, -2 reach, c^2 - reach^2] <= bound^2 - p^2
        table = torch.cat([-2 * flat, -2 * reach[:, None], (far - reach**2)[:, None]], dim=1).T.contiguous()
        pairs = []
        for begin in range(0, len(asked), step := max(1, _PAIRS // len(faces))):
            some, flat_some = asked[begin : begin + step], from_middle[begin : begin + step]
            first = torch.addmm(far[None], flat_some, flat.T, alpha=-2).argmin(dim=1)
            bound = closest_on_triangles(some, corners[first])[1].float()[:, None]
            limit = bound**2 - (flat_some**2).sum(1, keepdim=True) + slack
            who, which = (torch.cat([flat_some, bound, torch.ones_like(bound)], dim=1) @ table <= limit).nonzero(as_tuple=True)
            pairs.append((who + begin, which))
        who, which = (torch.cat(part) for part in zip(*pairs))
        weights, distance = closest_on_triangles(asked[who], corners[which])
        best = torch.full((len(asked),), torch.inf, dtype=torch.float64, device=device).scatter_reduce(0, who, distance, "amin")
        rows = torch.arange(len(who), device=device)[distance == best[who]]
        row = torch.full((len(asked),), len(who), device=device).scatter_reduce(0, who[rows], rows, "amin")
        return Hit(which[row].cpu().numpy(), weights[row].cpu().numpy(), best.cpu().numpy())


def closest_on_triangles(points: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """points float64 (N, 3), each with its triangle (N, 3, 3) -> weights of the nearest point (N, 3), its distance (N,)."""
    a, b, c = corners.unbind(1)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    area = d00 * d11 - d01 * d01
    safe = torch.where(area > 1e-24, area, 1.0)
    v, w = (d11 * d20 - d01 * d21) / safe, (d00 * d21 - d01 * d20) / safe
    weights = torch.stack([1 - v - w, v, w], dim=1)
    out = ((area <= 1e-24) | (weights < 0).any(dim=1)).nonzero()[:, 0]  # the foot lies outside: the nearest point is on a side
    best = points.new_full((len(out),), torch.inf)
    rim = points.new_zeros(len(out), 3)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, along = corners[out, i], corners[out, j] - corners[out, i]
        share = (((points[out] - start) * along).sum(1) / (along * along).sum(1).clamp(min=1e-300)).clamp(0, 1)
        square = ((points[out] - start - share[:, None] * along) ** 2).sum(1)
        side = points.new_zeros(len(out), 3)
        side[:, i], side[:, j] = 1 - share, share
        rim = torch.where((square < best)[:, None], side, rim)
        best = torch.minimum(best, square)
    weights[out] = rim
    foot = (weights[..., None] * corners).sum(dim=1)
    return weights, (points - foot).norm(dim=1)


def sample_surface(vertices: Array, faces: Array, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Points evenly over the area -> points float64 (count, 3), the face of each int64 (count,). Stratified: a face of share s gets s *
    count, to within one.
    """
    area = np.linalg.norm(area_vectors(vertices, faces), axis=1)
    rng = np.random.default_rng(seed)
    ends = np.cumsum(area)
    face = np.searchsorted(ends, (np.arange(count) + rng.random(count)) / count * ends[-1], side="right").clip(max=len(faces) - 1)
    u, v = rng.random((2, count))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    a, b, c = vertices.astype(np.float64)[faces[face]].transpose(1, 0, 2)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a), face
