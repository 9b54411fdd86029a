"""FlexiCubes on a sparse set of cubes: features -> a triangle mesh (spec: stage2.md 9.2 to 9.4).

Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", 2023: dual marching cubes whose vertices are moved by learned weights.

Nothing dense is ever built. The grid's vertices are those of the active cubes; every other vertex lies outside (sdf +1), unmoved, grey. So a cube that
holds surface touches an inside vertex of an active cube: only those cubes are looked at, active or not, in the ascending order of their dense number.

Frame: the object's cube [-0.5, 0.5], z up. Vertex number (x (R + 1) + y) (R + 1) + z, cube number (x R + y) R + z. All float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .flexicubes_tables import CORNERS, DIRECTION, EDGES, MOST_GROUPS, tables

# A cube's features: sdf, displacement (3) and colour (3, and 3 for a normal map) of its 8 corners; weights of its 12 edges, 8 corners and 1 split
SDF, DEFORM, WEIGHTS, COLOR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, 101)
CUBE_CHANNELS = 101
ATTRIBUTES = 6
GREY, SPLIT = 0.5, 0.5  # of what isn't active


@dataclass(frozen=True)
class Surface:
    """vertices float32 (V, 3); faces int64 (F, 3), normals outwards; attributes float32 (V, 6) in 0..1: sRGB colour, normal map. Perhaps all empty."""

    vertices: Tensor
    faces: Tensor
    attributes: Tensor


@dataclass(frozen=True)
class Grid:
    """What is known of the R^3 cubes; whatever is absent has the defaults.

    vertices int64 (V,), ascending numbers; sdf (V,), inside < 0; values (V, 9): position 3, attributes 6. cubes int64 (C,), ascending
    numbers; beta (C, 12) of the edges, alpha (C, 8) of the corners, gamma (C,) of the quads' split.
    """

    resolution: int
    vertices: Tensor
    sdf: Tensor
    values: Tensor
    cubes: Tensor
    beta: Tensor
    alpha: Tensor
    gamma: Tensor


@dataclass(frozen=True)
class SurfaceCubes:
    """The S cubes with corners on both sides, ascending. corners int64 (S, 8): rows of the grid's vertices, -1 where absent. case int64 (S,)."""

    cubes: Tensor
    corners: Tensor
    case: Tensor


def extract_surface(cubes: Tensor, features: Tensor, resolution: int) -> Surface:
    """Different active cubes int (n, 3) in 0..R-1, features float32 (n, 101) -> the surface."""
    return surface(build_grid(cubes, features, resolution))


def build_grid(cubes: Tensor, features: Tensor, resolution: int) -> Grid:
    """Features of cubes -> a grid: what several cubes say of a vertex is averaged, then activated (9.3)."""
    vertices, mean = average_corners(cubes, features, resolution)
    moved = vertex_positions(vertices, resolution) + torch.tanh(mean[:, 1:4]) / (2 * resolution)
    numbers, order = linear(cubes.long(), resolution).sort()
    beta, alpha, gamma = activate_weights(features[order, WEIGHTS])
    return Grid(resolution, vertices, mean[:, 0], torch.cat([moved, torch.sigmoid(mean[:, 4:])], 1), numbers, beta, alpha, gamma)


def average_corners(cubes: Tensor, features: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """-> the active cubes' vertices, ascending, and their mean (V, 10): sdf (less 1/R), displacement, colours, none activated."""
    corners = torch.tensor(CORNERS, device=cubes.device)
    numbers = linear(cubes.long()[:, None] + corners, resolution + 1)
    vertices, row = torch.unique(numbers.flatten(), return_inverse=True)
    sums = torch.zeros(len(vertices), 10, device=cubes.device)
    parts = [
        features[:, SDF, None] - 1 / resolution,
        features[:, DEFORM].unflatten(1, (8, 3)),
        features[:, COLOR].unflatten(1, (8, ATTRIBUTES)),
    ]
    sums.index_add_(0, row, torch.cat(parts, dim=-1).flatten(0, 1))
    return vertices, sums / torch.bincount(row, minlength=len(vertices))[:, None]


def activate_weights(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C, 21) -> beta (C, 12), alpha (C, 8), both in 0.01..1.99, gamma (C,) in 0.005..0.995."""
    return 0.99 * torch.tanh(raw[:, :12]) + 1, 0.99 * torch.tanh(raw[:, 12:20]) + 1, 0.99 * torch.sigmoid(raw[:, 20]) + 0.005


def surface(grid: Grid) -> Surface:
    """Dual vertices and the quads between them, two triangles each (9.4). The order of both is the original's."""
    found = surface_cubes(grid)
    case = resolve_ambiguous(found, grid.resolution)
    row, slot, vertex, count, cube_of = _dual_vertices(case)
    if count == 0:
        empty = grid.values.new_zeros
        return Surface(empty(0, 3), torch.zeros(0, 3, dtype=torch.int64, device=case.device), empty(0, ATTRIBUTES))
    ends = torch.tensor(EDGES, device=case.device)[slot]  # (E, 2): the corners a, b of each cut edge of each cube
    corner = found.corners[row[:, None], ends]
    start = vertex_numbers(found.cubes[row], grid.resolution, ends[:, 0])
    sdf = _take(grid.sdf, corner, 1.0)

    active = _find(grid.cubes, found.cubes)
    beta = _take(grid.beta, active, 1.0)[row, slot]
    alpha = _take(grid.alpha, active, 1.0)[row[:, None], ends]
    gamma = _take(grid.gamma, active, SPLIT)[cube_of]

    values = _edge_crossings(grid, corner, start, slot, sdf * alpha)
    sums = torch.zeros(count, values.shape[1] + 1, device=case.device)
    sums.index_add_(0, vertex, torch.cat([values, torch.ones_like(values[:, :1])], dim=1) * beta[:, None])
    mean = sums[:, :-1] / sums[:, -1:]
    faces = _triangles(_quads(start, slot, vertex, sdf[:, 0] > 0), gamma)
    return Surface(mean[:, :3].contiguous(), faces, mean[:, 3:].contiguous())


def surface_cubes(grid: Grid) -> SurfaceCubes:
    """The cubes around inside vertices that also have an outside corner."""
    side, device = grid.resolution, grid.vertices.device
    inside = grid.vertices[grid.sdf < 0]
    xyz = torch.stack([inside // (side + 1) ** 2, inside // (side + 1) % (side + 1), inside % (side + 1)], dim=1)
    around = (xyz[:, None] - torch.tensor(CORNERS, device=device)).flatten(0, 1)
    around = around[((around >= 0) & (around < side)).all(1)]
    cubes = linear(around, side).unique()
    corners = _find(grid.vertices, vertex_numbers(cubes[:, None], side, torch.arange(8, device=device)))
    signs = _take(grid.sdf, corners, 1.0) < 0
    case = (signs.long() << torch.arange(8, device=device)).sum(1)
    mixed = case != 255  # none is 0
    return SurfaceCubes(cubes[mixed], corners[mixed], case[mixed])


def resolve_ambiguous(found: SurfaceCubes, resolution: int) -> Tensor:
    """The cases int64 (S,), where two cubes that would cut their common face in different ways both take the complementary case."""
    check = tables().check.to(found.case.device).long()[found.case]
    rows = check[:, 0].nonzero()[:, 0]
    step, other, cubes = check[rows, 1:4], check[rows, 4], found.cubes[rows]
    xyz = torch.stack([cubes // resolution**2, cubes // resolution % resolution, cubes % resolution], dim=1) + step
    there = ((xyz >= 0) & (xyz < resolution)).all(1)
    neighbour = _find(found.cubes, torch.where(there, linear(xyz, resolution), -1))
    turned = (neighbour >= 0) & (_take(check[:, 0], neighbour, 0) == 1)
    case = found.case.clone()
    case[rows[turned]] = other[turned]
    return case


def _dual_vertices(case: Tensor) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Cases (S,) -> for each cut edge of each cube, cube by cube: row, slot, dual vertex (E,); how many vertices; each vertex's cube (V,).

    Vertices are numbered over all cubes with one group, then over those with two, three, four.
    """
    known = tables()
    groups = known.groups.to(case.device).long()[case]
    first = torch.zeros_like(case)
    cube_of: list[Tensor] = []
    count = 0
    for number in range(1, MOST_GROUPS + 1):
        rows = (groups == number).nonzero()[:, 0]
        first[rows] = count + number * torch.arange(len(rows), device=case.device)
        cube_of.append(rows.repeat_interleave(number))
        count += number * len(rows)
    group = known.group_of.to(case.device).long()[case]
    row, slot = (group >= 0).nonzero(as_tuple=True)
    return row, slot, first[row] + group[row, slot], count, torch.cat(cube_of)


def _edge_crossings(grid: Grid, corner: Tensor, start: Tensor, slot: Tensor, weighted: Tensor) -> Tensor:
    """Position and attributes (E, 9) where an edge crosses the surface. weighted (E, 2): its ends' sdf times alpha."""
    side = grid.resolution + 1
    steps = torch.tensor([CORNERS[b] for _, b in EDGES], device=slot.device) - torch.tensor(
        [CORNERS[a] for a, _ in EDGES], device=slot.device
    )
    numbers = torch.stack([start, start + linear(steps, side)[slot]], dim=1)
    default = F.pad(vertex_positions(numbers, grid.resolution), (0, ATTRIBUTES), value=GREY)
    values = torch.where((corner >= 0)[..., None], _take(grid.values, corner, 0.0), default)
    wa, wb = weighted[:, :1], weighted[:, 1:]
    return (values[:, 0] * wb - values[:, 1] * wa) / (wb - wa)


def _quads(start: Tensor, slot: Tensor, vertex: Tensor, outside_first: Tensor) -> Tensor:
    """Cut edges cube by cube -> int64 (Q, 4), the dual vertices around each grid edge that four cubes share, wound to face outwards.

    start, slot: the edge's first vertex and its place in the cube, which together name it. outside_first: is the sdf there above 0? Those come first.
    """
    name, order = (3 * start + torch.tensor(DIRECTION, device=slot.device)[slot]).sort(stable=True)
    _, sharing = torch.unique_consecutive(name, return_counts=True)
    begin = (sharing.cumsum(0) - sharing)[sharing == 4]
    around = order[begin[:, None] + torch.arange(4, device=slot.device)]
    quads, ahead = vertex[around], outside_first[around[:, 0]]
    return torch.cat([quads[ahead][:, [0, 1, 3, 2]], quads[~ahead][:, [2, 3, 1, 0]]])


def _triangles(quads: Tensor, gamma: Tensor) -> Tensor:
    """int64 (Q, 4) -> (2 Q, 3), split along the diagonal of the larger product of gammas; a tie takes the second split."""
    g = gamma[quads]
    along = (g[:, 0] * g[:, 2] > g[:, 1] * g[:, 3])[:, None]
    return torch.where(along, quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]]).reshape(-1, 3)


def linear(xyz: Tensor, side: int) -> Tensor:
    """int64 (..., 3) -> (...), z fastest."""
    return (xyz[..., 0] * side + xyz[..., 1]) * side + xyz[..., 2]


def vertex_numbers(cubes: Tensor, resolution: int, corner: Tensor) -> Tensor:
    """Cube numbers and corner indices 0..7, broadcast -> vertex numbers."""
    side = resolution + 1
    base = linear(torch.stack([cubes // resolution**2, cubes // resolution % resolution, cubes % resolution], dim=-1), side)
    return base + linear(torch.tensor(CORNERS, device=cubes.device), side)[corner]


def vertex_positions(vertices: Tensor, resolution: int) -> Tensor:
    """Vertex numbers (...) -> float32 (..., 3), unmoved."""
    side = resolution + 1
    return torch.stack([vertices // side**2, vertices // side % side, vertices % side], dim=-1).float() / resolution - 0.5


def _find(ascending: Tensor, wanted: Tensor) -> Tensor:
    """Each wanted number's row among ascending ones, -1 where it isn't there."""
    if len(ascending) == 0:
        return torch.full_like(wanted, -1)
    at = torch.searchsorted(ascending, wanted).clamp_(max=len(ascending) - 1)
    return torch.where(ascending[at] == wanted, at, -1)


def _take(table: Tensor, rows: Tensor, default: float) -> Tensor:
    """table[rows], `default` where a row is -1."""
    padded = torch.cat([table, torch.full_like(table[:1], default) if len(table) else table.new_full((1, *table.shape[1:]), default)])
    return padded[rows]
