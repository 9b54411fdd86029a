"""Triangles to pixels: which face each pixel sees, where on the face, how far away.

Corners are snapped to 1/4096 of a pixel, and every edge is then decided in whole numbers. A pixel centre exactly on an edge belongs to one of
its two faces (as if it lay a trace further left, and down), so a closed mesh has no gap and covers no pixel twice, whatever the rounding.
Of several faces the nearest wins; of equally near ones the first.

Backends: `triton` (CUDA; rasterise_triton.py), `torch` (this file, any device); by name alone `pytorch3d` and `nvdiffrast`
(rasterise_others.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...contract.errors import OptionError
from .backends import choose
from .cameras import Cameras

SUBPIXELS = 4096
REACH = 1 << 17  # pixels: a face with a corner further out than this is dropped, so that products of edges fit in 62 bits
EMPTY = torch.iinfo(torch.int64).max  # the key of a pixel that nothing covers
_FACES = 1 << 18  # (view, face) pairs at once in the twin
_PAIRS = 1 << 21  # (face, pixel) pairs at once in the twin
_PIXELS = 1 << 25  # pixels, or (view, face) pairs, at once: 256 MiB of keys

Cull = Literal["back", "front"] | None


@dataclass(frozen=True)
class Fragments:
    """face: (V, H, W) int32, -1 where nothing is. bary: (V, H, W, 3) float32, weights of the face's corners on the surface (perspective-correct),
    each in [0, 1], 0 where nothing is; None where it wasn't asked for. depth: (V, H, W) float32 along the view axis, inf where nothing is."""

    face: Tensor
    bary: Tensor | None
    depth: Tensor

    @property
    def covered(self) -> Tensor:
        """(V, H, W) bool."""
        return self.face >= 0


def rasterise(
    screen: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    perspective: bool = True,
    cull: Cull = None,
    near: float | None = None,
    bary: bool = True,
) -> Fragments:
    """screen: (V, N, 3) float32 corners as `Cameras.project` makes them: pixel x, pixel y (down), depth. faces: (F, 3) integers.

    perspective: depth and weights are interpolated as a perspective picture needs; False for orthographic pictures and UV atlases.
    cull: drop the faces that show their back (seen clockwise) or their front. near: faces with a corner at this depth or nearer are dropped
    (not clipped); None: 0 in perspective, else no limit. Faces without area, with a corner that isn't finite, or beyond 131,072 pixels are
    dropped too. Raises OptionError for shapes that don't fit.
    """
    screen, faces = _checked(screen, faces, height, width, cull)
    name = choose(screen.device, "triton", by_name=("pytorch3d", "nvdiffrast"))
    if name in ("pytorch3d", "nvdiffrast"):
        from . import rasterise_others

        return rasterise_others.rasterise(name, screen, faces, height, width, perspective, cull, _limit(near, perspective), bary)
    count, device = len(screen), screen.device
    face = torch.empty(count, height, width, dtype=torch.int32, device=device)
    depth = torch.empty(count, height, width, device=device)
    weights = torch.empty(count, height, width, 3, device=device) if bary else None
    for views in _chunks(count, max(height * width, len(faces)), _PIXELS):
        keys = _nearest(name, screen[views], faces, height, width, perspective, cull, _limit(near, perspective))
        out = face[views], depth[views], None if weights is None else weights[views]
        if name == "triton":
            from . import rasterise_triton

            rasterise_triton.resolve(keys, screen[views], faces, perspective, *out)
        else:
            _resolve(keys, screen[views], faces, perspective, *out)
    return Fragments(face, weights, depth)


def visible_faces(
    vertices: Tensor, faces: Tensor, cameras: Cameras, *, near: float | None = None, far: float | None = None, cull: Cull = None
) -> Tensor:
    """(F,) int64: in how many of the views a face owns at least one pixel. vertices: (N, 3) float32 in the world. far: faces with a corner
    beyond this depth are dropped. Holds a few views at a time."""
    cameras = cameras.to(vertices.device)
    screen, faces = _checked(cameras[:1].project(vertices), faces, cameras.height, cameras.width, cull)
    limit = _limit(near, not cameras.orthographic)
    name = choose(screen.device, "triton")
    total = torch.zeros(len(faces), dtype=torch.int64, device=screen.device)
    for views in _chunks(len(cameras), max(cameras.height * cameras.width, len(faces)), _PIXELS):
        screen = cameras[views].project(vertices)
        if far is not None:
            screen = torch.where(screen[..., 2:] < far, screen, torch.nan)
        keys = _nearest(name, screen, faces, cameras.height, cameras.width, not cameras.orthographic, cull, limit)
        seen = torch.zeros(len(keys), len(faces) + 1, dtype=torch.bool, device=keys.device)  # one more, for pixels that see nothing
        seen.scatter_(1, torch.where(keys == EMPTY, len(faces), keys & 0xFFFFFFFF), True)
        total += seen[:, :-1].sum(dim=0)
    return total


def interpolate(values: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """values: (N, C) per corner -> (V, H, W, C), 0 where nothing is. faces may be others than those drawn (a mesh's UV faces), in the same
    order. Differentiable in the values."""
    if fragments.bary is None:
        raise OptionError("These fragments hold no weights.", "Rasterise with bary=True.")
    if len(faces) == 0:
        return values.new_zeros(*fragments.face.shape, values.shape[1])
    face = fragments.face.clamp(min=0).long()
    out = values[faces[:, 0].long()][face] * fragments.bary[..., 0, None]
    for i in (1, 2):
        out = out + values[faces[:, i].long()][face] * fragments.bary[..., i, None]
    return out


def _checked(screen: Tensor, faces: Tensor, height: int, width: int, cull: Cull) -> tuple[Tensor, Tensor]:
    if screen.ndim != 3 or screen.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise OptionError(
            f"The rasteriser got corners {tuple(screen.shape)} and faces {tuple(faces.shape)} of {faces.dtype}.",
            "Give corners (V, N, 3) and whole numbers (F, 3).",
        )
    if not (0 < height <= 32768 and 0 < width <= 32768):
        raise OptionError(f"The rasteriser got a picture of {width} x {height} pixels.", "Give between 1 and 32,768 each way.")
    if cull not in (None, "back", "front"):
        raise OptionError(f"The rasteriser got cull={cull!r}.", "Give None, 'back' or 'front'.")
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= screen.shape[1]):
        raise OptionError("A face names a corner that isn't there.", f"Use numbers from 0 to {screen.shape[1] - 1}.")
    return screen.detach().float(), faces


def _limit(near: float | None, perspective: bool) -> float:
    return near if near is not None else 0.0 if perspective else float("-inf")


def _chunks(count: int, each: int, limit: int) -> list[slice]:
    """0..count in slices of `limit` in sum, at `each` an item."""
    step = max(1, limit // each)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _nearest(name: str, screen: Tensor, faces: Tensor, height: int, width: int, perspective: bool, cull: Cull, near: float) -> Tensor:
    """(V, H W) int64: the winner's depth in the upper half, made sortable as a whole number, and its face in the lower half; or EMPTY."""
    if name == "triton":
        from . import rasterise_triton

        return rasterise_triton.nearest(screen, faces, height, width, perspective, cull, near)
    keys = torch.full((len(screen), height * width), EMPTY, dtype=torch.int64, device=screen.device)
    for views in _chunks(len(screen), max(len(faces), 1), _FACES):
        triangles = _Triangles.of(screen[views], faces, height, width, perspective, cull, near)
        _draw(keys[views].view(-1), triangles, height, width, perspective)
    return keys


class _Triangles(NamedTuple):
    """The faces of some views that may cover pixels, in snapped units. face, view: (M,). x, y: (3, M) int64. area: (M,) int64, twice the signed
    area. value: (3, M) float32, what is affine over the picture (the depth, or its inverse). top, bottom: (M,) rows."""

    face: Tensor
    view: Tensor
    x: Tensor
    y: Tensor
    area: Tensor
    value: Tensor
    top: Tensor
    bottom: Tensor

    @staticmethod
    def of(screen: Tensor, faces: Tensor, height: int, width: int, perspective: bool, cull: Cull, near: float) -> _Triangles:
        views, corners = screen.shape[:2]
        px, py, depth = screen.reshape(-1, 3).unbind(dim=1)
        usable = torch.isfinite(depth) & (depth > near) & (px.abs() < REACH) & (py.abs() < REACH)  # NaN isn't less
        first = torch.arange(views, device=faces.device)[:, None] * corners
        index = (faces.long().T[:, None] + first).reshape(3, -1)
        x, y = (snap(torch.where(usable, c, 0.0))[index] for c in (px, py))
        area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
        top, bottom = _pixels_between(y, height)
        left, right = _pixels_between(x, width)
        facing = area != 0 if cull is None else area < 0 if cull == "back" else area > 0  # y points down: a front runs against the clock
        sound = usable[index[0]] & usable[index[1]] & usable[index[2]]
        keep = (facing & sound & (top <= bottom) & (left <= right)).nonzero()[:, 0]
        value = depth[index[:, keep]]
        view, face = keep // len(faces), keep % len(faces)
        return _Triangles(face, view, x[:, keep], y[:, keep], area[keep], 1 / value if perspective else value, top[keep], bottom[keep])


def _pixels_between(c: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Snapped corners (3, M) along one axis -> the first and the last pixel whose centre may be inside."""
    low, high = torch.minimum(torch.minimum(c[0], c[1]), c[2]), torch.maximum(torch.maximum(c[0], c[1]), c[2])
    half = SUBPIXELS // 2
    return _floor(low + half - 1).clamp(min=0), _floor(high - half).clamp(max=size - 1)


def _floor(c: Tensor) -> Tensor:
    """Snapped -> whole pixels, rounded down."""
    return c >> 12


def snap(points: Tensor) -> Tensor:
    """Pixel positions -> int64, in 1/4096 pixel."""
    return torch.floor(points * SUBPIXELS + 0.5).long()


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """counts (N,) -> for each of sum(counts) items: which of the N it belongs to, and its number there."""
    which = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    starts = torch.cumsum(counts, 0) - counts
    return which, torch.arange(len(which), device=counts.device) - starts[which]


def _draw(keys: Tensor, faces: _Triangles, height: int, width: int, perspective: bool) -> None:
    """Lower the keys (V H W,) of the pixels that the faces cover: faces become rows, rows become spans of pixels."""
    which, step = _expand(faces.bottom - faces.top + 1)
    row = faces.top[which] + step
    half = SUBPIXELS // 2
    y = row * SUBPIXELS + half
    sign = torch.sign(faces.area)
    left, right = torch.zeros_like(row), torch.full_like(row, width - 1)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        dx, dy = (faces.x[j] - faces.x[i]) * sign, (faces.y[j] - faces.y[i]) * sign
        loses = ((dy < 0) | ((dy == 0) & (dx < 0))).long()  # the other face at this edge owns what lies exactly on it
        # Inside where start - slope * column >= 0, for whole columns.
        start = (-dx * faces.y[i] - dy * (half - faces.x[i]) - loses)[which] + dx[which] * y
        slope = (dy * SUBPIXELS)[which]
        end = start // torch.where(slope == 0, 1, slope.abs())
        right = torch.where(slope > 0, torch.minimum(right, end), torch.where((slope == 0) & (start < 0), -1, right))
        left = torch.where(slope < 0, torch.maximum(left, -end), left)
    filled = (right >= left).nonzero()[:, 0]
    which, y, row, left, right = (t[filled] for t in (which, y, row, left, right))

    # The value as a line along the row.
    px = left * SUBPIXELS + half
    first, slope = torch.zeros_like(px, dtype=torch.float64), torch.zeros_like(px, dtype=torch.float64)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):  # the edge from j to k lies opposite corner i
        dx, dy = faces.x[k] - faces.x[j], faces.y[k] - faces.y[j]
        share = faces.value[i].double() / faces.area
        first += (dx[which] * (y - faces.y[j][which]) - dy[which] * (px - faces.x[j][which])) * share[which]
        slope -= (dy * SUBPIXELS * share)[which]
    first, slope = first.float(), slope.float()
    low, high = faces.value.amin(dim=0)[which], faces.value.amax(dim=0)[which]  # rounding must not carry a steep face beyond its corners
    number, at, length = faces.face[which], (faces.view[which] * height + row) * width + left, right - left + 1
    ends = torch.cumsum(length, 0)
    for rows in _portions(ends, _PAIRS):
        part, step = _expand(length[rows])
        line = torch.addcmul(first[rows][part], slope[rows][part], step.float())
        line = torch.maximum(torch.minimum(line, high[rows][part]), low[rows][part])
        depth = 1 / line if perspective else line
        keys.scatter_reduce_(0, at[rows][part] + step, sortable(depth) << 32 | number[rows][part], "amin")


def _portions(ends: Tensor, size: int) -> list[slice]:
    """Consecutive items with running total `ends` -> slices of about `size` in sum."""
    if len(ends) == 0:
        return []
    steps = torch.arange(1, int(ends[-1]) // size + 1, device=ends.device) * size
    cuts = torch.searchsorted(ends, steps).tolist()
    bounds = sorted({0, *cuts, len(ends)})
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def sortable(depth: Tensor) -> Tensor:
    """float32 -> int64 in the same order: the bits of a positive float are ordered like the whole numbers that they spell."""
    bits = depth.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _resolve(keys: Tensor, screen: Tensor, faces: Tensor, perspective: bool, face: Tensor, depth: Tensor, bary: Tensor | None) -> None:
    """Fill the pictures of these views from their keys."""
    width = face.shape[2]
    for view, corners, face_out, depth_out, bary_out in zip(keys, screen, face, depth, bary if bary is not None else [None] * len(keys)):
        hit = view != EMPTY
        bits = (view >> 32).int()
        depth_out[:] = torch.where(hit, (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), torch.inf).view_as(depth_out)
        face_out[:] = torch.where(hit, view & 0xFFFFFFFF, -1).int().view_as(face_out)
        if bary_out is None:
            continue
        bary_out.zero_()
        at = hit.nonzero()[:, 0]
        three = faces.long()[view[at] & 0xFFFFFFFF]
        snapped = snap(corners[:, :2].clamp(-REACH, REACH).nan_to_num())
        x, y = snapped[:, 0][three], snapped[:, 1][three]
        px, py = (c * SUBPIXELS + SUBPIXELS // 2 for c in (at % width, at // width))
        weights = []
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3  # the edge opposite corner i
            weights.append((x[:, k] - x[:, j]) * (py - y[:, j]) - (y[:, k] - y[:, j]) * (px - x[:, j]))
        weight = torch.stack(weights, dim=1).float()
        if perspective:
            weight /= corners[:, 2][three]
        bary_out.view(-1, 3)[at] = weight / weight.sum(dim=1, keepdim=True)
