"""The weight-free default: transparency, else the plain background, else GrabCut. The same picture and prompt give the same mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...contract.automask import border_mask
from ...contract.errors import MaskError
from ..cv import cv2, missing
from . import grabcut
from .prompt import Found, Prompt

NAME = "cascade"
LARGE = 1536  # pixels a side above which the flood works on a smaller copy
LEAST = 0.0005  # share of the picture below which nothing was found


@dataclass(frozen=True)
class Handle:
    """What is worked out once of a picture of `size` (H, W), and little of it: the picture itself isn't kept. flat: soft mask uint8 from alpha (H, W) or from
    a flood, then on at most LARGE pixels a side; None: neither can tell. small: what GrabCut works on."""

    size: tuple[int, int]
    small: grabcut.Small
    method: str = "grabcut"
    flat: np.ndarray | None = None


class Cascade:
    name = NAME
    parallel = True

    def unavailable(self) -> str:
        return missing()

    def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> Handle:
        size, small = (image.shape[0], image.shape[1]), grabcut.Small(image)
        if alpha is not None and alpha.min() < 10 and 0.01 <= (alpha >= 128).mean() <= 0.99:
            return Handle(size, small, "alpha", alpha)
        flood = _flood(image)
        return Handle(size, small) if flood is None else Handle(size, small, "border", flood)

    def predict(self, handle: Handle, prompt: Prompt) -> list[Found]:
        found = None if handle.flat is None else self._flat(handle, prompt)
        if found is None and not prompt.empty:
            small = grabcut.find(handle.small, prompt)
            found = None if small is None else Found(handle.small.grown(small), 0.7, "grabcut")
        enough = found is not None and (found.mask >= 128).mean() >= LEAST
        return [found] if found is not None and enough else []

    def _flat(self, handle: Handle, prompt: Prompt) -> Found | None:
        """The clicked pieces of alpha or flood. Where a piece was clicked both ways GrabCut parts it. None: these clicks are about something else."""
        assert handle.flat is not None
        score = 1.0 if handle.method == "alpha" else 0.95
        pieces, inside, outside = _clicked(handle, prompt)
        wanted, unwanted = inside - {0}, outside - {0}
        if inside and not wanted:
            return None
        mask = handle.flat
        if wanted:
            mask = mask & _table(wanted)[pieces]
        elif unwanted:
            mask = mask & ~_table(unwanted)[pieces]
        del pieces
        height, width = handle.size
        if mask.shape != handle.size:
            mask = np.asarray(cv2().resize(mask, (width, height), interpolation=cv2().INTER_LINEAR))
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            boxed = np.zeros_like(mask)
            boxed[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
            mask = boxed
        if wanted & unwanted:
            small = grabcut.find(handle.small, prompt, handle.small.shrunk(mask >= 128))
            return None if small is None else Found(np.minimum(handle.small.grown(small), mask), 0.7, "grabcut")
        return Found(mask, score, handle.method)


def _clicked(handle: Handle, prompt: Prompt) -> tuple[np.ndarray, set[int], set[int]]:
    """uint8 like `flat`: the number of each connected piece that was clicked, 0 elsewhere; and the numbers clicked as inside and as outside."""
    assert handle.flat is not None
    height, width = handle.flat.shape
    hard = (handle.flat >= 128).view(np.uint8)
    pieces = np.zeros((height + 2, width + 2), np.uint8)  # floodFill wants a rim
    clicked = {True: set[int](), False: set[int]()}
    for number, point in enumerate(prompt.points, start=1):
        row, column = point.y * height // handle.size[0], point.x * width // handle.size[1]
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        if hard[row, column] and not pieces[row + 1, column + 1]:
            how = 8 | cv2().FLOODFILL_MASK_ONLY | number << 8  # neighbours at corners too; nothing but `pieces` is written to
            cv2().floodFill(hard, pieces, (column, row), 0, 0, 0, how)
        clicked[point.inside].add(int(pieces[row + 1, column + 1]))
    return pieces[1:-1, 1:-1], clicked[True], clicked[False]


def _table(numbers: set[int]) -> np.ndarray:
    """uint8 (256): 255 for these pieces, 0 for all else."""
    found: np.ndarray = np.zeros(256, np.uint8)
    found[list(numbers)] = 255
    return found


def _flood(image: np.ndarray) -> np.ndarray | None:
    """What a plain background leaves over, uint8 (H, W) of at most LARGE pixels a side; None where the background isn't plain."""
    height, width = image.shape[:2]
    scale = min(1.0, LARGE / max(height, width))
    copy = image if scale == 1 else cv2().resize(image, (round(width * scale), round(height * scale)), interpolation=cv2().INTER_AREA)
    try:
        found = border_mask(copy).astype(np.uint8) * 255
    except MaskError:
        return None
    return found if LEAST <= (found >= 128).mean() <= 0.99 else None
