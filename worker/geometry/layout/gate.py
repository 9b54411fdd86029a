"""Whether a mask shows the whole object, so that its outline says where the object ends (spec: postprocess.md section 8 step 1). numpy and scipy.

Cut off by the picture's border, covered by something nearer or in pieces: then a silhouette fitted to the mask would be pulled to a wrong place.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Array = np.ndarray

SPECK = 25  # pixels: smaller components of the mask are dropped first
BORDER = 5  # pixels
RING = 2  # pixels to each side of the outline, in steps of the 3x3 cross
REACH = 5  # pixels: the side of the window in which something nearer is looked for
STEP = 0.3  # metres that it must be nearer
COVERED = 10  # pixels of the inner ring that may lie behind something nearer
HOLES = 100  # pixels


def clean_mask(mask: Array) -> Array:
    """mask: bool (H, W) -> the same without components of fewer than SPECK pixels; neighbours share a side."""
    label, count = ndimage.label(mask)
    size = np.bincount(label.ravel(), minlength=count + 1)
    size[0] = 0
    kept: Array = (size >= SPECK)[label]
    return kept


def occlusion(mask: Array, depth: Array) -> str:
    """Why the outline can't be trusted, in a few words; empty where it can. mask: bool (H, W); depth: (H, W), NaN where unknown."""
    mask = clean_mask(mask)
    if not mask.any():
        return "the mask is empty"
    inner = mask[BORDER:-BORDER, BORDER:-BORDER]
    if inner.sum() < mask.sum():
        return "the mask touches the picture's border"
    if covered(mask, depth) > COVERED:
        return "something nearer covers a part of the object"
    _, pieces = ndimage.label(mask)
    if pieces > 1:
        return "the mask is in several pieces"
    if ndimage.binary_fill_holes(mask).sum() - mask.sum() >= HOLES:
        return "the mask has holes"
    return ""


def covered(mask: Array, depth: Array) -> int:
    """How many pixels just inside the outline have something just outside, close by, that is nearer by more than STEP."""
    inside = mask & ~ndimage.binary_erosion(mask, iterations=RING)
    outside = ndimage.binary_dilation(mask, iterations=RING) & ~mask
    beside = np.where(outside & np.isfinite(depth), depth, np.inf)
    nearest = ndimage.minimum_filter(beside, REACH, mode="constant", cval=np.inf)
    with np.errstate(invalid="ignore"):
        return int((inside & (depth - nearest > STEP)).sum())
