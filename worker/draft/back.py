"""What the picture doesn't show: the back (spec draft_engine.md 2.7, back modes).

Every function gives coarse colours, float32 (h, w, 3), x as in the front view, that meet the bled rim without a seam.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from .mask import bounding_box, nearest_false, shrink
from .texture import Palette, Rim, enlarge

CONTOUR_SIDE = 160  # pixels along the longest side at which `contour` works


def paint(mode: str, p: Palette, rim: Rim, bled: np.ndarray, picture: np.ndarray | None) -> np.ndarray:
    """The back in one of the modes contour, solid, detail or image; `picture` is the user's, for `image`."""
    if mode == "image":
        assert picture is not None
        return image(p, rim, bled, picture)
    return {"contour": contour, "solid": solid, "detail": detail}[mode](p, rim, bled)


def contour(p: Palette, rim: Rim, bled: np.ndarray) -> np.ndarray:
    """Rows continue the colours they have at the outline, as on a body of revolution: hair closes over the head, a belt runs round."""
    factor = max(1, round(p.side / CONTOUR_SIDE))
    side = p.side / factor
    mask = shrink(p.mask.astype(np.float32), factor) >= 0.5
    if not mask.any():
        mask = shrink(p.mask.astype(np.float32), factor) > 0
    depth = shrink(p.depth, factor) / factor
    inset = rim.inset / factor
    colours = _median(shrink(bled, factor), 0.06 * side)
    outer = 0.035 * side + inset
    band = mask & (depth >= min(inset, 0.3 * outer)) & (depth <= outer)
    if not band.any():
        band = mask
    band = _typical(colours, band, depth, side)
    near = ndimage.distance_transform_edt(~band, sampling=(3, 1), return_distances=False, return_indices=True)
    colours = _median(_median(colours[near[0], near[1]], 0.06 * side), 0.06 * side)
    smooth = _blur(colours, mask, 0.006 * side, 0.006 * side)
    # Where colours from the left and from the right meet, far inside, they blend along the rows: otherwise a lit and a shaded side leave a seam.
    blended = _blur(colours, mask, 0.006 * side, 0.07 * side)
    smooth += (blended - smooth) * np.clip(depth / (0.08 * side) - 0.4, 0, 1)[..., None]
    shape = p.mask.shape
    inner = enlarge(smooth, factor, shape).astype(np.float32) / np.float32(255)
    return _meet(p, rim, bled, inner)


def _typical(colours: np.ndarray, band: np.ndarray, depth: np.ndarray, side: float) -> np.ndarray:
    """The band without colours that are rare in it, where the body is wide: an eye or a nose that comes near the outline would be smeared
    over the whole back. Narrow parts (hands, feet, horns) keep theirs."""
    here = colours[band]
    some = here[:: 1 + len(here) // 400]
    share = (np.abs(here[:, None] - some).max(2) < 0.14).mean(1)
    wide = ndimage.maximum_filter(depth, 2 * int(0.12 * side) + 1)[band] > 0.12 * side
    kept = band.copy()
    kept[band] = (share > 0.12) | ~wide
    return kept if kept.any() else band


def solid(p: Palette, rim: Rim, bled: np.ndarray) -> np.ndarray:
    """The most frequent colour along the outline. A median per channel would invent a colour; this takes one inside the fullest bin."""
    band = p.mask & (p.depth <= rim.inset + 1)
    found = bled[band]
    bins = (np.clip(found, 0, 0.999) * 8).astype(int) @ np.array([64, 8, 1])
    chosen = found[bins == np.argmax(np.bincount(bins))]
    return _meet(p, rim, bled, np.broadcast_to(np.median(chosen, 0).astype(np.float32), bled.shape))


def detail(p: Palette, rim: Rim, bled: np.ndarray) -> np.ndarray:
    """`contour` with the front's fine grain at 30 %."""
    sigma = 0.012 * p.side
    grain = p.rgb - _blur(p.rgb, p.mask, sigma, sigma)
    deep = np.clip((p.depth - rim.inset) / max(rim.inset, 1.0), 0, 1)[..., None]
    return np.clip(contour(p, rim, bled) + np.float32(0.3) * grain * deep, 0, 1)


def image(p: Palette, rim: Rim, bled: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The user's picture of the back, uint8 (H, W, 4) RGBA as seen from behind, stretched over the object's box."""
    opaque = picture[..., 3] >= 128
    if opaque.any():
        picture = picture[bounding_box(opaque)]
    rows, columns = bounding_box(p.mask)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    fitted = np.asarray(Image.fromarray(np.ascontiguousarray(picture[:, ::-1])).resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    known = np.zeros(p.mask.shape, bool)
    known[rows, columns] = fitted[..., 3] >= 0.5
    if not known.any():
        return solid(p, rim, bled)
    canvas = np.zeros((*p.mask.shape, 3), np.float32)
    canvas[rows, columns] = fitted[..., :3]
    near = nearest_false(~known)
    canvas = canvas[near[0], near[1]]
    fade = np.clip(p.depth / max(rim.inset, 1.0), 0, 1)[..., None]
    return bled + (canvas - bled) * fade


def _blur(values: np.ndarray, mask: np.ndarray, down: float, across: float) -> np.ndarray:
    """Gaussian blur of (h, w, 3) within the mask; sigmas in pixels."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), (down, across))
    mixed = ndimage.gaussian_filter(values * mask[..., None], (down, across, 0)) / np.maximum(weight, 1e-3)[..., None]
    return np.where((weight > 1e-3)[..., None], mixed, values)


def _median(values: np.ndarray, size: float) -> np.ndarray:
    """Median over a square window for each channel; float32 0..1, by way of 8 bits."""
    window = max(3, 2 * int(size / 2) + 1)
    eight = Image.fromarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8))
    return np.asarray(eight.filter(ImageFilter.MedianFilter(window)), np.float32) / np.float32(255)


def _meet(p: Palette, rim: Rim, bled: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Cross-fade from the bled rim at the contour to `inner`."""
    t = np.clip((p.depth - rim.inset / 2) / (0.015 * p.side + rim.inset / 2), 0, 1)
    fade = (t * t * (3 - 2 * t))[..., None].astype(np.float32)
    return bled + (inner - bled) * fade
