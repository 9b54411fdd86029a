"""Gaussian splats to pictures: elliptical weighted averaging (EWA), composited front to back.

A Gaussian's covariance R S S^T R^T is carried to pixels by the camera's rotation and the projection's derivative at its centre; what that makes
of the picture is exp(-d^T inv(cov2D) d / 2) times its opacity, at most 0.99. Gaussians are ordered by the depth of their centres. A
contribution under 1/255 isn't drawn, nor one that would leave less than 1e-4 of the light, nor anything behind it.
Source: Zwicker et al., EWA splatting; Kerbl et al., 3D Gaussian splatting; the constants: spec/postprocess.md section 4.3.

Backends: `triton` (CUDA; splatting_triton.py), `torch` (this file; any device, differentiable in all but the order), by name alone `gsplat`
(splatting_others.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...contract.errors import OptionError
from .backends import choose
from .cameras import Cameras

FAINT = 1 / 255
OPAQUE = 0.99
DONE = 1e-4
EDGE = 0.3  # shares of half the picture: how far outside it the projection's derivative is still taken at the centre itself
_TILE = 8  # pixels
_LAYERS = 32  # splats of one tile that are blended at once
_TILES = 256  # tiles at once


@dataclass(frozen=True)
class Rendered:
    """image: (V, H, W, 3) float32, the background included. alpha: (V, H, W), 1 - the light that passes. depth: (V, H, W), the mean of the
    centres' depths, weighted with their shares of the pixel; inf where nothing is drawn; or None."""

    image: Tensor
    alpha: Tensor
    depth: Tensor | None


def splat(
    positions: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    colors: Tensor,
    cameras: Cameras,
    *,
    low_pass: float = 0.3,
    compensate: bool = False,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    depth: bool = False,
    near: float = 0.01,
) -> Rendered:
    """positions (N, 3), scales (N, 3) one sigma, rotations (N, 4) w x y z of any length, opacities (N,) 0..1, colors (N, 3), not below 0: all
    float32 and activated, in the cameras' world, on one device.

    low_pass: px^2, added to each image's variance both ways, so that no splat falls between the pixels. compensate: lower the opacity by as
    much as that widened the splat (Mip-Splatting). near: Gaussians whose centre is at this depth or nearer are left out (perspective).
    Rows with anything that isn't finite are left out. Raises OptionError for shapes that don't fit.
    """
    splats = _checked(positions, scales, rotations, opacities, colors)
    cameras = cameras.to(positions.device)
    name = choose(positions.device, "triton", by_name=("gsplat",))
    if name == "gsplat":
        from . import splatting_others

        image, alpha, far = splatting_others.splat(splats, cameras, low_pass, compensate, near, depth)
    elif name == "triton":
        from . import splatting_triton

        image, alpha, far = splatting_triton.splat(splats, cameras, low_pass, compensate, near, depth)
    else:
        views = [_view(splats, cameras[i], low_pass, compensate, near) for i in range(len(cameras))]
        shape = (len(cameras), cameras.height, cameras.width)
        every = torch.stack(views) if views else positions.new_zeros(0, cameras.height * cameras.width, 5)
        image, alpha, far = every[..., :3].reshape(*shape, 3), every[..., 3].reshape(shape), every[..., 4].reshape(shape)
    if any(background):
        image = image + (1 - alpha)[..., None] * image.new_tensor(background)
    mean = torch.where(alpha > 0, far / alpha.clamp(min=1e-12), torch.inf) if depth else None
    return Rendered(image, alpha, mean)


class Gaussians(NamedTuple):
    """`splat`'s first five arguments, checked."""

    positions: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    colors: Tensor


def _checked(*given: Tensor) -> Gaussians:
    count = len(given[0])
    for tensor, shape, name in zip(given, ((count, 3), (count, 3), (count, 4), (count,), (count, 3)), Gaussians._fields):
        if tensor.shape != shape or tensor.device != given[0].device:
            raise OptionError(
                f"The splatter got {name} {tuple(tensor.shape)} on {tensor.device}, expected {shape} on {given[0].device}.",
                "Give one row for each Gaussian, all on one device.",
            )
    return Gaussians(*(tensor.float() for tensor in given))


class Ellipses(NamedTuple):
    """Gaussians in one picture. xy: (N, 2) centres, px. conic: (N, 3) inverse covariance, a dx^2 + 2 b dx dy + c dy^2. opacity: (N,), 0 for
    those that aren't drawn. reach: (N, 2), how far from the centre they can reach 1/255, px. depth: (N,)."""

    xy: Tensor
    conic: Tensor
    opacity: Tensor
    reach: Tensor
    depth: Tensor


def project(splats: Gaussians, camera: Cameras, low_pass: float, compensate: bool, near: float) -> Ellipses:
    """The Gaussians as one view sees them; `camera` holds one view."""
    view, focal, centre = camera.view[0], camera.focal[0], camera.centre[0]
    size = focal.new_tensor([camera.width, camera.height])
    seen = splats.positions @ view[:3, :3].T + view[:3, 3]
    depth = seen[:, 2]
    # (N, 3, 3): columns are one sigma long, in camera axes
    axes = view[:3, :3] @ (rotation_matrices(splats.rotations) * splats.scales[:, None])
    if camera.orthographic:
        drawn = torch.isfinite(depth)
        flat, across = seen[:, :2], axes[:, :2]
    else:
        drawn = depth > near
        distance = torch.where(drawn, depth, 1.0)[:, None]
        flat = seen[:, :2] / distance
        # Far outside the picture the derivative explodes: its direction is held near the picture's edge.
        held = torch.minimum(torch.maximum(flat, -(centre + EDGE / 2 * size) / focal), (size - centre + EDGE / 2 * size) / focal)
        across = (axes[:, :2] - held[:, :, None] * axes[:, 2:]) / distance[:, :, None]
    xy = flat * focal + centre
    across = across * focal[:, None]
    xx, yy = (across * across).sum(dim=2).unbind(dim=1)
    off = (across[:, 0] * across[:, 1]).sum(dim=1)
    wide_x, wide_y = xx + low_pass, yy + low_pass
    det = wide_x * wide_y - off * off
    opacity = splats.opacities
    if compensate:
        opacity = opacity * torch.sqrt(((xx * yy - off * off) / det).clamp(min=0))
    cut = 2 * torch.log(opacity.detach().clamp(min=FAINT) / FAINT)  # squared Mahalanobis distance at which it turns faint
    reach = torch.sqrt(cut[:, None] * torch.stack([wide_x, wide_y], dim=1).detach())
    drawn = drawn & (opacity > FAINT) & (det > 0) & torch.isfinite(xy.sum(dim=1) + det + reach.sum(dim=1) + splats.colors.sum(dim=1))
    drawn = drawn & (xy + reach > 0).all(dim=1) & (xy - reach < size).all(dim=1)
    conic = torch.stack([wide_y, -off, wide_x], dim=1) / torch.where(det > 0, det, 1.0)[:, None]
    return Ellipses(xy, conic, torch.where(drawn, opacity, 0.0), reach, depth)


def rotation_matrices(rotations: Tensor) -> Tensor:
    """Quaternions (N, 4), w first, of any length but 0 -> (N, 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(rotations, dim=1).unbind(dim=1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def _view(splats: Gaussians, camera: Cameras, low_pass: float, compensate: bool, near: float) -> Tensor:
    """(H W, 5): premultiplied colour, alpha, depth times alpha."""
    ellipses = project(splats, camera, low_pass, compensate, near)
    columns, rows = -(-camera.width // _TILE), -(-camera.height // _TILE)
    tiles, who = _bin(ellipses, _drawn_in_order(ellipses), columns, rows)
    counts = torch.bincount(tiles, minlength=columns * rows)
    starts = torch.cumsum(counts, 0) - counts
    drawn = ellipses.opacity > 0
    log = torch.log(torch.where(drawn, ellipses.opacity, 1.0))[:, None]
    table = torch.cat([ellipses.xy, ellipses.conic, log, splats.colors, torch.ones_like(log), ellipses.depth[:, None]], dim=1)
    longest = torch.argsort(counts, descending=True)[: int((counts > 0).sum())]  # so that tiles with lists of like length go together
    blended = [
        _blend(table, who, starts[some], counts[some], some % columns, some // columns) for some in longest.split(_TILES) if len(some)
    ]
    state = table.new_zeros(columns * rows, _TILE * _TILE, 5)
    if len(longest):
        state = state.index_copy(0, longest, torch.cat(blended))
    state = state.view(rows, columns, _TILE, _TILE, 5).transpose(1, 2).reshape(rows * _TILE, columns * _TILE, 5)
    return state[: camera.height, : camera.width].reshape(-1, 5)


def _blend(table: Tensor, who: Tensor, starts: Tensor, counts: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Some tiles, whose Gaussians who[starts : starts + counts] are nearest first -> (T, pixels, 5). table: (N, 11), as `_view` makes it."""
    inner = torch.arange(_TILE, device=who.device) + 0.5
    px, py = columns[:, None, None] * _TILE + inner, rows[:, None, None] * _TILE + inner
    layer = torch.arange(_LAYERS, device=who.device)
    state = table.new_zeros(len(starts), _TILE * _TILE, 5)
    light = table.new_ones(len(starts), 1, _TILE * _TILE)
    for first in range(0, int(counts.max()), _LAYERS):
        left = ((counts > first) & (light.detach().amax(dim=(1, 2)) >= DONE)).nonzero()[:, 0]
        if len(left) == 0:
            break
        there = first + layer < counts[left, None]
        row = table[who[(starts[left, None] + first + layer).clamp(max=len(who) - 1)]]
        x, y, a, b, c, log = row[..., :6, None].unbind(dim=2)
        dx, dy = px[left] - x, py[left] - y
        across, down = -0.5 * a * dx * dx + torch.where(there[..., None], log, -torch.inf), -0.5 * c * dy * dy
        power = torch.addcmul(across[:, :, None] + down[..., None], (-b * dy)[..., None], dx[:, :, None]).flatten(2)
        alpha = torch.exp(power).clamp(max=OPAQUE)
        alpha = torch.where(alpha >= FAINT, alpha, 0.0)
        clear = 1 - alpha
        passing = torch.cumprod(clear, dim=1) * light[left]
        weight = torch.where(passing >= DONE, alpha * passing / clear, 0.0)
        state = state.index_add(0, left, weight.transpose(1, 2) @ row[..., 6:])
        light = light.index_copy(0, left, passing[:, -1:])
    return state


def _drawn_in_order(ellipses: Ellipses) -> Tensor:
    """The numbers of those that are drawn, nearest first; of equally near ones the first."""
    drawn = (ellipses.opacity > 0).nonzero()[:, 0]
    return drawn[torch.argsort(ellipses.depth[drawn].detach(), stable=True)]


def _bin(ellipses: Ellipses, order: Tensor, columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """(P,) tile numbers, ascending, and (P,) who covers them, each tile's in the order given."""
    xy, reach = ellipses.xy[order].detach(), ellipses.reach[order]
    limit = torch.tensor([columns, rows], device=xy.device)
    low = torch.floor((xy - reach - 0.5) / _TILE).long().clamp(min=0)
    high = torch.minimum(torch.floor((xy + reach + 0.5) / _TILE).long() + 1, limit)
    wide, tall = (high - low).clamp(min=0).unbind(dim=1)
    counts = wide * tall
    which = torch.repeat_interleave(torch.arange(len(order), device=order.device), counts)
    step = torch.arange(len(which), device=order.device) - (torch.cumsum(counts, 0) - counts)[which]
    tile = (low[which, 1] + step // wide[which]) * columns + low[which, 0] + step % wide[which]
    tile, sorting = torch.sort(tile, stable=True)
    return tile, order[which[sorting]]
