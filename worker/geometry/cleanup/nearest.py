"""The exact nearest point of a triangle mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from . import tensors
from .tensors import placed, plain
from .topology import Array, area_vectors

FIRST = 12  # faces of each class that are tried at first
_BLOCK = 64  # faces
_PAIRS = 1 << 25  # of points and blocks at once: 256 MiB
_TRIED = 1 << 22  # of points and faces at once: slivers side by side make every one of them a candidate


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


def nearest_faces(points: Array, vertices: Array | Tensor, faces: Array | Tensor, device: torch.device | str = "cpu") -> Hit:
    """The nearest point of the mesh to each of points float (P, 3): by k-d trees on the CPU, by blocks of faces on a GPU."""
    if torch.device(device).type == "cpu":
        return NearestFaces(plain(vertices), plain(faces))(points)
    return nearest_by_blocks(points, vertices, faces, device)


def nearest_by_blocks(points: Array, vertices: Array | Tensor, faces: Array | Tensor, device: torch.device | str) -> Hit:
    """The same on tensors. Faces in blocks of neighbours (in Morton's order), each within a ball: whole blocks are passed over, then single
    faces by their own balls; what is left is measured. Of several nearest faces, the first.
    """
    with torch.inference_mode():
        corners = placed(vertices, device, torch.float64)[placed(faces, device)]
        asked = placed(np.asarray(points, np.float64), device)
        centre = corners.mean(dim=1)
        middle = (centre.amin(dim=0) + centre.amax(dim=0)) / 2
        centre, asked, corners = centre - middle, asked - middle, corners - middle
        reach = (corners - centre[:, None]).norm(dim=2).amax(dim=1)
        size = centre.abs().amax(dim=0).clamp(min=1e-300)
        order = _morton(((centre / size + 1) * 511.5).long()).argsort(stable=True)
        order = torch.cat([order, order[-1:].expand(-len(order) % _BLOCK)]).view(-1, _BLOCK)
        middles = centre[order].mean(dim=1)
        radius = ((centre[order] - middles[:, None]).norm(dim=2) + reach[order]).amax(dim=1)
        best, face = asked.new_full((len(asked),), torch.inf), torch.full((len(asked),), len(centre), device=device)
        weights = asked.new_zeros(len(asked), 3)
        for begin in range(0, len(asked), step := max(1, _PAIRS // len(order))):
            rows = slice(begin, begin + step)
            face[rows], weights[rows], best[rows] = _in_blocks(asked[rows], corners, centre, reach, order, middles, radius)
        return Hit(plain(face), plain(weights), plain(best))


def _in_blocks(
    asked: Tensor, corners: Tensor, centre: Tensor, reach: Tensor, order: Tensor, middles: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """-> for each point its face, the weights and the distance. order (B, _BLOCK): each block's faces; middles, radius: their balls."""
    far = sum((asked[:, k, None] - middles[:, k]).square_() for k in range(3)).sqrt_()  # a product of matrices would round too much
    bound = (asked[:, None] - centre[order[far.argmin(dim=1)]]).norm(dim=2).amin(dim=1)  # centres lie on their faces
    slack = 1e-12 * (1 + bound)
    whose, block = (far - radius <= (bound + slack)[:, None]).nonzero(as_tuple=True)
    close = []
    for some, which in zip(whose.split(_TRIED // _BLOCK), block.split(_TRIED // _BLOCK)):
        away = (asked[some, None] - centre[order[which]]).norm(dim=2)
        bound = bound.scatter_reduce(0, some, away.amin(dim=1), "amin")
        near, place = (away - reach[order[which]] <= (bound + slack)[some, None]).nonzero(as_tuple=True)
        close.append(torch.stack([some[near], order[which[near], place]]))
    who, which = torch.cat(close, dim=1)
    tried = [closest_on_triangles(asked[a], corners[b]) for a, b in zip(who.split(_TRIED), which.split(_TRIED))]
    weights, distance = (torch.cat(part) for part in zip(*tried))
    best = bound.new_full((len(asked),), torch.inf).scatter_reduce(0, who, distance, "amin")
    rows = (distance == best[who]).nonzero()[:, 0]
    face = torch.full((len(asked),), len(centre), device=who.device).scatter_reduce(0, who[rows], which[rows], "amin")
    rows = rows[which[rows] == face[who[rows]]]
    row = torch.full((len(asked),), len(who), device=who.device).scatter_reduce(0, who[rows], rows, "amin")
    return face, weights[row], best


def _morton(cell: Tensor) -> Tensor:
    """int64 (N, 3) of ten bits -> (N,), the bits of the three in turn."""
    for shift, mask in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
        cell = (cell | cell << shift) & mask
    return cell[:, 0] | cell[:, 1] << 1 | cell[:, 2] << 2


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


def sample_surface(vertices: Array | Tensor, faces: Array | Tensor, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Points evenly over the area -> points float64 (count, 3), the face of each int64 (count,). Stratified: a face of share s gets s *
    count, to within one.
    """
    if isinstance(vertices, Tensor) and isinstance(faces, Tensor):
        area = plain(tensors.area_vectors(vertices, faces).norm(dim=1))
    else:
        area = np.linalg.norm(area_vectors(vertices, faces), axis=1)
    rng = np.random.default_rng(seed)
    ends = np.cumsum(area)
    face = np.searchsorted(ends, (np.arange(count) + rng.random(count)) / count * ends[-1], side="right").clip(max=len(faces) - 1)
    u, v = rng.random((2, count))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    a, b, c = plain(vertices[tensors.rows(faces, face)]).astype(np.float64).transpose(1, 0, 2)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a), face
