"""Polygons to pixels, by COCO's rule, so that a mask drawn here equals the one that pycocotools draws from the same points.

The rule (cocodataset/cocoapi, rleFrPoly): vertices are rounded to a grid of fifths of a pixel. Each edge is walked in unit
steps along its longer axis; where the walk passes the middle of a pixel column, the column is toggled from the row below the
crossing on. All toggles together, in column order, are the runs of the mask - so an outline that crosses itself is filled
by parity, and one that leaves the picture is cut at its border.

pycocotools walks every step. Here the crossings are computed directly, one for each edge and pixel column, for all edges
at once; the same rounding is used, so the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .errors import MaskError

FINE = 5  # grid steps per pixel
FURTHEST = 1e6  # pixels from the origin; beyond it coordinates are no pixels (and pycocotools overflows)
A_RING = 700  # crossings that take as long as a ring does by itself
_AT_ONCE = 1 << 21


class Budget:
    """How much work outlines may be, of one call together. most: bytes of all its masks, one a pixel. They may touch four times as many pixels, and cross a
    64th as many columns: for the job server's 320 megapixels that is a matter of seconds, whatever somebody makes up."""

    def __init__(self, most: int) -> None:
        self._pixels, self._crossings = 4 * most, most // 64

    def spend(self, *, pixels: int = 0, crossings: int = 0) -> None:
        """Raises MaskError where nothing is left."""
        self._pixels -= pixels
        self._crossings -= crossings
        if self._pixels < 0 or self._crossings < 0:
            raise MaskError("The outlines are too many, or too intricate.", "Simplify them, give fewer at once, or give bitmaps or RLE.")


def fill_rings(rings: Iterable[np.ndarray], height: int, width: int, budget: Budget) -> np.ndarray:
    """The union of closed outlines -> bool (H, W). Each: (K, 2) float64, x then y in pixels, K >= 3; the last point joins the first.

    Raises MaskError for coordinates that aren't finite, or beyond any picture, and where the budget is spent.
    """
    columns = np.zeros((width, height), bool)
    for points in rings:
        if not np.isfinite(points).all() or np.abs(points).max(initial=0) > FURTHEST:
            raise MaskError(f"A polygon has a coordinate that is no number, or beyond {FURTHEST:g} pixels.", "Give pixel coordinates.")
        places, counts = np.unique(_toggles(points, height, width, budget), return_counts=True)
        edges = places[counts % 2 == 1]  # two toggles of one place cancel
        if not len(edges):
            continue
        first, end = int(edges[0]) // height, -(-int(edges[-1]) // height)  # columns; all else stays as it is
        budget.spend(pixels=(end - first) * height)
        runs = np.diff(np.concatenate(([first * height], edges, [end * height])))
        columns[first:end] |= np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(-1, height)
    mask: np.ndarray = columns.T
    return mask


def _toggles(points: np.ndarray, height: int, width: int, budget: Budget) -> np.ndarray:
    """Where the mask changes: indices into the pixels in column order, 0 to height * width."""
    grid = np.trunc(FINE * points + 0.5).astype(np.int64)
    x0, y0 = grid.T
    x1, y1 = np.roll(grid, -1, axis=0).T
    steep = np.abs(x1 - x0) < np.abs(y1 - y0)
    swap = np.where(steep, y0 > y1, x0 > x1)  # every edge runs towards growing values of its longer axis
    x0, x1, y0, y1 = np.where(swap, x1, x0), np.where(swap, x0, x1), np.where(swap, y1, y0), np.where(swap, y0, y1)
    # Pixel column k is crossed between the grid lines 5k + 2 and 5k + 3.
    low, high = np.minimum(x0, x1), np.maximum(x0, x1)
    first = np.maximum(-((2 - low) // FINE), 0)
    last = np.minimum((high - 3) // FINE, width - 1)
    many = np.maximum(last - first + 1, 0)
    budget.spend(crossings=int(many.sum()) + A_RING)
    ends = np.cumsum(many)
    found, start = [np.zeros(0, np.int64)], 0
    while start < len(points):  # in batches, to bound the memory
        before = ends[start] - many[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, "right")))
        part = slice(start, stop)
        edge = np.repeat(np.arange(start, stop), many[part])
        column = first[edge] + np.arange(len(edge)) - (ends[edge] - many[edge] - before)
        found.append(column * height + _rows(edge, FINE * column + 2, x0, y0, x1, y1, steep, height))
        start = stop
    return np.concatenate(found)


def _rows(
    edge: np.ndarray, line: np.ndarray, x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray, steep: np.ndarray, height: int
) -> np.ndarray:
    """The pixel row, 0 to height, from which each crossing of an edge with the gap (line, line + 1) toggles."""
    x0, y0, x1, y1, steep = x0[edge], y0[edge], x1[edge], y1[edge], steep[edge]
    across, down = x1 - x0, y1 - y0
    with np.errstate(divide="ignore", invalid="ignore"):  # each quotient is used only where its divisor isn't zero
        slope = np.where(steep, across / down, down / across)

    # A flat edge: y at both ends of the gap; the upper one counts.
    step = line - x0
    here, there = (np.trunc(y0 + slope * (step + t) + 0.5) for t in (0, 1))
    flat_row = np.minimum(here, there)

    # A steep edge: the last step on the near side of the gap. Its estimate is set right by the walk's own rounding.
    with np.errstate(divide="ignore", invalid="ignore"):
        guess = np.floor(np.where(steep, (line + 0.5 - x0) / slope, 0))

    def near(t: np.ndarray) -> np.ndarray:
        x = np.trunc(x0 + slope * t + 0.5)
        found: np.ndarray = np.where(slope > 0, x <= line, x > line)
        return found

    guess = np.where(steep, np.clip(guess, 0, np.maximum(down - 1, 0)), 0)
    for _ in range(2):
        guess = np.where(steep & ~near(guess), guess - 1, guess)
        guess = np.where(steep & near(guess + 1) & (guess < down - 1), guess + 1, guess)
    y = np.where(steep, y0 + guess, flat_row).astype(np.int64)
    rows: np.ndarray = np.clip((y + 2) // FINE, 0, height)
    return rows
