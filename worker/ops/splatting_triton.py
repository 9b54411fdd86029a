"""Triton kernels behind splatting.py, which documents them.

One view at a time: project; sort the Gaussians by depth; list each one once for every tile of 16 x 16 pixels that it can reach, in depth order;
sort the list by tile, which keeps the depth order inside (so the keys are two bytes, not eight); blend each tile in one program, until no light is
left. Where the list would grow beyond `_PAIRS` entries it is made and blended in portions, nearest first: memory is bounded whatever the scene.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cameras import Cameras
from .splatting import DONE, EDGE, FAINT, OPAQUE, Gaussians

_TILE = 16  # pixels
_ROW = 12  # floats of one Gaussian's row in the table: x y a b c o red green blue depth, two unused; its share is 2^(a dx^2 + b dx dy + c dy^2 + o)
_PAIRS = 1 << 24  # (Gaussian, tile) entries at once: about 40 bytes each
_UNROLL = 16
_LOG2_E = math.log2(math.e)
_LEAST = math.log2(FAINT) - 0.01  # of a share, as a power of 2, with room for rounding


@triton.jit(do_not_specialize=["count", "rows"])
def _project_kernel(
    positions_ptr, scales_ptr, rotations_ptr, opacities_ptr, colors_ptr, camera_ptr, table_ptr, depth_ptr, low_ptr, size_ptr,
    count, width, height, columns, rows, low_pass, near,
    ORTHOGRAPHIC: tl.constexpr, COMPENSATE: tl.constexpr, TILE: tl.constexpr, ROW: tl.constexpr, FAINT: tl.constexpr, EDGE: tl.constexpr,
    LOG2_E: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = n < count
    px = tl.load(positions_ptr + n * 3, mask=live, other=0.0)
    py = tl.load(positions_ptr + n * 3 + 1, mask=live, other=0.0)
    pz = tl.load(positions_ptr + n * 3 + 2, mask=live, other=0.0)
    r00, r01, r02, t0 = tl.load(camera_ptr), tl.load(camera_ptr + 1), tl.load(camera_ptr + 2), tl.load(camera_ptr + 3)
    r10, r11, r12, t1 = tl.load(camera_ptr + 4), tl.load(camera_ptr + 5), tl.load(camera_ptr + 6), tl.load(camera_ptr + 7)
    r20, r21, r22, t2 = tl.load(camera_ptr + 8), tl.load(camera_ptr + 9), tl.load(camera_ptr + 10), tl.load(camera_ptr + 11)
    fx, fy, cx, cy = tl.load(camera_ptr + 16), tl.load(camera_ptr + 17), tl.load(camera_ptr + 18), tl.load(camera_ptr + 19)
    x = r00 * px + r01 * py + r02 * pz + t0
    y = r10 * px + r11 * py + r12 * pz + t1
    z = r20 * px + r21 * py + r22 * pz + t2

    qw = tl.load(rotations_ptr + n * 4, mask=live, other=1.0)
    qx = tl.load(rotations_ptr + n * 4 + 1, mask=live, other=0.0)
    qy = tl.load(rotations_ptr + n * 4 + 2, mask=live, other=0.0)
    qz = tl.load(rotations_ptr + n * 4 + 3, mask=live, other=0.0)
    length = tl.maximum(tl.sqrt(qw * qw + qx * qx + qy * qy + qz * qz), 1e-12)
    qw, qx, qy, qz = qw / length, qx / length, qy / length, qz / length
    if ORTHOGRAPHIC:
        live = live & (tl.abs(z) < float("inf"))
        flat_x, flat_y = x, y
        held_x, held_y, over = tl.zeros_like(x), tl.zeros_like(x), 1.0
    else:
        live = live & (z > near)
        over = 1.0 / tl.where(live, z, 1.0)
        flat_x, flat_y = x * over, y * over
        spare_x, spare_y = EDGE / 2 * width, EDGE / 2 * height
        held_x = tl.minimum(tl.maximum(flat_x, -(cx + spare_x) / fx), (width - cx + spare_x) / fx)
        held_y = tl.minimum(tl.maximum(flat_y, -(cy + spare_y) / fy), (height - cy + spare_y) / fy)
    # The two rows of (derivative x camera rotation), then the Gaussian's axes seen through them.
    u0, u1, u2 = (r00 - held_x * r20) * over * fx, (r01 - held_x * r21) * over * fx, (r02 - held_x * r22) * over * fx
    v0, v1, v2 = (r10 - held_y * r20) * over * fy, (r11 - held_y * r21) * over * fy, (r12 - held_y * r22) * over * fy
    s0 = tl.load(scales_ptr + n * 3, mask=live, other=0.0)
    s1 = tl.load(scales_ptr + n * 3 + 1, mask=live, other=0.0)
    s2 = tl.load(scales_ptr + n * 3 + 2, mask=live, other=0.0)
    ax, ay, az = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy + qw * qz), 2 * (qx * qz - qw * qy)
    bx, by, bz = 2 * (qx * qy - qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz + qw * qx)
    dx, dy, dz = 2 * (qx * qz + qw * qy), 2 * (qy * qz - qw * qx), 1 - 2 * (qx * qx + qy * qy)
    ua, va = (u0 * ax + u1 * ay + u2 * az) * s0, (v0 * ax + v1 * ay + v2 * az) * s0
    ub, vb = (u0 * bx + u1 * by + u2 * bz) * s1, (v0 * bx + v1 * by + v2 * bz) * s1
    ud, vd = (u0 * dx + u1 * dy + u2 * dz) * s2, (v0 * dx + v1 * dy + v2 * dz) * s2
    xx, yy, xy = ua * ua + ub * ub + ud * ud, va * va + vb * vb + vd * vd, ua * va + ub * vb + ud * vd
    wide_x, wide_y = xx + low_pass, yy + low_pass
    det = wide_x * wide_y - xy * xy
    opacity = tl.load(opacities_ptr + n, mask=live, other=0.0)
    if COMPENSATE:
        opacity *= tl.sqrt(tl.maximum((xx * yy - xy * xy) / det, 0.0))
    cut = 2 * tl.log(tl.maximum(opacity, FAINT) / FAINT)
    at_x, at_y = flat_x * fx + cx, flat_y * fy + cy
    reach_x, reach_y = tl.sqrt(cut * wide_x), tl.sqrt(cut * wide_y)
    red = tl.load(colors_ptr + n * 3, mask=live, other=0.0)
    green = tl.load(colors_ptr + n * 3 + 1, mask=live, other=0.0)
    blue = tl.load(colors_ptr + n * 3 + 2, mask=live, other=0.0)
    live = live & (opacity > FAINT) & (det > 0) & (tl.abs(at_x + at_y + det + reach_x + reach_y + red + green + blue) < float("inf"))
    live = live & (at_x + reach_x > 0) & (at_y + reach_y > 0) & (at_x - reach_x < width) & (at_y - reach_y < height)

    share = 1.0 / tl.where(live, det, 1.0)
    row = table_ptr + n.to(tl.int64) * ROW
    tl.store(row, at_x, mask=live)
    tl.store(row + 1, at_y, mask=live)
    tl.store(row + 2, -0.5 * LOG2_E * wide_y * share, mask=live)
    tl.store(row + 3, LOG2_E * xy * share, mask=live)
    tl.store(row + 4, -0.5 * LOG2_E * wide_x * share, mask=live)
    tl.store(row + 5, tl.log2(opacity), mask=live)
    tl.store(row + 6, red, mask=live)
    tl.store(row + 7, green, mask=live)
    tl.store(row + 8, blue, mask=live)
    tl.store(row + 9, z, mask=live)
    # Held in the picture as floats, before they become whole numbers that may be too small for them.
    left = tl.floor(tl.minimum(tl.maximum(at_x - reach_x - 0.5, 0.0), width) / TILE).to(tl.int32)
    top = tl.floor(tl.minimum(tl.maximum(at_y - reach_y - 0.5, 0.0), height) / TILE).to(tl.int32)
    right = tl.floor(tl.minimum(tl.maximum(at_x + reach_x + 0.5, 0.0), width) / TILE).to(tl.int32) + 1
    bottom = tl.floor(tl.minimum(tl.maximum(at_y + reach_y + 0.5, 0.0), height) / TILE).to(tl.int32) + 1
    wide = tl.where(live, tl.minimum(right, columns) - left, 0)
    tall = tl.where(live, tl.minimum(bottom, rows) - top, 0)
    inside = n < count
    tl.store(depth_ptr + n, tl.where(live, z, float("inf")), mask=inside)
    tl.store(low_ptr + n, top << 16 | left, mask=inside)
    tl.store(size_ptr + n, tl.maximum(tall, 0) << 16 | tl.maximum(wide, 0), mask=inside)


@triton.jit
def _clamped(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit(do_not_specialize=["first", "last", "before", "tiles"])
def _list_kernel(
    order_ptr, ends_ptr, low_ptr, size_ptr, table_ptr, tile_ptr, who_ptr, first, last, before, columns, tiles,
    TILE: tl.constexpr, ROW: tl.constexpr, LEAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """List the Gaussians first..last of the depth order, once for each tile of their box; those that they only pass by under the number `tiles`."""
    i = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < last
    n = tl.load(order_ptr + i, mask=live, other=0)
    low, size = tl.load(low_ptr + n, mask=live, other=0), tl.load(size_ptr + n, mask=live, other=0)
    wide, tall = size & 0xFFFF, size >> 16
    entries = tl.where(live, wide * tall, 0)
    at = tl.load(ends_ptr + i, mask=live, other=0) - before - entries
    splat, drawn = table_ptr + n * ROW, entries > 0
    x, y = tl.load(splat, mask=drawn, other=0.0), tl.load(splat + 1, mask=drawn, other=0.0)
    a, b = tl.load(splat + 2, mask=drawn, other=-1.0), tl.load(splat + 3, mask=drawn, other=0.0)
    c, o = tl.load(splat + 4, mask=drawn, other=-1.0), tl.load(splat + 5, mask=drawn, other=0.0)
    column, row = tl.zeros_like(wide), tl.zeros_like(wide)
    for k in range(tl.max(entries, 0)):
        # The largest share in a tile is at its centre, or on one of the two sides that face it.
        left, top = ((low & 0xFFFF) + column) * TILE + 0.5 - x, ((low >> 16) + row) * TILE + 0.5 - y
        right, bottom = left + (TILE - 1), top + (TILE - 1)
        dx, dy = _clamped(0.0, left, right), _clamped(0.0, top, bottom)
        along_x, along_y = _clamped(-0.5 * b / a * dy, left, right), _clamped(-0.5 * b / c * dx, top, bottom)
        share = tl.maximum((a * dx + b * along_y) * dx + c * along_y * along_y, (a * along_x + b * dy) * along_x + c * dy * dy) + o
        tile = tl.where(share >= LEAST, ((low >> 16) + row) * columns + (low & 0xFFFF) + column, tiles)
        tl.store(tile_ptr + at + k, tile.to(tile_ptr.dtype.element_ty), mask=k < entries)
        tl.store(who_ptr + at + k, n.to(tl.int32), mask=k < entries)
        wraps = column + 1 == wide
        column = tl.where(wraps, 0, column + 1)
        row = tl.where(wraps, row + 1, row)


@triton.jit
def _blend_kernel(
    table_ptr, who_ptr, bounds_ptr, image_ptr, alpha_ptr, far_ptr, light_ptr, width, height, columns,
    TILE: tl.constexpr, ROW: tl.constexpr, FAINT: tl.constexpr, OPAQUE: tl.constexpr, DONE: tl.constexpr, UNROLL: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    inner = tl.arange(0, TILE * TILE)
    column, row = tile % columns * TILE + inner % TILE, tile // columns * TILE + inner // TILE
    inside = (column < width) & (row < height)
    at = row * width + column
    px, py = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    light = tl.load(light_ptr + at, mask=inside, other=0.0)
    red, green = tl.load(image_ptr + at * 3, mask=inside, other=0.0), tl.load(image_ptr + at * 3 + 1, mask=inside, other=0.0)
    blue = tl.load(image_ptr + at * 3 + 2, mask=inside, other=0.0)
    alphas = tl.load(alpha_ptr + at, mask=inside, other=0.0)
    far = tl.zeros_like(alphas)
    if DEPTH:
        far = tl.load(far_ptr + at, mask=inside, other=0.0)
    i, end = tl.load(bounds_ptr + tile), tl.load(bounds_ptr + tile + 1)
    while i < end:
        for k in tl.static_range(UNROLL):
            there = i + k < end
            splat = table_ptr + tl.load(who_ptr + i + k, mask=there, other=0).to(tl.int64) * ROW
            dx, dy = px - tl.load(splat), py - tl.load(splat + 1)
            a, b, c = tl.load(splat + 2), tl.load(splat + 3), tl.load(splat + 4)
            opacity = tl.where(there, tl.load(splat + 5), float("-inf"))
            alpha = tl.minimum(tl.exp2((a * dx + b * dy) * dx + (c * dy * dy + opacity)), OPAQUE)
            alpha = tl.where(alpha >= FAINT, alpha, 0.0)
            passing = light * (1.0 - alpha)
            weight = tl.where(passing >= DONE, alpha * light, 0.0)
            red += weight * tl.load(splat + 6)
            green += weight * tl.load(splat + 7)
            blue += weight * tl.load(splat + 8)
            if DEPTH:
                far += weight * tl.load(splat + 9)
            alphas += weight
            light = passing
        i = tl.where(tl.max(light, 0) < DONE, end, i + UNROLL)
    tl.store(light_ptr + at, light, mask=inside)
    tl.store(image_ptr + at * 3, red, mask=inside)
    tl.store(image_ptr + at * 3 + 1, green, mask=inside)
    tl.store(image_ptr + at * 3 + 2, blue, mask=inside)
    tl.store(alpha_ptr + at, alphas, mask=inside)
    if DEPTH:
        tl.store(far_ptr + at, far, mask=inside)


def splat(
    splats: Gaussians, cameras: Cameras, low_pass: float, compensate: bool, near: float, depth: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """image (V, H, W, 3) without background, alpha (V, H, W), depth times alpha (V, H, W) or nothing of use."""
    splats = Gaussians(*(tensor.detach().contiguous() for tensor in splats))
    shape, device = (len(cameras), cameras.height, cameras.width), splats.positions.device
    image, alpha = torch.zeros(*shape, 3, device=device), torch.zeros(shape, device=device)
    far = torch.zeros(shape, device=device) if depth else alpha
    if len(splats.positions):
        parameters = torch.cat([cameras.view.flatten(1), cameras.focal, cameras.centre], dim=1).float().contiguous()
        for i in range(len(cameras)):
            _view(splats, parameters[i], cameras, low_pass, compensate, near, depth, image[i], alpha[i], far[i])
    return image, alpha, far


def _view(
    splats: Gaussians, parameters: Tensor, cameras: Cameras, low_pass: float, compensate: bool, near: float, depth: bool,
    image: Tensor, alpha: Tensor, far: Tensor,
) -> None:  # fmt: skip
    width, height, count, device = cameras.width, cameras.height, len(splats.positions), image.device
    columns, rows = triton.cdiv(width, _TILE), triton.cdiv(height, _TILE)
    table = torch.empty(count, _ROW, device=device)
    distance = torch.empty(count, device=device)
    low, size = (torch.empty(count, dtype=torch.int32, device=device) for _ in range(2))
    _project_kernel[(triton.cdiv(count, 128),)](
        *splats, parameters, table, distance, low, size, count, width, height, columns, rows, low_pass, near, cameras.orthographic, compensate,
        _TILE, _ROW, FAINT, EDGE, _LOG2_E, 128, num_warps=4,
    )  # fmt: skip
    order = torch.sort(distance, stable=True).indices
    entries = size[order]
    ends = torch.cumsum((entries >> 16) * (entries & 0xFFFF), 0, dtype=torch.int64)
    light = torch.ones(height, width, device=device)
    narrow = torch.int16 if columns * rows < 1 << 15 else torch.int32
    numbers = torch.arange(columns * rows + 1, device=device, dtype=narrow)
    for first, last, before, total in _portions(ends):
        tiles = torch.empty(total, dtype=narrow, device=device)
        who = torch.empty(total, dtype=torch.int32, device=device)
        _list_kernel[(triton.cdiv(last - first, 128),)](
            order, ends, low, size, table, tiles, who, first, last, before, columns, columns * rows, _TILE, _ROW, _LEAST, 128, num_warps=4
        )  # fmt: skip
        tiles, sorting = torch.sort(tiles, stable=True)
        who = who[sorting]
        bounds = torch.searchsorted(tiles, numbers, out_int32=True)
        _blend_kernel[(columns * rows,)](
            table, who, bounds, image, alpha, far, light, width, height, columns,
            _TILE, _ROW, FAINT, OPAQUE, DONE, _UNROLL, depth, num_warps=4,
        )  # fmt: skip


def _portions(ends: Tensor) -> list[tuple[int, int, int, int]]:
    """Gaussians in depth order, whose entries end at `ends` -> (first, last, entries before, entries) of each portion."""
    total = int(ends[-1])
    if total == 0:
        return []
    if total <= _PAIRS:
        return [(0, len(ends), 0, total)]
    steps = torch.arange(_PAIRS, total, _PAIRS, device=ends.device)
    cuts = sorted({0, *torch.searchsorted(ends, steps).tolist(), len(ends)})
    before = [0, *ends[torch.tensor(cuts[1:], device=ends.device) - 1].tolist()]
    return [(a, b, low, high - low) for a, b, low, high in zip(cuts, cuts[1:], before, before[1:]) if high > low]
