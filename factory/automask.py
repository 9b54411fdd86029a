"""Masks found without weights: border (a plain background) and grabcut (a photograph). Others are named, and refused until they are there."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..contract.errors import MaskError, OptionError, SetupError

METHODS = ("border", "grabcut")
_LATER = ("rembg", "sam")
_WORKING_SIDE = 512  # pixels; GrabCut's time goes with the area, its quality hardly does
_RING = 0.03  # share of the shorter side that is surely background
_PAD = 0.08  # share of each side outside the box where the object probably isn't
_lock = threading.Lock()  # OpenCV's random numbers are global


def check_method(name: str | None) -> None:
    """Raises OptionError for an unknown method, SetupError for one that isn't installed."""
    if name is None or name == "border":
        return
    if name in _LATER:
        raise SetupError(f"--auto-mask {name} is not installed.", "Use --auto-mask border or grabcut, or give a mask.")
    if name not in METHODS:
        raise OptionError(f"There is no --auto-mask {name}.", f"Choose among: {', '.join(METHODS)}.")
    _cv2()


def find(image: np.ndarray, method: str) -> np.ndarray:
    """The object of a picture, uint8 (H, W, 3) sRGB -> bool (H, W). The same picture gives the same mask.

    Raises MaskError where the method finds nothing that can be right, SetupError where it isn't installed.
    """
    check_method(method)
    if method == "border":
        from ..contract.automask import border_mask

        return border_mask(image)
    return _grabcut(image)


def _grabcut(image: np.ndarray) -> np.ndarray:
    """GrabCut on a small copy. Prior: a ring at the border is background, the middle is probably the object."""
    from PIL import Image

    cv2 = _cv2()
    height, width = image.shape[:2]
    scale = min(1.0, _WORKING_SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    labels = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
    pad_y, pad_x = round(_PAD * size[1]), round(_PAD * size[0])
    labels[pad_y : size[1] - pad_y, pad_x : size[0] - pad_x] = cv2.GC_PR_FGD
    ring = max(1, round(_RING * min(size)))
    labels[:ring], labels[-ring:], labels[:, :ring], labels[:, -ring:] = (cv2.GC_BGD,) * 4
    with _lock:
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(
                np.ascontiguousarray(small[..., ::-1]), labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK
            )
        except cv2.error as problem:
            raise MaskError("GrabCut found no object in this picture.", "Give a mask.", detail=str(problem)) from None
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    count, parts = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)
    if count > 1:  # crumbs: whatever is smaller than a twentieth of the largest part
        areas = np.bincount(parts.ravel())[1:]
        found = np.isin(parts, 1 + np.flatnonzero(areas >= np.max(areas) / 20))
    if not 0.001 <= found.mean() <= 0.99:
        raise MaskError("GrabCut found no object in this picture.", "Give a mask.")
    large = Image.fromarray(found.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large) >= 128


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise SetupError(
            "--auto-mask grabcut needs OpenCV, which is not installed.",
            "Add it with: python install.py --layers server   (or use --auto-mask border)",
        ) from None
    return cv2
