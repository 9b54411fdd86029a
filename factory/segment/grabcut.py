"""GrabCut (Rother, Kolmogorov, Blake 2004; OpenCV's) around clicks or in a box, on a small copy and in the part of it that matters.

What OpenCV needs is a label for each pixel. A click alone gives no outline, so its surroundings do: probably the object inside a disc of the chosen
size, probably not up to 2.2 times its radius, surely not beyond. A box: probably the object inside, surely not outside. `auto` tries all sizes and takes
the outline that follows the picture's edges best: on our examples it finds what the best size finds (benchmarks/segment.py --truth).
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from ..cv import cv2
from .grow import grown
from .prompt import Prompt

SIDE = 208  # pixels of the longer side of the small copy; time grows faster than the area, and 384 finds hardly more
RADIUS = {"s": 0.1, "m": 0.16, "l": 0.3}  # of the disc around a click, as a share of the small copy's longer side
REACH = 2.2  # how far beyond the disc the object may go
SURE = 3  # pixels around a click that are what it says
ROUNDS = 2
SHARP = 75  # percentile of the picture's gradients from which on there is an edge
_lock = threading.Lock()  # OpenCV's random numbers are global


class Small:
    """A picture made small, once for many clicks. image: uint8 (H, W, 3)."""

    def __init__(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        self.scale = min(1.0, SIDE / max(height, width))
        self.size = (max(8, round(width * self.scale)), max(8, round(height * self.scale)))
        self.image = np.ascontiguousarray(cv2().resize(image, self.size, interpolation=cv2().INTER_AREA)[..., ::-1])  # BGR
        self.full = (height, width)
        self._edges: np.ndarray | None = None

    @property
    def edges(self) -> np.ndarray:
        """Bool of the small copy: on or beside one of the picture's stronger edges, in colour as the eye sees it (CIELAB)."""
        if self._edges is None:
            colours = cv2().GaussianBlur(cv2().cvtColor(self.image, cv2().COLOR_BGR2LAB).astype(np.float32), (0, 0), 1.0)
            steps = (cv2().Sobel(colours, cv2().CV_32F, *axis) for axis in ((1, 0), (0, 1)))
            strength = cv2().dilate(np.sqrt(sum((step**2).sum(axis=2) for step in steps)), np.ones((3, 3), np.uint8))
            self._edges = strength > max(1.0, float(np.percentile(strength, SHARP)))
        return self._edges

    def shrunk(self, mask: np.ndarray) -> np.ndarray:
        """Bool (H, W) of the picture -> bool of the small copy."""
        return np.asarray(cv2().resize(mask.astype(np.uint8) * 255, self.size, interpolation=cv2().INTER_AREA)) >= 128

    def grown(self, mask: np.ndarray) -> np.ndarray:
        """Bool of the small copy -> uint8 (H, W) of the picture, its edge smooth."""
        sigma = 0.6 / self.scale
        sharp = 2.5 * sigma  # an edge about one pixel wide, whatever the scale was
        return grown(mask, self.full, lambda large: ((large - 0.5) * sharp + 0.5) * 255, sigma if self.scale < 1 else 0.0)


def find(small: Small, prompt: Prompt, allowed: np.ndarray | None = None) -> np.ndarray | None:
    """Bool of the small copy, or None where nothing is left. allowed: bool of the small copy, to be parted between the two kinds of clicks; what lies
    outside is surely not the object."""
    if prompt.size == "auto":
        sizes = RADIUS if prompt.box is None and allowed is None else ("m",)
        tries = [find(small, replace(prompt, size=size), allowed) for size in sizes]  # type: ignore[arg-type]
        return max((one for one in tries if one is not None), key=lambda one: _fit(small, one), default=None)
    labels = _labels(small, prompt) if allowed is None else _parting(small, prompt, allowed)
    for point in prompt.points:
        column, row = _place(small, point.x, point.y)
        label = cv2().GC_FGD if point.inside else cv2().GC_BGD
        labels[max(0, row - SURE) : row + SURE + 1, max(0, column - SURE) : column + SURE + 1] = label
    found = _cut(small.image, labels)
    if found is None:
        return None
    return _connected(found, [_place(small, p.x, p.y) for p in prompt.points if p.inside])


def _fit(small: Small, found: np.ndarray) -> float:
    """How much of an outline lies on edges of the picture, less how much of the picture's border it takes."""
    around = np.ones((3, 3), np.uint8)
    mask = found.astype(np.uint8)
    rim = cv2().dilate(mask, around) != cv2().erode(mask, around)
    border = np.concatenate([found[1], found[-2], found[:, 1], found[:, -2]])
    return float(small.edges[rim].mean() if rim.any() else 0.0) - 2 * float(border.mean())


def _labels(small: Small, prompt: Prompt) -> np.ndarray:
    width, height = small.size
    labels = np.full((height, width), cv2().GC_BGD, np.uint8)
    if prompt.box is not None:
        x0, y0 = _place(small, prompt.box[0], prompt.box[1])
        x1, y1 = _place(small, prompt.box[2] - 1, prompt.box[3] - 1)
        labels[y0 : y1 + 1, x0 : x1 + 1] = cv2().GC_PR_FGD
        return labels
    radius = RADIUS[prompt.size] * max(small.size)
    nearest = _distance(small, prompt, inside=True)
    labels[nearest <= radius * REACH] = cv2().GC_PR_BGD
    ring = max(1, round(0.01 * min(small.size)))
    labels[:ring], labels[-ring:], labels[:, :ring], labels[:, -ring:] = (cv2().GC_BGD,) * 4
    labels[nearest <= radius] = cv2().GC_PR_FGD
    return labels


def _parting(small: Small, prompt: Prompt, allowed: np.ndarray) -> np.ndarray:
    """Each pixel probably belongs to the nearer click."""
    ours = _distance(small, prompt, inside=True) <= _distance(small, prompt, inside=False)
    labels: np.ndarray = np.where(ours, cv2().GC_PR_FGD, cv2().GC_PR_BGD).astype(np.uint8)
    labels[~allowed] = cv2().GC_BGD
    return labels


def _distance(small: Small, prompt: Prompt, *, inside: bool) -> np.ndarray:
    """float64 (h, w): pixels of the small copy to the nearest click of this kind; infinite without one."""
    rows, columns = np.ogrid[: small.size[1], : small.size[0]]
    nearest = np.full((small.size[1], small.size[0]), np.inf)
    for point in prompt.points:
        if point.inside == inside:
            column, row = _place(small, point.x, point.y)
            nearest = np.minimum(nearest, np.hypot(rows - row, columns - column))
    return nearest


def _cut(image: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """GrabCut in the part where the answer is open, with a margin of sure background that tells how that looks."""
    rows, columns = np.flatnonzero((labels != cv2().GC_BGD).any(axis=1)), np.flatnonzero((labels != cv2().GC_BGD).any(axis=0))
    if not len(rows):
        return None
    margin = max(4, round(0.12 * max(rows[-1] - rows[0], columns[-1] - columns[0])))
    part = np.s_[max(0, rows[0] - margin) : rows[-1] + 1 + margin, max(0, columns[0] - margin) : columns[-1] + 1 + margin]
    inner = np.ascontiguousarray(labels[part])
    if not (np.isin(inner, (cv2().GC_BGD, cv2().GC_PR_BGD)).any() and np.isin(inner, (cv2().GC_FGD, cv2().GC_PR_FGD)).any()):
        return np.isin(labels, (cv2().GC_FGD, cv2().GC_PR_FGD))  # nothing to tell apart
    with _lock:
        cv2().setRNGSeed(0)
        try:
            cv2().grabCut(
                np.ascontiguousarray(image[part]), inner, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2().GC_INIT_WITH_MASK
            )
        except cv2().error:
            return None
    found: np.ndarray = np.zeros(labels.shape, bool)
    found[part] = np.isin(inner, (cv2().GC_FGD, cv2().GC_PR_FGD))
    return found if found.any() else None


def _connected(found: np.ndarray, clicks: list[tuple[int, int]]) -> np.ndarray | None:
    """The pieces that were clicked; without clicks those that aren't crumbs. Holes smaller than a hundredth of it are filled."""
    count, parts = cv2().connectedComponents(found.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    areas = np.bincount(parts.ravel(), minlength=count)
    areas[0] = 0
    wanted = {int(parts[row, column]) for column, row in clicks} - {0}
    kept = np.isin(parts, list(wanted) or np.flatnonzero(areas >= areas.max() / 20))
    count, holes = cv2().connectedComponents((~kept).astype(np.uint8), connectivity=4)
    areas = np.bincount(holes.ravel(), minlength=count)
    small = np.flatnonzero(areas <= kept.sum() / 100)
    return np.asarray(kept | np.isin(holes, small[small > 0]))


def _place(small: Small, x: int, y: int) -> tuple[int, int]:
    """A pixel of the picture -> column and row of the small copy."""
    width, height = small.size
    return (
        min(width - 1, max(0, int((x + 0.5) * width / small.full[1]))),
        min(height - 1, max(0, int((y + 0.5) * height / small.full[0]))),
    )
