"""FlexiCubes by the letter of stage2.md 9.3 and 9.4, for the tests: float64, dictionaries, loops over all R^3 cubes. Shares nothing but the case tables."""

from __future__ import annotations

import itertools

import torch
from comfyui_sam3d.worker.sam3d.flexicubes_tables import CORNERS, EDGES, tables

Place = tuple[int, ...]


class Field:
    """What active cubes say of the grid's vertices: cubes int (n, 3), features (n, 101)."""

    def __init__(self, cubes: torch.Tensor, features: torch.Tensor, resolution: int) -> None:
        self.resolution = resolution
        said: dict[Place, list[torch.Tensor]] = {}
        self.weights = {}
        for cube, row in zip(map(tuple, cubes.tolist()), features.double()):
            self.weights[cube] = row[32:53]
            for i in range(8):
                own = [row[i : i + 1] - 1 / resolution, row[8 + 3 * i : 11 + 3 * i], row[53 + 6 * i : 59 + 6 * i]]
                said.setdefault(corner(cube, i), []).append(torch.cat(own))
        self.means = {place: torch.stack(rows).mean(0) for place, rows in said.items()}

    def sdf(self, place: Place) -> float:
        return float(self.means[place][0]) if place in self.means else 1.0

    def values(self, place: Place) -> torch.Tensor:
        """Position and attributes, (9,)."""
        mean = self.means.get(place, torch.zeros(10, dtype=torch.float64))
        moved = torch.tensor(place, dtype=torch.float64) / self.resolution - 0.5 + torch.tanh(mean[1:4]) / (2 * self.resolution)
        return torch.cat([moved, torch.sigmoid(mean[4:])])


def corner(cube: Place, index: int) -> Place:
    return tuple(a + b for a, b in zip(cube, CORNERS[index]))


def reference(cubes: torch.Tensor, features: torch.Tensor, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """-> positions and attributes float64 (V, 9), faces int64 (F, 3)."""
    field, known = Field(cubes, features, resolution), tables()
    groups, slots, check = known.groups.tolist(), known.dmc.tolist(), known.check.tolist()
    raw = {}
    for cube in itertools.product(range(resolution), repeat=3):
        case = sum((field.sdf(corner(cube, i)) < 0) << i for i in range(8))
        if 0 < case < 255:
            raw[cube] = case
    cases = {}
    for cube, case in raw.items():
        flag, dx, dy, dz, other = check[case]
        beside = (cube[0] + dx, cube[1] + dy, cube[2] + dz)
        cases[cube] = other if flag and beside in raw and check[raw[beside]][0] else case

    vertices, gammas, owner = [], [], {}
    for count in range(1, 5):
        for row, cube in enumerate(cases):
            if groups[cases[cube]] != count:
                continue
            own = field.weights.get(cube, torch.zeros(21, dtype=torch.float64))
            beta, alpha, gamma = 0.99 * own[:12].tanh() + 1, 0.99 * own[12:20].tanh() + 1, 0.99 * own[20].sigmoid() + 0.005
            for group in slots[cases[cube]][:count]:
                total, share = torch.zeros(9, dtype=torch.float64), 0.0
                for edge in (edge for edge in group if edge >= 0):
                    a, b = EDGES[edge]
                    wa, wb = field.sdf(corner(cube, a)) * alpha[a], field.sdf(corner(cube, b)) * alpha[b]
                    total += beta[edge] * (field.values(corner(cube, a)) * wb - field.values(corner(cube, b)) * wa) / (wb - wa)
                    share += float(beta[edge])
                    owner[row, edge] = len(vertices)
                vertices.append(total / share)
                gammas.append(float(gamma))

    around: dict[tuple[Place, Place], list[tuple[int, int]]] = {}
    for row, cube in enumerate(cases):
        for edge, (a, b) in enumerate(EDGES):
            ends = corner(cube, a), corner(cube, b)
            if (field.sdf(ends[0]) < 0) != (field.sdf(ends[1]) < 0):
                around.setdefault(ends, []).append((row, edge))
    kinds: tuple[list[Place], list[Place]] = ([], [])
    for ends in sorted(around):
        if len(around[ends]) == 4:
            q = [owner[use] for use in sorted(around[ends])]
            outside = field.sdf(ends[0]) > 0
            kinds[not outside].append((q[0], q[1], q[3], q[2]) if outside else (q[2], q[3], q[1], q[0]))
    faces = []
    for quad in kinds[0] + kinds[1]:
        g = [gammas[vertex] for vertex in quad]
        split = ((0, 1, 2), (0, 2, 3)) if g[0] * g[2] > g[1] * g[3] else ((0, 1, 3), (3, 1, 2))
        faces += [[quad[i] for i in triangle] for triangle in split]
    return torch.stack(vertices), torch.tensor(faces, dtype=torch.int64).view(-1, 3)
