"""Between ComfyUI's pictures and ours: IMAGE is float (B, H, W, C) in 0..1, MASK is float (N, H, W); a request takes uint8 and bool.

Polarity is always said, never guessed: core's Load Image gives 1 where the picture is *transparent*, segmentation nodes give 1 where the
*object* is. And a picture without alpha comes out of Load Image with a blank mask of 64x64, whatever the picture's size.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..contract.errors import EmptyMaskError, ImageError, MaskError, OptionError

WHITE, BLACK = "white is the object", "black is the object"
POLARITIES = [WHITE, BLACK]
_BLANK = (64, 64)  # core's stand-in for a missing alpha channel
log = logging.getLogger("sam3d")


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask file -> float32 (H, W) in 0..1 of the picture's size: its alpha where that says something, else its brightness."""
    from ..contract.images import read_image  # in functions: ComfyUI's start doesn't pay for them

    found = read_image(path)
    values = found.alpha if found.alpha is not None else found.image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    one: np.ndarray = resized(np.asarray(values, np.float32)[None] / 255, size, path.name)[0]
    return one


def resized(masks: np.ndarray, size: tuple[int, int], what: str = "mask") -> np.ndarray:
    """float32 (N, h, w) -> (N, H, W), bilinear. A change of proportions is done too, as core does it, but told in the log."""
    height, width = size
    if masks.shape[1:] == size:
        return masks
    from PIL import Image

    if abs(masks.shape[2] * height - masks.shape[1] * width) > 0.02 * masks.shape[1] * width:
        log.warning("%s: %dx%d is stretched to the picture's %dx%d", what, masks.shape[2], masks.shape[1], width, height)
    return np.stack([np.asarray(Image.fromarray(m).resize((width, height), Image.Resampling.BILINEAR)) for m in masks])


def check_masks(soft: np.ndarray) -> np.ndarray:
    """float32 (N, H, W), 1 where the object is -> bool. Raises EmptyMaskError or FullMaskError."""
    from ..contract.masks import parse_masks

    return parse_masks(soft >= 0.5, soft.shape[1:], kind="bitmap")


def objects(image: np.ndarray, mask: np.ndarray, polarity: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """IMAGE (B, H, W, C) and MASK (N, h, w) -> for each request: image uint8 (H, W, 3), masks bool (n, H, W), alpha uint8 (n, H, W) or None.

    B = 1: one request of N objects. B = N: N requests, picture by picture. Raises an InputError for anything else, and for masks that
    select nothing or everything.
    """
    if image.ndim == 3:
        image = image[None]
    if mask.ndim == 2:
        mask = mask[None]
    if image.ndim != 4 or image.shape[3] not in (1, 3, 4) or 0 in image.shape:
        raise ImageError(f"The image has the shape {image.shape}, not (batch, height, width, 3).", "Link an IMAGE output.")
    if mask.ndim != 3 or 0 in mask.shape:
        raise MaskError(f"The mask has the shape {mask.shape}, not (count, height, width).", "Link a MASK output.")
    if not (np.isfinite(image).all() and np.isfinite(mask).all()):
        raise MaskError("The image or the mask holds values that are no numbers (NaN).", "Look at the node that makes it.")
    if len(image) not in (1, len(mask)):
        raise OptionError(
            f"{len(image)} pictures and {len(mask)} masks don't fit together.",
            "Give one picture with any number of masks, or as many pictures as masks.",
        )
    blank = mask.shape[1:] == _BLANK and not mask.any()
    if blank and image.shape[1:3] != _BLANK:
        raise EmptyMaskError(
            "The mask is the empty one that Load Image gives for a picture without an alpha channel.",
            "Use a picture with a transparent background, or link the mask of a segmentation node or of SAM3D Load Image & Masks.",
        )
    size = (image.shape[1], image.shape[2])
    soft = resized(np.clip(mask, 0, 1), size)
    if polarity == BLACK:
        soft = 1 - soft
    hard = check_masks(soft)
    alpha = np.rint(soft * 255).astype(np.uint8)
    colours = np.rint(np.clip(np.broadcast_to(image, (*image.shape[:3], 3)) if image.shape[3] == 1 else image[..., :3], 0, 1) * 255)
    pictures = np.ascontiguousarray(colours.astype(np.uint8))
    if len(image) == 1:
        return [(pictures[0], hard, _if_soft(alpha))]
    return [(pictures[i], hard[i : i + 1], _if_soft(alpha[i : i + 1])) for i in range(len(image))]


def _if_soft(alpha: np.ndarray) -> np.ndarray | None:
    """The alpha where it says more than the mask does."""
    return alpha if ((alpha > 0) & (alpha < 255)).any() else None
