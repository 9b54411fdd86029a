"""Triton kernels behind rasterise.py, which documents them.

Small faces are drawn one per lane, each lane walking its own bounding box; faces whose box is larger go to a queue, and there a whole program
works on one face. Both lower 64-bit keys (depth, face) with an atomic minimum; `resolve` then works out the weights of the winners.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rasterise import EMPTY

_SMALL = 64  # pixels of a bounding box up to which one lane does it
_LANES = 128
_BLOCK = 128  # pixels at once of a face from the queue
_MODES = {None: 0, "back": 1, "front": 2}


@triton.jit
def _corner(screen_ptr, faces_ptr, face, which: tl.constexpr, live):
    """Pixel x, y and depth of one corner of each face."""
    at = screen_ptr + tl.load(faces_ptr + face * 3 + which, mask=live, other=0) * 3
    return tl.load(at, mask=live, other=0.0), tl.load(at + 1, mask=live, other=0.0), tl.load(at + 2, mask=live, other=0.0)


@triton.jit
def _snap(x):
    return tl.floor(x * 4096.0 + 0.5).to(tl.int32)


@triton.jit
def _usable(x, y, z, near):
    return (tl.abs(x) < 131072.0) & (tl.abs(y) < 131072.0) & (z > near) & (tl.abs(z) < float("inf"))


@triton.jit
def _cross(ax, ay, bx, by):
    return ax.to(tl.int64) * by.to(tl.int64) - ay.to(tl.int64) * bx.to(tl.int64)


@triton.jit
def _setup(screen_ptr, faces_ptr, face, live, height, width, near, CULL: tl.constexpr):
    """What a face needs: its corners (snapped) and depths, turned so that its area is positive, its box, and whether it is drawn."""
    x0, y0, z0 = _corner(screen_ptr, faces_ptr, face, 0, live)
    x1, y1, z1 = _corner(screen_ptr, faces_ptr, face, 1, live)
    x2, y2, z2 = _corner(screen_ptr, faces_ptr, face, 2, live)
    live = live & _usable(x0, y0, z0, near) & _usable(x1, y1, z1, near) & _usable(x2, y2, z2, near)
    x0, y0 = _snap(tl.where(live, x0, 0.0)), _snap(tl.where(live, y0, 0.0))
    x1, y1 = _snap(tl.where(live, x1, 0.0)), _snap(tl.where(live, y1, 0.0))
    x2, y2 = _snap(tl.where(live, x2, 0.0)), _snap(tl.where(live, y2, 0.0))
    area = _cross(x1 - x0, y1 - y0, x2 - x0, y2 - y0)
    if CULL == 0:
        live = live & (area != 0)
    elif CULL == 1:
        live = live & (area < 0)
    else:
        live = live & (area > 0)
    left = tl.maximum((tl.minimum(tl.minimum(x0, x1), x2) + 2047) >> 12, 0)
    right = tl.minimum((tl.maximum(tl.maximum(x0, x1), x2) - 2048) >> 12, width - 1)
    top = tl.maximum((tl.minimum(tl.minimum(y0, y1), y2) + 2047) >> 12, 0)
    bottom = tl.minimum((tl.maximum(tl.maximum(y0, y1), y2) - 2048) >> 12, height - 1)
    live = live & (left <= right) & (top <= bottom)
    turned = area < 0
    area = tl.abs(area)
    x1, x2 = tl.where(turned, x2, x1), tl.where(turned, x1, x2)
    y1, y2 = tl.where(turned, y2, y1), tl.where(turned, y1, y2)
    z1, z2 = tl.where(turned, z2, z1), tl.where(turned, z1, z2)
    return x0, y0, z0, x1, y1, z1, x2, y2, z2, area, left, right, top, bottom, live


@triton.jit
def _edge(px, py, ax, ay, bx, by):
    """Positive inside. And whether the edge may keep a pixel that lies exactly on it."""
    dx, dy = bx - ax, by - ay
    value = _cross(dx, dy, px - ax, py - ay)
    owns = (dy > 0) | ((dy == 0) & (dx > 0))
    return value, value >= tl.where(owns, 0, 1)


@triton.jit
def _value(z, PERSPECTIVE: tl.constexpr):
    if PERSPECTIVE:
        return 1.0 / z
    else:
        return z


@triton.jit
def _lower(keys_ptr, column, row, width, face, x0, y0, v0, x1, y1, v1, x2, y2, v2, share, live, PERSPECTIVE: tl.constexpr):
    px, py = column * 4096 + 2048, row * 4096 + 2048
    e0, in0 = _edge(px, py, x1, y1, x2, y2)
    e1, in1 = _edge(px, py, x2, y2, x0, y0)
    e2, in2 = _edge(px, py, x0, y0, x1, y1)
    line = (e0.to(tl.float32) * v0 + e1.to(tl.float32) * v1 + e2.to(tl.float32) * v2) * share
    depth = _value(line, PERSPECTIVE)
    bits = depth.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (bits.to(tl.int64) << 32) | face.to(tl.int64)
    at = keys_ptr + row.to(tl.int64) * width + column
    hit = live & in0 & in1 & in2
    tl.atomic_min(at, key, mask=hit, sem="relaxed")


@triton.jit(do_not_specialize=["corners", "count"])
def _small_kernel(
    screen_ptr, faces_ptr, keys_ptr, queue_ptr, length_ptr, corners, count, height, width, near,
    CULL: tl.constexpr, PERSPECTIVE: tl.constexpr, SMALL: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    view = tl.program_id(1).to(tl.int64)
    face = tl.program_id(0) * LANES + tl.arange(0, LANES)
    screen_ptr += view * corners * 3
    x0, y0, z0, x1, y1, z1, x2, y2, z2, area, left, right, top, bottom, live = _setup(
        screen_ptr, faces_ptr, face, face < count, height, width, near, CULL
    )
    pixels = tl.where(live, (right - left + 1) * (bottom - top + 1), 0)
    large = pixels > SMALL
    slot = tl.atomic_add(length_ptr + tl.zeros_like(face), 1, mask=large, sem="relaxed")
    tl.store(queue_ptr + slot, view * count + face, mask=large)

    keys_ptr += view * height * width
    v0, v1, v2 = _value(z0, PERSPECTIVE), _value(z1, PERSPECTIVE), _value(z2, PERSPECTIVE)
    share = 1.0 / area.to(tl.float32)
    pixels = tl.where(large, 0, pixels)
    column, row = left, top
    for i in range(tl.max(pixels, 0)):
        _lower(keys_ptr, column, row, width, face, x0, y0, v0, x1, y1, v1, x2, y2, v2, share, i < pixels, PERSPECTIVE)
        wraps = column == right
        column = tl.where(wraps, left, column + 1)
        row = tl.where(wraps, row + 1, row)


@triton.jit(do_not_specialize=["corners", "count"])
def _large_kernel(
    screen_ptr, faces_ptr, keys_ptr, queue_ptr, corners, count, height, width, near,
    CULL: tl.constexpr, PERSPECTIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    item = tl.load(queue_ptr + tl.program_id(0))
    view, face = item // count, (item % count).to(tl.int32)
    screen_ptr += view * corners * 3
    x0, y0, z0, x1, y1, z1, x2, y2, z2, area, left, right, top, bottom, _ = _setup(
        screen_ptr, faces_ptr, face, face >= 0, height, width, near, CULL
    )
    keys_ptr += view * height * width
    v0, v1, v2 = _value(z0, PERSPECTIVE), _value(z1, PERSPECTIVE), _value(z2, PERSPECTIVE)
    share = 1.0 / area.to(tl.float32)
    wide = right - left + 1
    pixels = wide * (bottom - top + 1)
    for start in range(tl.program_id(1) * BLOCK, pixels, BLOCK * tl.num_programs(1)):
        at = start + tl.arange(0, BLOCK)
        _lower(
            keys_ptr, left + at % wide, top + at // wide, width, face, x0, y0, v0, x1, y1, v1, x2, y2, v2, share, at < pixels, PERSPECTIVE
        )


@triton.jit(do_not_specialize=["corners"])
def _resolve_kernel(
    keys_ptr, screen_ptr, faces_ptr, face_ptr, depth_ptr, bary_ptr, corners, pixels, width,
    EMPTY: tl.constexpr, PERSPECTIVE: tl.constexpr, BARY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    view = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    key = tl.load(keys_ptr + view * pixels + at, mask=inside, other=EMPTY)
    hit = key != EMPTY
    bits = (key >> 32).to(tl.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    face = (key & 0xFFFFFFFF).to(tl.int32)
    tl.store(depth_ptr + view * pixels + at, tl.where(hit, bits.to(tl.float32, bitcast=True), float("inf")), mask=inside)
    tl.store(face_ptr + view * pixels + at, tl.where(hit, face, -1), mask=inside)
    if BARY:
        screen_ptr += view * corners * 3
        x0, y0, z0 = _corner(screen_ptr, faces_ptr, face, 0, hit)
        x1, y1, z1 = _corner(screen_ptr, faces_ptr, face, 1, hit)
        x2, y2, z2 = _corner(screen_ptr, faces_ptr, face, 2, hit)
        x0, y0, x1, y1, x2, y2 = _snap(x0), _snap(y0), _snap(x1), _snap(y1), _snap(x2), _snap(y2)
        px, py = (at % width) * 4096 + 2048, (at // width) * 4096 + 2048
        b0 = _cross(x2 - x1, y2 - y1, px - x1, py - y1).to(tl.float32)
        b1 = _cross(x0 - x2, y0 - y2, px - x2, py - y2).to(tl.float32)
        b2 = _cross(x1 - x0, y1 - y0, px - x0, py - y0).to(tl.float32)
        if PERSPECTIVE:
            b0, b1, b2 = b0 / z0, b1 / z1, b2 / z2
        share = tl.where(hit, 1.0 / (b0 + b1 + b2), 0.0)
        out = bary_ptr + (view * pixels + at) * 3
        tl.store(out, tl.where(hit, b0 * share, 0.0), mask=inside)
        tl.store(out + 1, tl.where(hit, b1 * share, 0.0), mask=inside)
        tl.store(out + 2, tl.where(hit, b2 * share, 0.0), mask=inside)


def nearest(screen: Tensor, faces: Tensor, height: int, width: int, perspective: bool, cull: str | None, near: float) -> Tensor:
    """(V, H W) int64 keys."""
    screen, faces = screen.contiguous(), faces.int().contiguous()
    views, corners, count = len(screen), screen.shape[1], len(faces)
    keys = torch.full((views, height * width), EMPTY, dtype=torch.int64, device=screen.device)
    if views == 0 or count == 0:
        return keys
    queue = torch.empty(views * count, dtype=torch.int64, device=screen.device)
    length = torch.zeros(1, dtype=torch.int32, device=screen.device)
    mode = _MODES[cull]
    _small_kernel[(triton.cdiv(count, _LANES), views)](
        screen, faces, keys, queue, length, corners, count, height, width, near, mode, perspective, _SMALL, _LANES, num_warps=4
    )  # fmt: skip
    waiting = int(length)
    if waiting:
        split = max(1, min(32, 4096 // waiting))  # a few huge faces: several programs for each
        _large_kernel[(waiting, split)](
            screen, faces, keys, queue, corners, count, height, width, near, mode, perspective, _BLOCK, num_warps=1
        )  # fmt: skip
    return keys


def resolve(keys: Tensor, screen: Tensor, faces: Tensor, perspective: bool, face: Tensor, depth: Tensor, bary: Tensor | None) -> None:
    """Fill the pictures of these views from their keys; the pictures are contiguous."""
    views, pixels = keys.shape
    if keys.numel() == 0:
        return
    if len(faces) == 0:
        faces = torch.zeros(1, 3, dtype=torch.int32, device=keys.device)
    _resolve_kernel[(triton.cdiv(pixels, 256), views)](
        keys, screen.contiguous(), faces.int().contiguous(), face, depth, keys if bary is None else bary, screen.shape[1], pixels,
        face.shape[2], EMPTY, perspective, bary is not None, 256, num_warps=4,
    )  # fmt: skip
