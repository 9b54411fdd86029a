"""Quadric edge collapse in parallel, as tensors: thins a large closed mesh on a GPU (Garland and Heckbert, "Surface Simplification Using
Quadric Error Metrics", 1997).

Each round collapses many edges at once: those that are the cheapest of all edges around them, so that no face feels two collapses. The link
condition keeps the surface a manifold, and a collapse that would turn a neighbouring face over is left out. `decimate` (one
thread, on the CPU) is the plain way to the same end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .attributes import segment_sums
from .tensors import placed
from .topology import Array

SHARE = 0.5  # of all edges, the cheapest, that may collapse in a round
STIFF = 1e-3  # pull of a new vertex towards the middle of its edge, against the quadric's own stiffness
LENGTH = 1e-4  # what an edge's squared length costs: flat regions thin out evenly
LEAST_TURN = -0.2  # cosine between a face's old and new normal; stricter rules leave slivers that nothing can remove
ROUNDS = 200
NONE = torch.iinfo(torch.int64).max


def thin(vertices: Array | Tensor, faces: Array | Tensor, target: int, device: torch.device | str) -> tuple[Array, Array]:
    """A closed mesh with at most about `target` faces: vertices float64 (V, 3), faces int64 (F, 3), or as near as sound collapses come.

    The mesh must be closed, wound alike and split (repair.split_crowded); vertices inside a cube of about 1.
    """
    with torch.inference_mode():
        mesh = _Mesh.of(placed(vertices, device, torch.float64).clone(), placed(faces, device))
        for number in range(ROUNDS):
            if len(mesh.faces) <= target or not mesh.collapse((len(mesh.faces) - target + 1) // 2):
                break
            if number % 8 == 7:
                mesh.compact()
        mesh.compact()
        return mesh.points.cpu().numpy(), mesh.faces.cpu().numpy()


@dataclass
class _Mesh:
    """points float64 (V, 3); faces int64 (F, 3); quadrics float64 (V, 10): A as xx xy xz yy yz zz, b, c of p'Ap + 2 b'p + c.

    refused float64 (V,): how often a collapse at each vertex was unsound: its edges step back behind others, or they would stand in their
    way for ever.
    """

    points: Tensor
    faces: Tensor
    quadrics: Tensor
    refused: Tensor

    @staticmethod
    def of(points: Tensor, faces: Tensor) -> _Mesh:
        """Each vertex with the quadrics of the planes of its faces, weighted by a third of their areas."""
        normal, area = _normals(points[faces])
        offset = -(normal * points[faces[:, 0]]).sum(1, keepdim=True)
        n0, n1, n2 = normal.unbind(1)
        plane = torch.cat([torch.stack([n0 * n0, n0 * n1, n0 * n2, n1 * n1, n1 * n2, n2 * n2], 1), offset * normal, offset * offset], dim=1)
        quadrics = segment_sums(faces.flatten(), (plane * (area / 3)[:, None]).repeat_interleave(3, dim=0), len(points))
        return _Mesh(points, faces, quadrics, points.new_zeros(len(points)))

    def collapse(self, most: int) -> bool:
        """One round, at most `most` collapses. False where none is possible."""
        ends = torch.cat([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        edge = ends[ends[:, 0] < ends[:, 1]]
        place, cost = self._best_places(edge)
        cost = cost * torch.exp2(self.refused[edge].sum(1))
        chosen = self._independent(edge, cost)
        sound = self._linked(edge[chosen]) & self._unturned(edge[chosen], place[chosen])
        self.refused[edge[chosen[~sound]]] += 2
        tried, chosen = len(chosen), chosen[sound]
        if len(chosen) > most:
            chosen = chosen[cost[chosen].argsort()[:most]]
        stays, goes = edge[chosen].unbind(1)
        self.points[stays] = place[chosen]
        self.quadrics[stays] += self.quadrics[goes]
        renumber = torch.arange(len(self.points), device=edge.device)
        renumber[goes] = stays
        faces = renumber[self.faces]
        self.faces = faces[(faces != faces.roll(1, 1)).all(1)]
        self.refused[stays] = 0
        return tried > 0

    def _best_places(self, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Where each edge's vertex would go (E, 3), and what that costs (E,), at least 0."""
        quadric = self.quadrics[edge[:, 0]] + self.quadrics[edge[:, 1]]
        a, b = self.points[edge[:, 0]], self.points[edge[:, 1]]
        middle, square = (a + b) / 2, ((a - b) ** 2).sum(1)
        xx, xy, xz, yy, yz, zz, bx, by, bz, c = quadric.unbind(1)
        size = xx + yy + zz
        pull = STIFF * size + 1e-30
        kx, ky, kz = xx + pull, yy + pull, zz + pull
        right = -torch.stack([bx, by, bz], 1) + pull[:, None] * middle
        # the inverse of the stiffened matrix by its cofactors
        c00, c01, c02 = ky * kz - yz * yz, xz * yz - xy * kz, xy * yz - xz * ky
        c11, c12, c22 = kx * kz - xz * xz, xy * xz - kx * yz, kx * ky - xy * xy
        rx, ry, rz = right.unbind(1)
        place = torch.stack([c00 * rx + c01 * ry + c02 * rz, c01 * rx + c11 * ry + c12 * rz, c02 * rx + c12 * ry + c22 * rz], 1)
        place = place / (kx * c00 + xy * c01 + xz * c02)[:, None]
        x, y, z = place.unbind(1)
        error = x * x * xx + y * y * yy + z * z * zz + 2 * (x * y * xy + x * z * xz + y * z * yz + x * bx + y * by + z * bz) + c
        return place, error.clamp(min=0) + LENGTH * size * square

    def _independent(self, edge: Tensor, cost: Tensor) -> Tensor:
        """Rows of edges that are the cheapest around both of their ends' neighbours, and cheap at all."""
        key = cost.float().view(torch.int32).long() << 32 | torch.arange(len(edge), device=edge.device)
        some = key[:: 1 + len(key) // 5000].sort().values  # a sample of all edges tells what is cheap
        limit = some[int(SHARE * (len(some) - 1))]
        least = torch.full((len(self.points),), NONE, device=edge.device)
        least.scatter_reduce_(0, edge.flatten(), key.repeat_interleave(2), "amin")
        around = least.clone()
        around.scatter_reduce_(0, edge.flatten(), least[edge.flip(1)].flatten(), "amin")
        return ((key <= limit) & (around[edge[:, 0]] == key) & (around[edge[:, 1]] == key)).nonzero()[:, 0]

    def _linked(self, edge: Tensor) -> Tensor:
        """bool: edges whose ends have exactly two neighbours in common, each with another way out, so that the surface stays a manifold."""
        owner = torch.full((len(self.points),), -1, device=edge.device)
        owner[edge] = torch.arange(len(edge), device=edge.device)[:, None]
        start, end = self.faces.flatten(), self.faces.roll(-1, 1).flatten()
        touching = owner[start] >= 0
        names, times = torch.unique(owner[start[touching]] * len(self.points) + end[touching], return_counts=True)
        both = names[times > 1]
        common = torch.bincount(both // len(self.points), minlength=len(edge))
        valence = torch.bincount(start, minlength=len(self.points))
        bare = valence[both % len(self.points)] <= 3  # would be left with two faces
        common[both[bare] // len(self.points)] = 0
        return common == 2

    def _unturned(self, edge: Tensor, place: Tensor) -> Tensor:
        """bool: edges whose collapse turns no face around them over."""
        owner = torch.full((len(self.points),), -1, device=edge.device)
        owner[edge] = torch.arange(len(edge), device=edge.device)[:, None]
        whose = owner[self.faces]
        rows = ((whose >= 0).sum(1) == 1).nonzero()[:, 0]  # those with both ends vanish
        old, whose = self.points[self.faces[rows]], whose[rows]
        new = torch.where((whose >= 0)[..., None], place[whose.clamp(min=0)], old)
        bad = (_normals(old)[0] * _normals(new)[0]).sum(1) < LEAST_TURN
        good = torch.ones(len(edge), dtype=torch.bool, device=edge.device)
        good[whose.amax(1)[bad]] = False
        return good

    def compact(self) -> None:
        """Drop the vertices that no face uses."""
        used, faces = torch.unique(self.faces, return_inverse=True)
        self.points, self.quadrics, self.refused, self.faces = self.points[used], self.quadrics[used], self.refused[used], faces


def _normals(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Triangles (F, 3, 3) -> unit normals (F, 3), 0 where there is no area; areas (F,)."""
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = across.norm(dim=1)
    return across / length.clamp(min=1e-30)[:, None], length / 2
