"""Colours: find a drawn outline, bleed the inside over it and over everything outside, lay out the atlas (spec draft_engine.md 2.7).

A chart is the whole cut-out as seen from the front; a part's UV is its x, y there. Depths are pixels of the coarse cut-out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .mask import EIGHT, Sprite, distance_inside, distance_to, nearest_false, shrink

INK = 0.07  # mean difference of the channels below which a colour is that of the drawn outline
DEEP = 0.035  # share of the longest side that a drawn outline may be wide; small icons have wide ones
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Palette:
    """A coarse copy of the cut-out that colours are found on.

    rgb: float32 (h, w, 3), 0..1, of the object alone; mask: bool (h, w); coverage: float32 (h, w); depth: float32 (h, w), distance to the border in
    coarse pixels, 0.5 in its outermost pixel; factor: fine pixels per coarse pixel; side: longest side of the bounding box in coarse pixels.
    """

    rgb: np.ndarray
    mask: np.ndarray
    coverage: np.ndarray
    depth: np.ndarray
    factor: int
    side: float


@dataclass(frozen=True)
class Rim:
    """outline: width of a drawn outline in coarse pixels, 0 without one; ink: its colour, float32 (3,). inset: how far inside colours are taken
    from for the rim."""

    outline: float
    inset: float
    ink: np.ndarray | None = None


def palette(sprite: Sprite, factor: int) -> Palette:
    """`sprite` reduced by a whole factor, colours weighted by the mask so that no background leaks in."""
    coverage = shrink(sprite.coverage, factor)
    mask = coverage >= sprite.threshold
    rgb = sprite.rgb.astype(np.float32) / np.float32(255)
    if factor > 1:
        weight = shrink(sprite.mask.astype(np.float32), factor)
        rgb = shrink(rgb * sprite.mask[..., None], factor) / np.maximum(weight, 1e-6)[..., None]
    depth = np.maximum(distance_inside(mask) - np.float32(0.5), 0)
    return Palette(rgb, mask, coverage, depth, factor, sprite.longest / factor)


def find_rim(p: Palette, *, pixel_art: bool = False) -> Rim:
    """Measure a drawn outline: how long colours keep differing from those deeper inside, counted inwards from the border."""
    if pixel_art:
        return Rim(0.0, 0.0)
    inset = 0.008 * p.side
    deep = max(4.0 / p.factor, DEEP * p.side)
    wide = ndimage.maximum_filter(p.depth, 2 * int(deep) + 1) > 1.2 * deep
    rim = wide & (p.depth > 0) & (p.depth < deep)
    if not rim.any():
        return Rim(0.0, inset)
    nearest = nearest_false(p.depth < deep)
    difference = np.abs(p.rgb[rim] - p.rgb[nearest[0][rim], nearest[1][rim]]).mean(1)
    bins = np.ceil(p.depth[rim]).astype(int)
    count = int(bins.max())
    error = np.array([np.median(difference[bins == k]) if (bins == k).any() else 0.0 for k in range(1, count + 1)])
    peak = float(error[:3].max())
    if peak < 0.12:
        return Rim(0.0, inset)
    first = int(np.argmax(error[:3]))
    under = np.flatnonzero(error[first:] <= 0.35 * peak)
    width = float(under[0] + first) if len(under) else deep
    if width >= deep - 1:
        return Rim(0.0, inset)
    ink = np.median(p.rgb[wide & (p.depth > 0.5) & (p.depth < max(width - 1, 1.5))], axis=0)
    # Where only some of the outline is wide, the medians above stop early; its colour tells how far it reaches.
    inked = np.abs(p.rgb[rim] - ink).mean(1) < INK
    shares = np.array([inked[bins == k].mean() if (bins == k).any() else 0.0 for k in range(1, count + 1)])
    reach = int(width)
    while reach < count and shares[reach] > 0.35 * shares[: int(width)].max():
        reach += 1
    if reach < deep - 1:  # else the object itself is as dark
        width = float(reach)
    return Rim(width, max(inset, width + 1.0), ink)


def bleed(p: Palette, rim: Rim) -> tuple[np.ndarray, np.ndarray]:
    """(colours float32 (h, w, 3), weight float32 (h, w)): what the rim and the outside are painted with, and how much of the original stays.

    Each pixel less deep than the inset takes the nearest deeper one's colour; on thin parts the inset shrinks with them, or they would take
    the colour of the next thick part.
    """
    if rim.inset == 0:
        near = nearest_false(~p.mask)
        return p.rgb[near[0], near[1]], p.mask.astype(np.float32)
    local = np.minimum(rim.inset, ndimage.maximum_filter(p.depth, 2 * int(np.ceil(2 * rim.inset)) + 1) / 2)
    source = p.mask & (p.depth >= local)
    near = nearest_false(~source)
    outer = p.mask.astype(np.float32)
    if rim.ink is not None:
        # Lines inside the picture end at the rim; bled, they would become black patches. The next colour beyond the line serves better.
        line = ndimage.binary_dilation(np.abs(p.rgb - rim.ink).mean(2) < INK, EIGHT, 2)
        plain = source & ~line
        outer = np.where(line & (p.depth < 1.25 * rim.inset), np.float32(0), outer)
        if plain.any():
            beyond = nearest_false(~plain)
            near = np.where(distance_to(beyond) <= distance_to(near) + 2 * rim.inset, beyond, near)
    colours = p.rgb[near[0], near[1]]
    soft = ndimage.gaussian_filter(colours, (0.008 * p.side, 0.008 * p.side, 0), truncate=3.0)
    weight = np.clip((p.depth - local) / np.maximum(0.25 * local, 0.25), 0, 1) * outer
    return soft, weight.astype(np.float32)


def keep_outline(p: Palette) -> tuple[np.ndarray, np.ndarray]:
    """As `bleed`, for rim = wall: the original stays up to 1.5 fine pixels from the edge."""
    depth = max(1.5 / p.factor, 0.75)
    source = p.mask & (p.depth >= depth)
    if not source.any():
        source = p.mask
    near = nearest_false(~source)
    return p.rgb[near[0], near[1]], source.astype(np.float32)


def without_shading(rgb: np.ndarray, p: Palette, strength: float = 0.3) -> np.ndarray:
    """rgb uint8 (h, w, 3) with its broad light and shade evened out: luminance over its own blur (sigma 15 % of the side)."""
    small = max(1, int(p.side // 64))
    weight = shrink(p.mask.astype(np.float32), small)
    light = shrink((p.rgb @ LUMINANCE) * p.mask, small)
    sigma = 0.15 * p.side / small
    broad = ndimage.gaussian_filter(light, sigma) / np.maximum(ndimage.gaussian_filter(weight, sigma), 1e-3)
    mean = float(light.sum() / weight.sum())
    gain = (max(mean, 0.02) / np.maximum(broad, 0.02)) ** strength
    size = (gain.shape[1] * small * p.factor, gain.shape[0] * small * p.factor)
    gain = np.asarray(Image.fromarray(gain.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))[: rgb.shape[0], : rgb.shape[1]]
    return np.clip(rgb * gain[..., None] + 0.5, 0, 255).astype(np.uint8)


def enlarge(values: np.ndarray, factor: int, shape: tuple[int, int]) -> np.ndarray:
    """Coarse values, float32 0..1 (h, w) or (h, w, 3), as uint8 of the fine cut-out's shape."""
    picture = Image.fromarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8))
    if factor > 1:
        picture = picture.resize((values.shape[1] * factor, values.shape[0] * factor), Image.Resampling.BILINEAR)
    return np.asarray(picture)[: shape[0], : shape[1]]


def over(original: np.ndarray, colours: np.ndarray, weight: np.ndarray, factor: int) -> np.ndarray:
    """The fine original, uint8 (h, w, 3), where weight is 1, the coarse colours where it is 0."""
    shape = original.shape[:2]
    below, mask = Image.fromarray(enlarge(colours, factor, shape)), Image.fromarray(enlarge(weight, factor, shape))
    return np.asarray(Image.composite(Image.fromarray(original), below, mask))


def atlas(charts: list[np.ndarray], longest: int, *, exact: bool, nearest: bool = False) -> np.ndarray:
    """Charts of one size side by side, uint8; their longest side at most `longest`, or exactly that."""
    height, width = charts[0].shape[:2]
    scale = longest / max(height, width)
    if scale < 1 or exact:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        method = Image.Resampling.NEAREST if nearest else (Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)
        charts = [np.asarray(Image.fromarray(chart).resize(size, method)) for chart in charts]
    return np.ascontiguousarray(np.concatenate(charts, axis=1))
