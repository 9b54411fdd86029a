"""The weight-free default: transparency, else the plain background, else GrabCut. The same picture and prompt give the same mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...contract.automask import border_mask
from ...contract.errors import MaskError
from ..cv import cv2, missing
from . import grabcut
from .prompt import Found, Prompt

NAME = "cascade"
LARGE = 1536  # pixels a side above which the flood works on a smaller copy
LEAST = 0.0005  # share of the picture below which nothing was found


@dataclass
class Handle:
    """A picture with what is worked out once. flat: soft mask uint8 (H, W) from alpha or flood, with the number of its piece for each pixel; None: neither can tell."""

    image: np.ndarray
    method: str = "grabcut"
    flat: np.ndarray | None = None
    pieces: np.ndarray | None = None
    _small: list[grabcut.Small] = field(default_factory=list)

    @property
    def small(self) -> grabcut.Small:
        if not self._small:
            self._small.append(grabcut.Small(self.image))
        return self._small[0]


class Cascade:
    name = NAME

    def unavailable(self) -> str:
        return missing()

    def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> Handle:
        handle = Handle(image)
        if alpha is not None and alpha.min() < 10 and 0.01 <= (alpha >= 128).mean() <= 0.99:
            handle.method, handle.flat = "alpha", alpha
        else:
            flood = _flood(image)
            if flood is not None:
                handle.method, handle.flat = "border", flood
        if handle.flat is not None:
            handle.pieces = cv2().connectedComponents((handle.flat >= 128).astype(np.uint8), connectivity=8)[1]
        return handle

    def predict(self, handle: Handle, prompt: Prompt) -> list[Found]:
        found = None if handle.flat is None else self._flat(handle, prompt)
        if found is None and not prompt.empty:
            small = grabcut.find(handle.small, prompt)
            found = None if small is None else Found(handle.small.grown(small), 0.7, "grabcut")
        enough = found is not None and (found.mask >= 128).mean() >= LEAST
        return [found] if found is not None and enough else []

    def _flat(self, handle: Handle, prompt: Prompt) -> Found | None:
        """The clicked pieces of alpha or flood. Where a piece was clicked both ways GrabCut parts it. None: these clicks are about something else."""
        assert handle.flat is not None and handle.pieces is not None
        score = 1.0 if handle.method == "alpha" else 0.95
        mask = handle.flat
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            inside = np.zeros(mask.shape, bool)
            inside[y0:y1, x0:x1] = True
            mask = np.where(inside, mask, 0).astype(np.uint8)
        height, width = handle.pieces.shape
        pieces = {True: set[int](), False: set[int]()}
        for point in prompt.points:
            pieces[point.inside].add(int(handle.pieces[min(max(point.y, 0), height - 1), min(max(point.x, 0), width - 1)]))
        wanted, unwanted = pieces[True] - {0}, pieces[False] - {0}
        if pieces[True] and not wanted:
            return None
        if wanted & unwanted:
            allowed = np.isin(handle.pieces, list(wanted)) & (mask >= 128)
            small = grabcut.find(handle.small, prompt, handle.small.shrunk(allowed))
            parted = None if small is None else np.minimum(handle.small.grown(small), np.where(allowed, mask, 0).astype(np.uint8))
            return None if parted is None else Found(parted, 0.7, "grabcut")
        if wanted:
            mask = np.where(np.isin(handle.pieces, list(wanted)), mask, 0).astype(np.uint8)
        elif unwanted:
            mask = np.where(np.isin(handle.pieces, list(unwanted)), 0, mask).astype(np.uint8)
        return Found(mask, score, handle.method)


def _flood(image: np.ndarray) -> np.ndarray | None:
    """What a plain background leaves over, uint8 (H, W); None where the background isn't plain. Large pictures are looked at in a smaller copy."""
    height, width = image.shape[:2]
    scale = min(1.0, LARGE / max(height, width))
    copy = image if scale == 1 else cv2().resize(image, (round(width * scale), round(height * scale)), interpolation=cv2().INTER_AREA)
    try:
        found = border_mask(copy).astype(np.uint8) * 255
    except MaskError:
        return None
    if scale < 1:
        found = cv2().resize(found, (width, height), interpolation=cv2().INTER_LINEAR)
    return found if LEAST <= (found >= 128).mean() <= 0.99 else None
