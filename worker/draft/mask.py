"""The mask: cut the object out of the picture, clean it, and sample it on the work grid (spec draft_engine.md 2.1).

Positions are continuous pixel coordinates: pixel (row r, column c) covers [c, c+1] x [r, r+1], y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from ...contract.errors import EmptyMaskError, FullMaskError

MARGIN = 8  # pixels kept around the bounding box: bled colours for mipmaps, and room for blurs
SMALLEST = 12  # pixels; a smaller mask, or a smaller part of one, is noise
SMOOTH_SIDE = 256  # sprites smaller than this are enlarged before they are inflated, so that distances are smooth
COARSE_SIDE = 512  # distances and bled colours are found at about this size
PIXEL_ART_SIDE = 96  # a hard-edged sprite of fewer pixels (or enlarged pixels) is pixel art
EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Sprite:
    """One object, cut out with a margin of at least MARGIN pixels.

    rgb: uint8 (h, w, 3). coverage: float32 (h, w), 0..1, cleaned, 0 outside the object. mask: bool (h, w), coverage >= threshold.
    left, top: where the cut-out's corner lies in the picture; zoom: picture pixels per pixel of the cut-out.
    hard: every source pixel was fully in or out. soft: fire or smoke, so the threshold is low. pixels: (height, width) of the bounding box in
    source pixels. block: side of the equal squares that a hard-edged sprite consists of (enlarged pixel art), else 1.
    """

    rgb: np.ndarray
    coverage: np.ndarray
    mask: np.ndarray
    threshold: float
    left: float
    top: float
    zoom: float
    hard: bool
    soft: bool
    pixels: tuple[int, int]
    block: int = 1

    @property
    def longest(self) -> float:
        """The bounding box's longest side in pixels of the cut-out."""
        return max(self.pixels) / self.zoom

    @property
    def pixel_art(self) -> bool:
        return self.hard and max(self.pixels) // self.block < PIXEL_ART_SIDE

    def box_mask(self) -> np.ndarray:
        """The mask cropped to its bounding box."""
        return self.mask[bounding_box(self.mask)]


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Slices of the smallest box that holds every True of a non-empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def cut(
    image: np.ndarray,
    mask: np.ndarray,
    alpha: np.ndarray | None,
    name: str,
    *,
    keep: str = "all",
    hole_min: float = 0.0002,
    allow_full: bool = False,
    work_side: int = 2048,
) -> Sprite:
    """The object `name` at source resolution, or reduced by a whole factor to about `work_side` pixels if it is much longer.

    image: uint8 (H, W, 3); mask: bool (H, W); alpha: uint8 (H, W) or None. Inside the mask alpha decides; outside it only its soft edge
    counts (a neighbour cut by another mask is opaque there, and isn't ours). Raises EmptyMaskError and FullMaskError.
    """
    if mask.all() and (alpha is None or alpha.min() >= 128) and not allow_full:
        raise FullMaskError(
            f"The mask of {name!r} selects the whole picture, so there is no outline to inflate.",
            "Give a mask that leaves the background out; if the picture itself is a card or a block, choose preset slab or pixel.",
        )
    rows, columns = bounding_box(mask)
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    reach = 0 if alpha is None else side // 4  # how far soft edges are followed
    top, left = max(rows.start - reach, 0), max(columns.start - reach, 0)
    window = (slice(top, rows.stop + reach), slice(left, columns.stop + reach))
    rgb, ours = image[window], mask[window]
    opacity = ours * np.uint8(255) if alpha is None else np.where(ours | (alpha[window] < 128), alpha[window], np.uint8(0))
    visible = opacity > 12
    count = int(np.count_nonzero(visible))
    if count < SMALLEST:
        raise EmptyMaskError(
            f"The mask of {name!r} holds {count} visible pixels.", f"At least {SMALLEST} are needed; enlarge the picture or drop this mask."
        )
    partly = np.count_nonzero(visible & (opacity < 242)) / count
    threshold = 0.25 if partly > 0.30 else 0.5
    factor = max(1, int(side / work_side + 0.25))
    if factor > 1:  # Pillow weights the colours by the opacity: no background leaks in
        reduced = np.asarray(Image.fromarray(np.dstack([rgb, opacity])).reduce(factor))
        rgb, opacity = reduced[..., :3], reduced[..., 3]
        ours = np.asarray(Image.fromarray(ours).convert("L").reduce(factor)) > 0
    coverage = opacity.astype(np.float32) / np.float32(255)
    inside = _clean(coverage >= threshold, ours, keep, hole_min, name)

    box = bounding_box(inside)
    y0, x0 = box[0].start - MARGIN, box[1].start - MARGIN
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    shape = (height + 2 * MARGIN, width + 2 * MARGIN)
    coverage = _window(np.where(inside, np.maximum(coverage, threshold), np.minimum(coverage, threshold * 0.98)), y0, x0, shape)
    inside, rgb = _window(inside, y0, x0, shape), _window(rgb, y0, x0, shape)
    near = ndimage.binary_dilation(inside, EIGHT, 2)  # what lies farther out is no edge of this object
    inner = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    return Sprite(
        rgb=rgb,
        coverage=np.where(near, coverage, 0).astype(np.float32),
        mask=inside,
        threshold=threshold,
        left=float(left + x0 * factor),
        top=float(top + y0 * factor),
        zoom=float(factor),
        hard=partly == 0,
        soft=partly > 0.30,
        pixels=(height * factor, width * factor),
        block=_block(rgb[inner], inside[inner]) if partly == 0 and factor == 1 else 1,
    )


def _block(rgb: np.ndarray, inside: np.ndarray) -> int:
    """Side of the squares of one colour that the object consists of: the greatest common divisor of where anything changes."""
    size = 0
    for axis in (0, 1):
        a, b = (np.take(inside, r, axis) for r in (range(inside.shape[axis] - 1), range(1, inside.shape[axis])))
        c, d = (np.take(rgb, r, axis) for r in (range(rgb.shape[axis] - 1), range(1, rgb.shape[axis])))
        changed = (a != b) | (a & b & (c != d).any(2))
        size = math.gcd(size, inside.shape[axis], *(np.flatnonzero(changed.any(1 - axis)) + 1).tolist())
    return size


def _clean(inside: np.ndarray, mask: np.ndarray, keep: str, hole_min: float, name: str) -> np.ndarray:
    """Without specks, without pinholes, without soft remains of other objects; the largest part alone if `keep` says so."""
    labels, _ = ndimage.label(inside, EIGHT)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    ours = np.bincount(labels[mask], minlength=len(sizes)) > 0
    sizes[~ours] = 0
    smallest = max(SMALLEST, 0.0005 * sizes.sum())
    kept = sizes >= (max(smallest, sizes.max()) if keep == "largest" else smallest)
    if keep == "largest" and kept.any():
        kept = np.arange(len(sizes)) == int(np.argmax(sizes))
    if not kept.any():
        raise EmptyMaskError(
            f"The mask of {name!r} has no part of at least {SMALLEST} pixels (the largest has {int(sizes.max())}).",
            "Enlarge the picture or drop this mask.",
        )
    inside = kept[labels]
    holes, _ = ndimage.label(np.pad(~inside, 1, constant_values=True))
    sizes = np.bincount(holes.ravel())
    small = sizes < hole_min * inside.sum()
    small[[0, holes[0, 0]]] = False
    return inside | small[holes][1:-1, 1:-1]


def _window(values: np.ndarray, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """values[top:top+h, left:left+w], zero where that lies outside."""
    out = np.zeros((*shape, *values.shape[2:]), values.dtype)
    y0, x0 = max(top, 0), max(left, 0)
    part = values[y0 : max(top + shape[0], 0), x0 : max(left + shape[1], 0)]
    out[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
    return out


def resample(sprite: Sprite, longest: int, *, nearest: bool = False) -> Sprite:
    """The same object, its bounding box `longest` pixels long, margins of MARGIN kept. nearest: keep the colours' blocks (pixel art)."""
    scale = longest / sprite.longest
    inner = [n - 2 * MARGIN for n in sprite.mask.shape]
    size = [math.ceil(n * scale) + 2 * MARGIN for n in inner]
    extra = max(0, math.ceil((MARGIN + 1) / scale) - MARGIN) + 1  # the new margins may reach beyond the cut-out
    grown = (sprite.mask.shape[0] + 2 * extra, sprite.mask.shape[1] + 2 * extra)
    corner = [extra + MARGIN + (n - m / scale) / 2 for n, m in zip(inner, size)]  # centred, and exactly as wide as high
    box = (corner[1], corner[0], corner[1] + size[1] / scale, corner[0] + size[0] / scale)

    def scaled(values: np.ndarray, enlarge: Image.Resampling) -> np.ndarray:
        method = Image.Resampling.BOX if scale < 1 else enlarge
        picture = Image.fromarray(_window(values, -extra, -extra, grown))
        return np.asarray(picture.resize((size[1], size[0]), method, box=box))

    coverage = scaled(sprite.coverage, Image.Resampling.BILINEAR)
    mask = coverage >= sprite.threshold
    if mask.sum() < 0.8 * sprite.mask.sum() * scale**2:  # lines thinner than a new pixel: thicken them first
        coverage = scaled(ndimage.maximum_filter(sprite.coverage, math.ceil(1 / scale)), Image.Resampling.BILINEAR)
        mask = coverage >= sprite.threshold
    if nearest:
        near = nearest_false(~sprite.mask)
        rgb = scaled(sprite.rgb[near[0], near[1]], Image.Resampling.NEAREST)
    else:  # Pillow weights the colours of an RGBA picture by its alpha: no background leaks in
        opacity = (np.maximum(sprite.coverage, sprite.mask) * np.float32(255)).astype(np.uint8)
        rgb = scaled(np.dstack([sprite.rgb, opacity]), Image.Resampling.BICUBIC)[..., :3]
    return replace(
        sprite,
        rgb=rgb,
        coverage=coverage,
        mask=mask,
        left=sprite.left + (corner[1] - extra) * sprite.zoom,
        top=sprite.top + (corner[0] - extra) * sprite.zoom,
        zoom=sprite.zoom / scale,
    )


def shrink(values: np.ndarray, factor: int) -> np.ndarray:
    """Means over factor x factor blocks; float32 (h, w) or (h, w, C), sides padded with zeros to a multiple of factor."""
    if factor == 1:
        return values
    height, width = values.shape[:2]
    pad = [(0, -height % factor), (0, -width % factor)] + [(0, 0)] * (values.ndim - 2)
    values = np.pad(values, pad)
    rows = values.reshape(values.shape[0] // factor, factor, -1).mean(1, dtype=np.float32)
    return rows.reshape(rows.shape[0], -1, factor, *values.shape[2:]).mean(2, dtype=np.float32)


def nearest_false(mask: np.ndarray) -> np.ndarray:
    """(2, h, w) int32: row and column of the nearest False pixel, for every pixel. There must be one."""
    return ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)


def distance_to(nearest: np.ndarray) -> np.ndarray:
    """float32 (h, w): how far each pixel lies from what `nearest_false` found for it, centre to centre."""
    dy = nearest[0] - np.arange(nearest.shape[1], dtype=np.int32)[:, None]
    dx = nearest[1] - np.arange(nearest.shape[2], dtype=np.int32)[None, :]
    return np.sqrt((dy * dy + dx * dx).astype(np.float32))


def distance_inside(mask: np.ndarray) -> np.ndarray:
    """float32 (h, w): distance of each True pixel's centre to the nearest False pixel's centre; 0 outside."""
    return distance_to(nearest_false(mask))
