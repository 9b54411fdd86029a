"""A mask for a picture on a plain background, without a model: what a flood from the border doesn't reach is the object."""

from __future__ import annotations

import numpy as np

from .errors import ImageError, MaskError

TOLERANCE = 12  # of 255, in each channel, around the border's median colour
UNIFORM = 0.9  # share of the border's pixels that must lie within it
_HINT = "Give a mask, or a picture with alpha."


def border_mask(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> bool (H, W): all but the plain background that is connected (4-connected) to the border.

    Regions of the background's colour that the object encloses stay part of the mask: they may be highlights as well as holes.
    Raises MaskError where the border isn't of one colour, or nothing else is in the picture.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError("The picture must be a uint8 array of shape (H, W, 3).", "Convert it first.")
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    colour = np.median(border, axis=0)
    low, high = np.ceil(np.maximum(colour - TOLERANCE, 0)).astype(np.uint8), np.floor(np.minimum(colour + TOLERANCE, 255)).astype(np.uint8)
    plain = np.ones(image.shape[:2], bool)
    for channel in range(3):
        plain &= (image[..., channel] >= low[channel]) & (image[..., channel] <= high[channel])
    edge = np.concatenate([plain[0], plain[-1], plain[1:-1, 0], plain[1:-1, -1]])
    if edge.mean() < UNIFORM:
        raise MaskError(
            f"The picture's border isn't of one colour: only {edge.mean():.0%} of it is alike, {UNIFORM:.0%} are needed.", _HINT
        )
    mask = ~reached_from_border(plain)
    if not mask.any():
        raise MaskError("The whole picture is of one colour: there is no object to find.", _HINT)
    return mask


def reached_from_border(open_: np.ndarray) -> np.ndarray:
    """Bool (H, W) -> bool (H, W): the pixels of `open_` that a 4-connected path inside it joins with the picture's border.

    Each row's runs of open pixels are one node, runs that touch in neighbouring rows are joined, and so are runs at the border with
    node 0, the outside. Every round hangs each tree below its smallest neighbour and flattens all; few rounds do, whatever the shape.
    """
    begins = open_.copy()
    begins[:, 1:] &= ~open_[:, :-1]
    run: np.ndarray = np.cumsum(begins, dtype=np.int32).reshape(open_.shape)  # the number, from 1, of the run that an open pixel belongs to
    run[~open_] = 0
    touching = open_[1:] & open_[:-1]
    touching[:, 1:] &= ~(touching[:, :-1] & ~begins[1:, 1:] & ~begins[:-1, 1:])  # once for each pair of runs
    at_border = np.unique(np.concatenate([run[0], run[-1], run[:, 0], run[:, -1]]))
    one = np.concatenate([run[:-1][touching], at_border])
    other = np.concatenate([run[1:][touching], np.zeros_like(at_border)])
    parent: np.ndarray = np.arange(int(run.max(initial=0)) + 1, dtype=np.int32)
    while True:
        one, other = parent[one], parent[other]
        apart = one != other
        if not apart.any():
            break
        one, other = one[apart], other[apart]
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(flat := parent[parent], parent):
            parent = flat
    outside: np.ndarray = parent == 0
    outside[0] = False  # node 0 is also the number of the pixels that aren't open
    found: np.ndarray = outside[run]
    return found
