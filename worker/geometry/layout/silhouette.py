"""A silhouette that has a gradient: how much of each pixel a mesh covers, soft at the outline (spec: postprocess.md section 8 step 0).

After Liu et al., "Soft Rasterizer" (2019), with PyTorch3D's rules for who counts. Lengths on the picture are in units in which it is 2 wide: x to the left,
y up, 0 in the middle. A face counts at a pixel if it contains the pixel's centre, or if the squared distance from it is below `radius`. With d the squared
distance to the face's nearest edge, negative inside,

    alpha = 1 - prod over faces of (1 - sigmoid(-d / sigma))

Front and back count both. The original's sigma is 1e-4 and its radius 1e-6, which cuts the ramp off in its middle: alpha jumps where a pixel enters the narrow
band, and the outer half of the gradient is missing. A ramp that ends where it has faded out, at 10 sigma, is free of that. But it also grows: every
face near the outline adds to alpha outside, so that with sigma 1e-4 and 5000 faces at 518 pixels the silhouette is 4 pixels too wide all round. `Lens.ramp` is as wide as
a pixel needs (1e-4 at 48 pixels, 1e-6 at 518), which leaves nothing of that.

Sums run in whole numbers (`_total`), so that a GPU, whose threads add in no order, gives the same bits every time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

RADIUS, SIGMA = 1e-6, 1e-4  # the original's
FADED = 10  # sigmas at which a ramp ends
_FAINT = 1e-8  # a pixel whose gradient is so much weaker than the strongest one's is left out: most of them, far inside and far outside
_CELLS = {"cpu": 1 << 17}  # (face, pixel) cells at once: what stays in a processor's cache
_MANY = 1 << 23
_NO_AREA = 1e-8  # twice the area of a face that isn't drawn


@dataclass(frozen=True)
class Lens:
    """A pinhole camera at the origin of PyTorch3D's camera axes (x left, y up, z forward). focal, centre: in pixels, x then y.

    unit: the pixels that are 2 long in the silhouette's measure: the sides of a square picture; of another one its shorter side, as PyTorch3D has it, or its
    longer one, which is a square picture padded from it.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    height: int
    width: int
    unit: int

    @staticmethod
    def of(intrinsics: Any, height: int, width: int, unit: int | None = None) -> Lens:
        """intrinsics: (3, 3) for a picture of size 1 x 1. Its skew is left out."""
        k = [[float(v) for v in row] for row in intrinsics]
        return Lens((k[0][0] * width, k[1][1] * height), (k[0][2] * width, k[1][2] * height), height, width, unit or min(height, width))

    @property
    def ramp(self) -> float:
        """The sigma whose root is a quarter of a pixel."""
        return (0.5 / self.unit) ** 2

    def flat(self, points: Tensor) -> Tensor:
        """Camera axes (N, 3) -> places on the picture (N, 2)."""
        focal, middle = points.new_tensor(self.focal), points.new_tensor(self.centre)
        size = points.new_tensor([self.width, self.height])
        return (size - 2 * middle) / self.unit + 2 / self.unit * focal * points[:, :2] / points[:, 2:]

    def pixels(self, points: Tensor) -> Tensor:
        """Camera axes (N, 3) -> pixel x, pixel y (down), depth (N, 3), as worker/ops/rasterise.py takes them."""
        x = [self.centre[i] - self.focal[i] * points[:, i] / points[:, 2] for i in (0, 1)]
        return torch.stack([*x, points[:, 2]], dim=1)


def soft_silhouette(
    points: Tensor, faces: Tensor, lens: Lens, radius: float = RADIUS, sigma: float = SIGMA, layers: int | None = 50
) -> Tensor:
    """points: (N, 3) floats in camera axes; faces: int64 (F, 3) -> alpha (H, W) in [0, 1], differentiable in the points.

    layers: of the faces that count at a pixel, only so many, the nearest in depth; None: all of them, which leaves alpha smooth. Faces with a corner that isn't
    finite or not before the camera aren't drawn, nor those without area.
    """
    before = (torch.isfinite(points) & (points[:, 2:] > 0)).all(1)
    points = torch.where(before[:, None], points, points.new_tensor([0.0, 0.0, 1.0]))  # so that no gradient is NaN
    flat = lens.flat(points)
    corners = flat.detach()[faces]
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    drawn = (before[faces].all(1) & (area.abs() > _NO_AREA)).nonzero()[:, 0]
    faces = torch.where(area[drawn, None] > 0, faces[drawn], faces[drawn].flip(1))  # all anticlockwise
    depth = points.detach()[:, 2][faces]
    alpha: Tensor = _Silhouette.apply(flat[faces], depth, lens, radius, sigma, layers)
    return alpha


class _Pairs(NamedTuple):
    """Faces and the pixels at which they count. face, pixel: int64 (P,); signed: (P,), squared distances, negative inside."""

    face: Tensor
    pixel: Tensor
    signed: Tensor

    def only(self, which: Tensor) -> _Pairs:
        """which: bool (P,)."""
        at = which.nonzero()[:, 0]
        return _Pairs(self.face[at], self.pixel[at], self.signed[at])


class _Silhouette(torch.autograd.Function):
    """corners: (F, 3, 2), anticlockwise; depth: (F, 3)."""

    @staticmethod
    def forward(ctx: Any, corners: Tensor, depth: Tensor, lens: Lens, radius: float, sigma: float, layers: int | None) -> Tensor:
        pairs = _pairs(corners, lens, radius)
        pixels = lens.height * lens.width
        if layers is not None and len(pairs.face):
            pairs = _front(pairs, corners, depth, lens, layers)
        # log(1 - sigmoid(x)) = -softplus(x); beyond 80 nothing is left
        shade = torch.nn.functional.softplus(-pairs.signed / sigma).clamp_max(80)
        through = torch.exp(-_total(pairs.pixel, shade, pixels))
        ctx.save_for_backward(corners, through, *pairs)
        ctx.lens, ctx.sigma = lens, sigma
        return (1 - through).view(lens.height, lens.width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        corners, through, *all_pairs = ctx.saved_tensors
        lens, sigma = ctx.lens, ctx.sigma
        # d alpha / d signed = -through * sigmoid(-signed / sigma) / sigma: the face's own factor cancels
        slope = -gradients[0].reshape(-1) * through / sigma
        strength = slope.abs()
        pairs = _Pairs(*all_pairs).only((strength > _FAINT * strength.max())[all_pairs[1]])
        weight = slope[pairs.pixel] * torch.sigmoid(-pairs.signed / sigma) * torch.where(pairs.signed < 0, -1.0, 1.0)
        edge, share, dx, dy = _nearest_edge(corners[pairs.face], *_centres(pairs.pixel, lens, corners))
        # The nearest point is a weighted mean of the edge's ends; that its place on the edge moves, too, changes nothing in the first order.
        weight *= -2
        index = torch.cat([3 * pairs.face + edge, 3 * pairs.face + (edge + 1) % 3])
        ends = torch.cat([(1 - share) * weight, share * weight])
        out = [_total(index, ends * offset.repeat(2), 3 * len(corners)) for offset in (dx, dy)]
        return torch.stack(out, dim=1).view(-1, 3, 2), None, None, None, None, None


def _total(index: Tensor, amount: Tensor, size: int) -> Tensor:
    """out[i] = the sum of the amounts with that index. In whole numbers, which come to the same sum in any order."""
    if len(index) == 0:
        return amount.new_zeros(size)
    largest = float(amount.abs().max())
    scale = 2.0 ** (38 - (math.frexp(largest)[1] if math.isfinite(largest) else 0))  # 2 ** 25 amounts fit in 63 bits
    whole = torch.zeros(size, dtype=torch.int64, device=amount.device).index_add_(0, index, (amount.double() * scale).round_().long())
    return (whole.double() / scale).to(amount.dtype)


def _pairs(corners: Tensor, lens: Lens, radius: float) -> _Pairs:
    """Faces of a size are laid out as boxes of rows and columns, so that most sums run over a box's sides alone."""
    reach = math.sqrt(radius) * 1.0001 + 1e-6
    low, high = corners.amin(1) - reach, corners.amax(1) + reach
    sides = []
    for axis, n in ((1, lens.height), (0, lens.width)):
        first = torch.ceil((n - 1 - lens.unit * high[:, axis]) / 2).clamp(0, n).long()
        last = torch.floor((n - 1 - lens.unit * low[:, axis]) / 2).clamp(-1, n - 1).long()
        sides.append((first, last - first + 1))
    (top, rows), (left, columns) = sides
    seen = (rows > 0) & (columns > 0)
    key = torch.where(seen, _rounded(rows) << 32 | _rounded(columns), -1)
    found = []
    for size in torch.unique(key).tolist():
        if size < 0:
            continue
        group = (key == size).nonzero()[:, 0]
        height, width = size >> 32, size & 0xFFFFFFFF
        for part in group.split(max(1, _CELLS.get(corners.device.type, _MANY) // (height * width))):
            found.append(_boxes(corners, part, top[part], left[part], rows[part], columns[part], (height, width), lens, radius))
    if not found:
        none = torch.zeros(0, dtype=torch.int64, device=corners.device)
        return _Pairs(none, none, corners.new_zeros(0))
    return _Pairs(*(torch.cat(parts) for parts in zip(*found)))


def _rounded(side: Tensor) -> Tensor:
    """A box's side, rounded up to 1, 2, 3, 4, 6, 8, 12, ...: few sizes, little waste."""
    step = 2 ** (torch.log2(side.clamp_min(1).float()).floor().long() - 1).clamp_min(0)
    return (side + step - 1) // step * step


def _boxes(
    corners: Tensor, face: Tensor, top: Tensor, left: Tensor, rows: Tensor, columns: Tensor, box: tuple[int, int], lens: Lens, radius: float
) -> _Pairs:
    """The pairs among the cells of equally large boxes. face, top, left, rows, columns: (n,)."""
    down, across = (torch.arange(n, device=face.device) for n in box)
    row, column = top[:, None, None] + down[:, None], left[:, None, None] + across  # (n, h, 1), (n, 1, w)
    y = (lens.height - (2 * row + 1)).to(corners.dtype) / lens.unit
    x = (lens.width - (2 * column + 1)).to(corners.dtype) / lens.unit
    three = corners[face][..., None, None]  # (n, 3, 2, 1, 1)
    distances, sides = [], []
    for i in range(3):
        a = three[:, i]
        e = three[:, (i + 1) % 3] - a
        ax, ay, ex, ey = x - a[:, 0], y - a[:, 1], e[:, 0], e[:, 1]
        scale = 1 / (ex * ex + ey * ey).clamp_min(1e-30)
        share = (ex * ax * scale + ey * ay * scale).clamp_(0, 1)
        dx, dy = torch.addcmul(ax, share, ex, value=-1), torch.addcmul(ay, share, ey, value=-1)
        distances.append(dx.mul_(dx).addcmul_(dy, dy))
        sides.append(ex * ay - ey * ax)
    nearest, within = (torch.minimum(torch.minimum(a, b), c) for a, b, c in (distances, sides))
    inside = within > 0
    counts = (inside | (nearest < radius)) & (down[:, None] < rows[:, None, None]) & (across < columns[:, None, None])
    which, i, j = counts.nonzero().unbind(1)
    signed = torch.where(inside, -nearest, nearest)[counts]
    return _Pairs(face[which], (top[which] + i) * lens.width + left[which] + j, signed)


def _centres(pixel: Tensor, lens: Lens, like: Tensor) -> tuple[Tensor, Tensor]:
    """Flat pixel numbers (P,) -> x and y on the picture."""
    row = torch.div(pixel, lens.width, rounding_mode="floor")
    x, y = lens.width - 1 - 2 * (pixel - row * lens.width), lens.height - 1 - 2 * row
    return x.to(like.dtype) / lens.unit, y.to(like.dtype) / lens.unit


def _nearest_edge(three: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Corners (P, 3, 2) and places (P,) -> the nearest edge int64 (P,), how far along it the nearest point lies, the place as seen from there; all (P,)."""
    cx, cy = three[..., 0].T.contiguous(), three[..., 1].T.contiguous()
    best: tuple[Tensor, ...] = ()
    for i in range(3):
        j = (i + 1) % 3
        ex, ey, ax, ay = cx[j] - cx[i], cy[j] - cy[i], x - cx[i], y - cy[i]
        share = ((ex * ax + ey * ay) / (ex * ex + ey * ey).clamp_min(1e-30)).clamp_(0, 1)
        dx, dy = torch.addcmul(ax, share, ex, value=-1), torch.addcmul(ay, share, ey, value=-1)
        now = (dx * dx + dy * dy, torch.full_like(x, i, dtype=torch.int64), share, dx, dy)
        best = tuple(torch.where(now[0] < best[0], new, old) for new, old in zip(now, best)) if best else now
    return best[1], best[2], best[3], best[4]


def _front(pairs: _Pairs, corners: Tensor, depth: Tensor, lens: Lens, layers: int) -> _Pairs:
    """Without the faces that `layers` others lie before, at the same pixel."""
    crowd = (torch.bincount(pairs.pixel, minlength=lens.height * lens.width) > layers)[pairs.pixel]
    if not crowd.any():
        return pairs
    some = pairs.only(crowd)
    three, z = corners[some.face], depth[some.face]
    x, y = _centres(some.pixel, lens, corners)
    weights = []
    for i, j in ((1, 2), (2, 0), (0, 1)):  # the edge opposite each corner
        e = three[:, j] - three[:, i]
        weights.append(e[:, 0] * (y - three[:, i, 1]) - e[:, 1] * (x - three[:, i, 0]))
    weight = (torch.stack(weights, dim=1) / z).clamp_min(0)  # as perspective has it; beside the face, of a point on its border
    far = (weight * z).sum(1) / weight.sum(1)
    order = torch.argsort(far, stable=True)
    order = order[torch.argsort(some.pixel[order], stable=True)]
    pixel = some.pixel[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(pixel, pixel)
    keep = torch.ones_like(crowd)
    keep[crowd.nonzero()[order[rank >= layers], 0]] = False
    return pairs.only(keep)
