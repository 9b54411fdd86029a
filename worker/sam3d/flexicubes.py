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

from ..ops.cubes import corner_means, dual_vertices, vertex_positions
from .flexicubes_tables import CORNERS, DIRECTION, EDGES, MOST_GROUPS, tables

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

    cubes (C,), ascending numbers; order int64 (C,), where each stood in the list they came in. vertices (V,), ascending numbers; corners int32 (8, C), their
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
    """The S cubes with corners on both sides, ascending numbers. corners int32 (8, S): rows of the grid's vertices. case int64 (S,). weights int64 (S,):
    rows of the grid's weights."""

    cubes: Tensor
    corners: Tensor
    case: Tensor
    weights: Tensor


def _slots_along(axis: int) -> tuple[int, ...]:
    """The slot of an edge in each of the four cubes around it, in their order. In the last of them it starts or ends at corner 0."""
    one, two = (1 << other for other in range(3) if other != axis)
    return tuple(next(slot for slot, edge in enumerate(EDGES) if set(edge) == {low, low | 1 << axis}) for low in (one | two, one, two, 0))


# Edges along x, y, z: slots of their four cubes, and which of these a cube's neighbours are
SLOTS = tuple(_slots_along(axis) for axis in range(3))
X, Y, Z, XY, BEFORE_X, BEFORE_Y, SELF = range(7)  # the cubes one step back along x, y, z, x and y; those before the first two; itself
AROUND = ((BEFORE_Y, Y, Z, SELF), (BEFORE_X, X, Z, SELF), (XY, X, Y, SELF))
# Corners of a quad's two triangles, by (split along the first diagonal) * 2 + (the edge's start is outside)
WINDINGS = ((2, 3, 0, 0, 3, 1), (0, 1, 2, 2, 1, 3), (2, 3, 1, 2, 1, 0), (0, 1, 3, 0, 3, 2))


@dataclass(frozen=True)
class _Constants:
    """What doesn't depend on the cubes, on a device. int64 where nothing else is said."""

    columns: Tensor  # int32 (8, 10)
    corners: Tensor  # int32 (8, 3)
    powers: Tensor  # float32 (8,)
    groups: Tensor  # (256,)
    group_of: Tensor  # int32 (12, 256)
    check: Tensor  # (5, 256)
    numbers: Tensor  # (4, 1): 1 to 4
    slots: Tensor  # (4, 3)
    around: Tensor  # (4, 3)
    starts: Tensor  # (3,)
    directions: Tensor  # (3,)
    windings: Tensor  # (6, 4)


@functools.lru_cache(maxsize=4)
def _constants(device: torch.device) -> _Constants:
    known = tables()
    with torch.inference_mode(False), torch.device(device):
        return _Constants(
            columns=torch.tensor(CORNER_COLUMNS, dtype=torch.int32),
            corners=torch.tensor(CORNERS, dtype=torch.int32),
            powers=torch.tensor([2.0**corner for corner in range(8)]),
            groups=known.groups.long().to(device),
            group_of=known.group_of.int().t().contiguous().to(device),
            check=known.check.long().t().contiguous().to(device),
            numbers=torch.arange(1, MOST_GROUPS + 1)[:, None],
            slots=torch.tensor(SLOTS).t().contiguous(),
            around=torch.tensor(AROUND).t().contiguous(),
            starts=torch.tensor([EDGES[slots[3]][0] for slots in SLOTS]),
            directions=torch.tensor([DIRECTION[slots[3]] for slots in SLOTS]),
            windings=torch.tensor(WINDINGS).t().contiguous(),
        )


def extract_surface(cubes: Tensor, features: Tensor, resolution: int) -> Surface:
    """Different active cubes int (n, 3) in 0..R-1, features float32 (n, 101) -> the surface."""
    return surface(build_grid(cubes, features, resolution))


def build_grid(cubes: Tensor, features: Tensor, resolution: int) -> Grid:
    """Features of cubes -> a grid: what several cubes say of a vertex is averaged, then activated (9.3)."""
    lattice = build_lattice(cubes, resolution)
    mean, around = average_corners(lattice, features)
    mean[:, 1:4].tanh_().div_(2 * resolution).add_(vertex_positions(lattice.vertices, resolution))
    mean[:, 4:].sigmoid_()
    return Grid(lattice, mean[:, 0].contiguous(), mean[:, 1:], around < 8, features[:, WEIGHTS])


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
    return Lattice(resolution, numbers, order, vertices, torch.stack([row.int() for row in rows]))


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
    groups, group_of = known.groups.index_select(0, case), known.group_of.index_select(1, case)
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
    cubes, case, weights = (part.index_select(0, mixed) for part in (lattice.cubes, case, lattice.order))
    corners = lattice.corners.index_select(1, mixed)
    more = _inactive(lattice, inside & grid.rim)
    their = _find(lattice.vertices, more + _steps(lattice.resolution, inside.device)[:, None])
    their_case = _cases(torch.cat([inside, inside.new_zeros(1)]), torch.where(their < 0, len(inside), their))  # absent is outside
    mixed = (their_case < 255).nonzero()[:, 0]
    cubes, order = torch.cat([cubes, more.index_select(0, mixed)]).sort()
    corners = torch.cat([corners, their.index_select(1, mixed)], 1).index_select(1, order)
    case = torch.cat([case, their_case.index_select(0, mixed)]).index_select(0, order)
    weights = torch.cat([weights, torch.full_like(mixed, -1)]).index_select(0, order)
    return SurfaceCubes(cubes, corners, case, weights)


def _cases(inside: Tensor, corners: Tensor) -> Tensor:
    """Rows (8, n) -> int64 (n,): corner i inside counts 2^i."""
    signs = inside.index_select(0, corners.flatten()).view(8, -1)
    return (_constants(inside.device).powers @ signs.float()).long()


def _steps(resolution: int, device: torch.device) -> Tensor:
    """int32 (8,): how much larger a corner's number is than that of the cube."""
    side, (x, y, z) = resolution + 1, _constants(device).corners.unbind(1)
    return (x * side + y) * side + z


def _inactive(lattice: Lattice, inside: Tensor) -> Tensor:
    """The ascending numbers of the cubes that aren't active and touch one of these vertices, bool (V,)."""
    side, number = lattice.resolution + 1, lattice.vertices[inside]
    place = torch.stack([number // side**2, number // side % side, number % side])
    cube = place[:, None] - _constants(number.device).corners.t()[:, :, None]
    around = (number - _steps(lattice.resolution, number.device)[:, None])[((cube >= 0) & (cube < lattice.resolution)).all(0)].unique()
    return around[_find(lattice.cubes, around) < 0]


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


def _faces(found: SurfaceCubes, group_of: Tensor, first: Tensor, gamma: Tensor, sdf: Tensor, resolution: int) -> Tensor:
    """int64 (F, 3): two triangles of the four dual vertices around each cut edge that four cubes share, in the edges' order, wound to face outwards.

    The four are found from the last. An edge at the grid's side has fewer; elsewhere all four are surface cubes, since all have the cut edge.
    Edges whose first vertex has an sdf above 0 come first. The quad is split along the diagonal of the larger product of gammas; a tie takes the second.
    """
    known, side, cubes, count = _constants(sdf.device), resolution + 1, found.cubes, len(found.cubes)
    near = _find(cubes, torch.stack([cubes - step for step in (side**2, side, 1, side**2 + side)]))
    own = torch.arange(count, dtype=torch.int32, device=sdf.device)
    near = torch.cat([near, near[:2] - 1, own[None]])  # z varies fastest: one step back along it is the cube before
    one, two = (near.index_select(0, known.around[place]) >= 0 for place in (1, 2))
    edge = ((group_of.index_select(0, known.slots[3]) >= 0) & one & two).flatten().nonzero()[:, 0]
    axis, row = edge // count, edge % count

    start = known.starts.index_select(0, axis)
    corner = found.corners.take(start * count + row)
    outside = (corner < 0) | (sdf.index_select(0, corner.clamp(min=0)) > 0)
    vertex = cubes.index_select(0, row) + _steps(resolution, sdf.device).index_select(0, start)
    name = 3 * vertex + known.directions.index_select(0, axis).to(vertex.dtype)
    order = torch.where(outside, name, name + 3 * side**3).argsort()
    axis, row, outside = axis[order], row[order], outside[order]

    four = near.take(known.around.index_select(1, axis) * count + row).long()
    dual = first.take(four) + group_of.take(known.slots.index_select(1, axis) * count + four)
    a, b, c, d = gamma.take(four)
    along = torch.where(outside, a * d > b * c, b * c > a * d)
    winding = known.windings.index_select(1, 2 * along.long() + outside)
    return dual.gather(0, winding).t().to(torch.int64, memory_format=torch.contiguous_format).view(-1, 3)


def _find(ascending: Tensor, wanted: Tensor) -> Tensor:
    """Each wanted number's row among ascending ones, int32, -1 where it isn't there."""
    at = torch.searchsorted(ascending, wanted, out_int32=True).clamp_(max=len(ascending) - 1)
    return at.masked_fill_(ascending.index_select(0, at.flatten()).view_as(at) != wanted, -1)
