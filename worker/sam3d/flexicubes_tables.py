"""Which dual vertices a cube of each sign pattern has, worked out from the rule (spec: stage2.md 9.4, 9.5).

Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", 2023; after Nielson, "Dual Marching Cubes", 2004.

A cube's corner i lies at (i & 1, i >> 1 & 1, i >> 2 & 1) in (x, y, z). A case is the set of its corners that are inside, as bits. An edge is cut where
its two ends differ; a group of cut edges is one patch of the surface, and gets one dual vertex.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# The twelve edges, in their order and each in its direction: 0, 2, 4, 6 run along +x, 1, 3, 5, 7 along +z, 8 to 11 along -y.
EDGES = ((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4))
CORNERS = tuple((i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(8))
# Rank of an edge's direction among edges that start at one vertex: -y, +z, +x.
DIRECTION = tuple({-2: 0, 4: 1, 1: 2}[b - a] for a, b in EDGES)
MOST_GROUPS, LONGEST = 4, 7


@dataclass(frozen=True)
class Tables:
    """groups int16 (256,): how many a case has. dmc int16 (256, 4, 7): each group's edges, ascending, filled up with -1.
    group_of int16 (256, 12): each edge's group, -1 where it isn't cut. check int16 (256, 5): (flag, dx, dy, dz, other case).

    check: a case with one ambiguous face and most corners inside, the neighbour behind that face, and the case to take if that neighbour is of the
    same kind: the two would disagree about the face they share.
    """

    groups: Tensor
    dmc: Tensor
    group_of: Tensor
    check: Tensor


@functools.cache
def tables() -> Tables:
    """All 256 cases, on the CPU."""
    groups = torch.zeros(256, dtype=torch.int16)
    dmc = torch.full((256, MOST_GROUPS, LONGEST), -1, dtype=torch.int16)
    group_of = torch.full((256, 12), -1, dtype=torch.int16)
    check = torch.zeros(256, 5, dtype=torch.int16)
    for case in range(256):
        found = edge_groups(case)
        groups[case] = len(found)
        for index, edges in enumerate(found):
            dmc[case, index, : len(edges)] = torch.tensor(edges)
            group_of[case, edges] = index
        faces = [face for face in itertools.product(range(3), (0, 1)) if len(_cut_edges(case, face)) == 4]
        if len(faces) == 1 and case.bit_count() >= 5:
            (axis, side), normal = faces[0], [0, 0, 0]
            normal[axis] = 2 * side - 1
            check[case] = torch.tensor([1, *normal, 255 - case])
    return Tables(groups, dmc, group_of, check)


def edge_groups(case: int) -> list[list[int]]:
    """The cut edges of a case by group, in the groups' order.

    Cut edges of a face belong together: both, where a face has two; where it has four, the two that meet at each of its inside corners.
    Groups are ordered by the smallest corner of the inside part and of the outside part that they touch.
    """
    cut = [e for e, (a, b) in enumerate(EDGES) if _inside(case, a) != _inside(case, b)]
    joined = []
    for face in itertools.product(range(3), (0, 1)):
        edges = _cut_edges(case, face)
        if len(edges) == 2:
            joined.append((edges[0], edges[1]))
        elif len(edges) == 4:
            corners = {corner for e in edges for corner in EDGES[e] if _inside(case, corner)}
            joined += [(first, second) for c in corners for first, second in [[e for e in edges if c in EDGES[e]]]]
    edge_part = _components(cut, joined)
    corner_part = _components(range(8), [(a, b) for a, b in EDGES if _inside(case, a) == _inside(case, b)])

    def touched(edges: list[int], inside: bool) -> int:
        return min(corner_part(c) for e in edges for c in EDGES[e] if _inside(case, c) == inside)

    found: dict[int, list[int]] = {}
    for e in cut:
        found.setdefault(edge_part(e), []).append(e)
    return sorted(found.values(), key=lambda edges: (touched(edges, True), touched(edges, False)))


def _inside(case: int, corner: int) -> bool:
    return bool(case >> corner & 1)


def _cut_edges(case: int, face: tuple[int, int]) -> list[int]:
    axis, side = face
    on_face = (e for e, (a, b) in enumerate(EDGES) if CORNERS[a][axis] == CORNERS[b][axis] == side)
    return [e for e in on_face if _inside(case, EDGES[e][0]) != _inside(case, EDGES[e][1])]


def _components(items: Iterable[int], links: Iterable[tuple[int, int]]) -> Callable[[int], int]:
    """Union-find: item -> the smallest item of its component."""
    parent = {item: item for item in items}

    def root(item: int) -> int:
        while parent[item] != item:
            item = parent[item]
        return item

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return root
