"""FlexiCubes on a sparse set of cubes: features -> a triangle mesh (spec: stage2.md 9.2 to 9.4).

Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", 2023: dual marching cubes whose vertices are moved by learned weights.

Nothing dense is ever built. The grid's vertices are those of the active cubes; every other vertex lies outside (sdf +1), unmoved, grey. So a cube that
holds surface touches an inside vertex of an active cube: only those cubes are looked at, active or not, in the ascending order of their number.

Frame: the object's cube [-0.5, 0.5], z up. A vertex has the number (x (R + 1) + y) (R + 1) + z, a cube that of its first corner: the order is that of
the dense R^3 grid, the other corners are a constant away, and so are the cubes next to it, since no cube has the number of a vertex at the grid's far
sides. Numbers are int32 where they fit, rows (of a list of vertices or cubes; -1: not in it) int32. All else float32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.cubes import corner_means, corner_step, dual_vertices, vertex_positions
from .flexicubes_tables import DIRECTION, EDGES, MOST_GROUPS, tables

# A cube's features: sdf, displacement (3) and colour (3, and 3 for a normal map) of its 8 corners; weights of its 12 edges, 8 corners and 1 split
SDF, DEFORM, WEIGHTS, COLOR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, 101)
CUBE_CHANNELS = 101
ATTRIBUTES = 6
# The features of corner i that are its vertex's: sdf, displacement, colours
CORNER_COLUMNS = tuple((i, *range(8 + 3 * i, 11 + 3 * i), *range(53 + 6 * i, 59 + 6 * i)) for i in range(8))


@dataclass(frozen=True)
class Surface:
    """vertices float32 (V, 3); faces int64 (F, 3), normals outwards; attributes float32 (V, 6) in 0..1: sRGB colour, normal map. Perhaps all empty."""

    vertices: Tensor
    faces: Tensor
    attributes: Tensor


@dataclass(frozen=True)
class Lattice:
    """Active cubes of a grid of R^3 and their vertices.

    cubes (C,), ascending numbers; order int64 (C,), where each stood in the list they came in. vertices (V,), ascending numbers; corners int32 (C, 8), their
    rows.
    """

    resolution: int
    cubes: Tensor
    order: Tensor
    vertices: Tensor
    corners: Tensor


@dataclass(frozen=True)
class Grid:
    """What is known of a lattice; whatever isn't there has the defaults.

    sdf (V,), inside < 0; values (V, 9): position 3, attributes 6; rim bool (V,), False only where all 8 cubes around a vertex are active. weights (C, 21) in
    the order that the cubes came in, not activated yet: beta 12, alpha 8, gamma 1.
    """

    lattice: Lattice
    sdf: Tensor
    values: Tensor
    rim: Tensor
    weights: Tensor


@dataclass(frozen=True)
class SurfaceCubes:
    """The S cubes with corners on both sides, ascending numbers. corners int32 (S, 8): rows of the grid's vertices. case int64 (S,). weights int64 (S,):
    rows of the grid's weights."""

    cubes: Tensor
    corners: Tensor
    case: Tensor
    weights: Tensor


@dataclass(frozen=True)
class _Constants:
    """What doesn't depend on the cubes, on a device."""

    columns: Tensor  # int32 (8, 10)
    bits: Tensor  # float32 (8,)
    groups: Tensor  # int64 (256,)
    group_of: Tensor  # int32 (256, 12)
    check: Tensor  # int64 (5, 256)
    numbers: Tensor  # int64 (4, 1): 1 to 4


@functools.lru_cache(maxsize=4)
def _constants(device: torch.device) -> _Constants:
    known = tables()
    with torch.inference_mode(False), torch.device(device):
        return _Constants(
            torch.tensor(CORNER_COLUMNS, dtype=torch.int32),
            torch.tensor([2.0**corner for corner in range(8)]),
            known.groups.long().to(device),
            known.group_of.int().to(device),
            known.check.long().t().contiguous().to(device),
            torch.arange(1, MOST_GROUPS + 1)[:, None],
        )


def extract_surface(cubes: Tensor, features: Tensor, resolution: int) -> Surface:
    """Different active cubes int (n, 3) in 0..R-1, features float32 (n, 101) -> the surface."""
    return surface(build_grid(cubes, features, resolution))


def build_grid(cubes: Tensor, features: Tensor, resolution: int) -> Grid:
    """Features of cubes -> a grid: what several cubes say of a vertex is averaged, then activated (9.3)."""
    lattice = build_lattice(cubes, resolution)
    mean, around = average_corners(lattice, features)
    moved = vertex_positions(lattice.vertices, resolution) + torch.tanh(mean[:, 1:4]) / (2 * resolution)
    values = torch.cat([moved, torch.sigmoid(mean[:, 4:])], 1)
    return Grid(lattice, mean[:, 0].contiguous(), values, around < 8, features[:, WEIGHTS])


def build_lattice(cubes: Tensor, resolution: int) -> Lattice:
    """Different cubes int (n, 3), in any order.

    Vertices are found one axis at a time: the list, and the list one step further, are made one.
    """
    side = resolution + 1
    x, y, z = cubes.to(torch.int32 if 6 * side**3 < 2**31 else torch.int64).unbind(1)  # room for twice the number of edges, see _faces
    numbers, order = ((x * side + y) * side + z).sort()
    vertices, rows = numbers, [torch.arange(len(numbers), device=numbers.device)]
    for step in (1, side, side**2):  # along z, y, x: the last varies fastest from corner to corner
        count = len(vertices)
        vertices, row = torch.unique(torch.cat([vertices, vertices + step]), return_inverse=True)
        rows = [half.index_select(0, before) for before in rows for half in (row[:count], row[count:])]
    return Lattice(resolution, numbers, order, vertices, torch.stack(rows, dim=1).int())


def average_corners(lattice: Lattice, features: Tensor) -> tuple[Tensor, Tensor]:
    """Features in the order that the cubes came in -> the vertices' mean (V, 10): sdf (less 1/R), displacement, colours, none activated; cubes around (V,)."""
    columns = _constants(features.device).columns
    return corner_means(features, lattice.order, lattice.corners, len(lattice.vertices), columns, -1 / lattice.resolution)


def activate_weights(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(S, 21) -> beta and alpha (S, 20), in 0.01..1.99, and gamma (S,) in 0.005..0.995. 0 gives what cubes have that aren't active: 1, 1, 0.5."""
    return 0.99 * torch.tanh(raw[:, :20]) + 1, 0.99 * torch.sigmoid(raw[:, 20]) + 0.005


def surface(grid: Grid) -> Surface:
    """Dual vertices and the quads between them, two triangles each (9.4). The order of both is the original's."""
    found, resolution = surface_cubes(grid), grid.lattice.resolution
    if len(found.cubes) == 0:
        empty = grid.values.new_zeros
        return Surface(empty(0, 3), torch.zeros(0, 3, dtype=torch.int64, device=grid.sdf.device), empty(0, ATTRIBUTES))
    known = _constants(grid.sdf.device)
    case = resolve_ambiguous(found, resolution)
    groups, group_of = known.groups.index_select(0, case), known.group_of.index_select(0, case)
    # Vertices are numbered over all cubes with one group, then over those with two, three, four.
    ends = ((groups == known.numbers) * known.numbers).flatten().cumsum(0)
    count = int(ends[-1])
    own = (groups - 1) * len(case) + torch.arange(len(case), device=case.device)
    first = (ends.index_select(0, own) - groups).int()
    raw = grid.weights.index_select(0, found.weights.clamp(min=0)).masked_fill_((found.weights < 0)[:, None], 0)
    weights, gamma = activate_weights(raw)
    values = dual_vertices(found.cubes, found.corners, group_of, first, count, grid.sdf, grid.values, weights, EDGES, resolution)
    faces = _faces(found, group_of, first, gamma, grid.sdf, resolution)
    return Surface(values[:, :3].contiguous(), faces, values[:, 3:].contiguous())


def surface_cubes(grid: Grid) -> SurfaceCubes:
    """The cubes with corners on both sides: active ones, and others around inside vertices."""
    inside, lattice = grid.sdf < 0, grid.lattice
    case = _cases(inside, lattice.corners)
    mixed = ((case > 0) & (case < 255)).nonzero()[:, 0]
    cubes, corners, case, weights = (part.index_select(0, mixed) for part in (lattice.cubes, lattice.corners, case, lattice.order))
    more = _inactive(lattice, inside & grid.rim)
    if len(more) == 0:
        return SurfaceCubes(cubes, corners, case, weights)
    side = lattice.resolution + 1
    their = torch.stack([_find(lattice.vertices, more + corner_step(corner, side)) for corner in range(8)], dim=1)
    their_case = _cases(torch.cat([inside, inside.new_zeros(1)]), torch.where(their < 0, len(inside), their))  # absent is outside
    mixed = (their_case < 255).nonzero()[:, 0]
    more, their, their_case = (part.index_select(0, mixed) for part in (more, their, their_case))
    cubes, order = torch.cat([cubes, more]).sort()
    parts = (corners, their), (case, their_case), (weights, torch.full_like(more, -1, dtype=torch.int64))
    corners, case, weights = (torch.cat(pair).index_select(0, order) for pair in parts)
    return SurfaceCubes(cubes, corners, case, weights)


def _cases(inside: Tensor, corners: Tensor) -> Tensor:
    """int64 (n,): corner i inside counts 2^i."""
    signs = inside.index_select(0, corners.flatten()).view(-1, 8)
    return (signs.float() @ _constants(inside.device).bits).long()


def _inactive(lattice: Lattice, inside: Tensor) -> Tensor:
    """The ascending numbers of the cubes that aren't active and touch one of these vertices, bool (V,)."""
    side, start = lattice.resolution + 1, lattice.vertices[inside]
    place = start // side**2, start // side % side, start % side
    first, last = [at > 0 for at in place], [at < lattice.resolution for at in place]
    around = []
    for corner in range(8):
        x, y, z = ((first if corner >> axis & 1 else last)[axis] for axis in range(3))
        around.append((start - corner_step(corner, side))[x & y & z])
    cubes = torch.cat(around).unique()
    return cubes[_find(lattice.cubes, cubes) < 0]


def resolve_ambiguous(found: SurfaceCubes, resolution: int) -> Tensor:
    """The cases int64 (S,), where two cubes that would cut their common face in different ways both take the complementary case."""
    side, (flag, dx, dy, dz, other) = resolution + 1, _constants(found.case.device).check
    flagged = flag.index_select(0, found.case)
    rows = flagged.nonzero()[:, 0]
    case = found.case.index_select(0, rows)
    step = (dx * side + dy) * side + dz
    neighbour = _find(found.cubes, found.cubes.index_select(0, rows) + step.to(found.cubes.dtype).index_select(0, case))
    turned = (neighbour >= 0) & (flagged.index_select(0, neighbour.clamp(min=0)) == 1)
    return found.case.index_copy(0, rows, torch.where(turned, other.index_select(0, case), case))


def _slots_along(axis: int) -> tuple[int, ...]:
    """An edge's slot in each of the four cubes around it, in their order. In the last it starts or ends at corner 0."""
    one, two = (1 << other for other in range(3) if other != axis)
    return tuple(next(slot for slot, edge in enumerate(EDGES) if set(edge) == {low, low | 1 << axis}) for low in (one | two, one, two, 0))


_SLOTS = tuple(_slots_along(axis) for axis in range(3))


def _faces(found: SurfaceCubes, group_of: Tensor, first: Tensor, gamma: Tensor, sdf: Tensor, resolution: int) -> Tensor:
    """int64 (F, 3): two triangles of the four dual vertices around each cut edge that four cubes share, in the edges' order, wound to face outwards.

    The four are found from the last. An edge at the grid's side has fewer; elsewhere all four are surface cubes, since all have the cut edge.
    Edges whose first vertex has an sdf above 0 come first. The quad is split along the diagonal of the larger product of gammas; a tie takes the second.
    """
    side, cubes = resolution + 1, found.cubes
    own = torch.arange(len(cubes), device=cubes.device, dtype=torch.int32)
    z = own - 1  # one step back along z is the cube before, or none
    z[1:].masked_fill_(cubes[1:] != cubes[:-1] + 1, -1)
    x, y, xy = (_find(cubes, cubes - step) for step in (side**2, side, side**2 + side))
    names, faces = [], []
    for slots, around in zip(_SLOTS, ((y - 1, y, z, own), (x - 1, x, z, own), (xy, x, y, own))):
        slot = slots[3]
        row = ((group_of[:, slot] >= 0) & (around[1] >= 0) & (around[2] >= 0)).nonzero()[:, 0]
        four = [cube.index_select(0, row) for cube in around]
        a, b, c, d = (first.index_select(0, at) + group_of[:, place].index_select(0, at) for at, place in zip(four, slots))
        ga, gb, gc, gd = (gamma.index_select(0, at) for at in four)
        start = EDGES[slot][0]
        corner = found.corners[:, start].index_select(0, row)
        ahead = (corner < 0) | (sdf.index_select(0, corner.clamp(min=0)) > 0)
        name = 3 * (cubes.index_select(0, row) + corner_step(start, side)) + DIRECTION[slot]
        names.append(torch.where(ahead, name, name + 3 * side**3))
        p, q, r, s = torch.where(ahead, a, c), torch.where(ahead, b, d), torch.where(ahead, d, b), torch.where(ahead, c, a)
        along = torch.where(ahead, ga * gd > gb * gc, gb * gc > ga * gd)
        faces.append(
            torch.stack([p, q, torch.where(along, r, s), torch.where(along, p, s), torch.where(along, r, q), torch.where(along, s, r)], 1)
        )
    order = torch.cat(names).argsort()
    return torch.cat(faces).index_select(0, order).long().view(-1, 3)


def _find(ascending: Tensor, wanted: Tensor) -> Tensor:
    """Each wanted number's row among ascending ones, int32, -1 where it isn't there."""
    at = torch.searchsorted(ascending, wanted, out_int32=True).clamp_(max=len(ascending) - 1)
    return at.masked_fill_(ascending.index_select(0, at.flatten()).view_as(at) != wanted, -1)
