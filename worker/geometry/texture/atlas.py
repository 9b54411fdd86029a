"""The atlas: which point of the surface each texel of the texture stands for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

REACH = 2.0  # texels: how far outside its face a texel still belongs to it
CHUNK = 1 << 19  # pairs of a texel and a face that are looked at together


@dataclass(frozen=True)
class Texels:
    """The texels that belong to a face, in rising order.

    index: int64 (N,), row * width + column; face: int64 (N,); bary: float32 (N, 3), in [0, 1], sum 1; inside: bool (N,), whether the
    texel's centre lies in the face. The others lie at most REACH texels outside of it and take the face's nearest point: bilinear lookups
    along a chart's border reach them.
    """

    index: torch.Tensor
    face: torch.Tensor
    bary: torch.Tensor
    inside: torch.Tensor

    def at(self, values: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """Vertex values (V, C) of the faces (F, 3) -> (N, C), interpolated."""
        corners = faces[self.face]
        mixed = values[corners[:, 0]] * self.bary[:, :1]
        mixed += values[corners[:, 1]] * self.bary[:, 1:2]
        mixed += values[corners[:, 2]] * self.bary[:, 2:]
        return mixed


def texels(corners: torch.Tensor, height: int, width: int, reach: float = REACH, usable: torch.Tensor | None = None) -> Texels:
    """Corners float32 (F, 3, 2), UVs with (0, 0) the texture's top left corner -> its texels.

    A texel belongs to the face that its centre lies in (of several, the first), else to the nearest within `reach`. So no face is missed,
    however thin: a rasteriser that looks at centres alone leaves slivers without a texel. usable: bool (F,), faces that take part.
    """
    corners = corners * corners.new_tensor([width, height]) - 0.5  # texel centres on whole numbers
    count = height * width
    usable = torch.ones(len(corners), dtype=torch.bool, device=corners.device) if usable is None else usable
    owner = torch.full((count,), _NONE, dtype=torch.int64, device=corners.device)
    for face, texel in _pairs(corners, height, width, 0.0, usable):
        within = weights(corners, face, texel, width).amin(1) >= 0
        owner.scatter_reduce_(0, texel[within], face[within], "amin")
    inside = owner != _NONE
    for face, texel in _pairs(corners, height, width, reach, usable) if reach > 0 else ():
        free = ~inside[texel]
        face, texel = face[free], texel[free]
        distance = nearest_points(corners, face, texel, width)[0]
        near = distance <= reach * reach
        # The bits of a float that isn't negative sort like the float: nearest first, then the first face.
        rank = (distance[near].view(torch.int32).long() << 32) | face[near]
        owner.scatter_reduce_(0, texel[near], rank, "amin")
    index = (owner != _NONE).nonzero()[:, 0]
    face = owner[index] & 0xFFFFFFFF
    return Texels(index, face, nearest_points(corners, face, index, width)[1], inside[index])


def covered(corners: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """bool (H, W): the texels whose centre lies in a face. Corners as for `texels`."""
    out = torch.zeros(height * width, dtype=torch.bool, device=corners.device)
    found = texels(corners, height, width, reach=0.0)
    out[found.index] = True
    return out.view(height, width)


def shared(corners: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """bool (F,): the faces that have a texel's centre well inside that another face has inside too. Arguments as for `texels`."""
    over, under = layers(corners, torch.arange(len(corners), device=corners.device), height, width)
    return over | under


def layers(corners: torch.Tensor, rank: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """bool (F,) twice: the faces that have a texel's centre well inside that a face of lower rank has inside too, or one of higher rank.

    rank: int64 (F,), all different. The other arguments as for `texels`.
    """
    corners = corners * corners.new_tensor([width, height]) - 0.5
    lowest = torch.full((height * width,), _NONE, dtype=torch.int64, device=corners.device)
    highest, found = torch.full_like(lowest, -1), []
    for face, texel in _pairs(corners, height, width, 0.0):
        well = weights(corners, face, texel, width).amin(1) > 1e-3
        face, texel = face[well], texel[well]
        lowest.scatter_reduce_(0, texel, rank[face], "amin")
        highest.scatter_reduce_(0, texel, rank[face], "amax")
        found.append((face, texel))
    over = torch.zeros(len(corners), dtype=torch.bool, device=corners.device)
    under = torch.zeros_like(over)
    for face, texel in found:
        over[face[rank[face] > lowest[texel]]] = True
        under[face[rank[face] < highest[texel]]] = True
    return over, under


_NONE = torch.iinfo(torch.int64).max


def _pairs(
    corners: torch.Tensor, height: int, width: int, reach: float, usable: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All texels in the boxes around the faces, `reach` texels wider: chunks of (face, texel), int64 (M,) each. corners: (F, 3, 2) in texels."""
    low = (corners.amin(1) - reach).ceil().long().clamp_min(0)
    high = torch.minimum((corners.amax(1) + reach).floor().long(), low.new_tensor([width - 1, height - 1]))
    columns, rows = (high - low + 1).clamp_min(0).unbind(1)
    counts = columns * rows if usable is None else columns * rows * usable
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    first, begin = low[:, 1] * width + low[:, 0], ends - counts
    for start in range(0, total, CHUNK):
        number = torch.arange(start, min(start + CHUNK, total), device=corners.device)
        face = torch.searchsorted(ends, number, right=True)
        number -= begin[face]
        row = number // columns[face]
        yield face, first[face] + row * width + number - row * columns[face]


def weights(corners: torch.Tensor, face: torch.Tensor, texel: torch.Tensor, width: int) -> torch.Tensor:
    """Barycentric coordinates (M, 3) of texels' centres in faces; all -1 for a face without area. corners: (F, 3, 2) in texels."""
    y = texel // width
    x = texel - y * width
    ax, ay, bx, by, cx, cy = (corners.flatten(1)[:, i][face] for i in range(6))
    bx, by, cx, cy = bx - ax, by - ay, cx - ax, cy - ay
    px, py = x - ax, y - ay
    area = bx * cy - by * cx
    flat = area.abs() <= 1e-12
    area = torch.where(flat, 1.0, area)
    second, third = (px * cy - py * cx) / area, (bx * py - by * px) / area
    return torch.where(flat[:, None], -1.0, torch.stack([1 - second - third, second, third], dim=1))


def nearest_points(corners: torch.Tensor, face: torch.Tensor, texel: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The point of a face nearest to a texel's centre: (squared distance in texels (M,), barycentric coordinates (M, 3)).

    corners: (F, 3, 2) in texels; face, texel: int64 (M,). Faces without area are treated as the segments that they are.
    """
    centre = torch.stack([texel % width, texel // width], dim=1).to(corners.dtype)
    a, b, c = corners[face].unbind(1)
    pa, pb = centre - a, centre - b
    ab, ac, bc = b - a, c - a, c - b
    bary = weights(corners, face, texel, width)
    inside = bary.amin(1) >= 0
    best = torch.full_like(bary[:, 0], torch.inf)
    for edge, start, first, second in ((ab, pa, 0, 1), (bc, pb, 1, 2), (ac, pa, 0, 2)):
        t = ((start * edge).sum(1) / (edge * edge).sum(1).clamp_min(1e-20)).clamp(0, 1)
        offset = start - edge * t[:, None]
        distance = (offset * offset).sum(1)
        closer = ~inside & (distance < best)
        best = torch.where(closer, distance, best)
        point = torch.zeros_like(bary)
        point[:, first], point[:, second] = 1 - t, t
        bary = torch.where(closer[:, None], point, bary)
    return torch.where(inside, torch.zeros_like(best), best), bary
