"""The work grid: how large a cell is, and the field whose zero line is the outline (spec draft_engine.md 2.1, steps 3 to 5).

Lengths here are in pixels of a *coarse* cut-out (mask.shrink), a few to a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .mask import EIGHT, distance_inside, distance_to, nearest_false

CELLS_ACROSS = 8.0  # at least so many cells lie across the median width of a shape
FINEST = 256  # but never more than so many along its longest side
MARGIN_CELLS = 3
BLUR = 0.5  # cells; the spec's 0.6 costs small round bodies 1 % of their silhouette, 0.3 lets square corners alias


@dataclass(frozen=True)
class Field:
    """values: float64 (rows, columns), positive inside; its border is negative. Node (r, c) lies at origin + cell * (c, r).

    depth: float32 (h, w) in pixels, as the outline was in the end (rescued parts thickened). rescued: thin parts were thickened.
    """

    values: np.ndarray
    origin: tuple[float, float]
    cell: float
    depth: np.ndarray
    rescued: bool


def cell_size(depth: np.ndarray, mask: np.ndarray, longest: float, grid: int, *, fixed: bool) -> float:
    """Pixels to a cell: `grid` cells along the longest side, finer (unless fixed) where that leaves too few across a long thin shape.

    In a strip of width w the depth is spread evenly over 0..w/2, so its median is w/4. MEASURED: needed for swords and rockets, whose
    outlines otherwise miss the silhouette gate.
    """
    cell = longest / grid
    if fixed:
        return cell
    width = 4.0 * float(np.median(depth[mask]))
    return max(min(cell, width / CELLS_ACROSS), longest / max(FINEST, grid))


def sample_field(coverage: np.ndarray, mask: np.ndarray, depth: np.ndarray, threshold: float, cell: float) -> Field:
    """coverage float32, mask bool, depth float32 (h, w): the cut-out; cell: pixels."""
    values = ndimage.gaussian_filter(coverage, max(0.5, BLUR * cell), mode="constant", truncate=3.0)
    thin = _thin_parts(mask, depth, cell)
    if thin is not None:
        values = np.maximum(values, ndimage.gaussian_filter(thin.astype(np.float32), 0.3 * cell, mode="constant"))
        depth = distance_inside(mask | thin)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, ny = _nodes(rows[0], rows[-1] + 1, cell)
    x, nx = _nodes(columns[0], columns[-1] + 1, cell)
    grid = np.meshgrid(y + cell * np.arange(ny) - 0.5, x + cell * np.arange(nx) - 0.5, indexing="ij")
    field = ndimage.map_coordinates(values, grid, order=1, mode="constant").astype(float) - threshold
    field[np.abs(field) < 1e-6] = 1e-6
    for border in (field[0], field[-1], field[:, 0], field[:, -1]):
        border[:] = np.minimum(border, -1e-3)
    return Field(field, (x, y), cell, depth, thin is not None)


def _nodes(start: int, stop: int, cell: float) -> tuple[float, int]:
    """First node and number of nodes along one axis: the box and its margins, centred."""
    cells = int(np.ceil((stop - start) / cell)) + 2 * MARGIN_CELLS
    return (start + stop - cells * cell) / 2, cells + 1


def _thin_parts(mask: np.ndarray, depth: np.ndarray, cell: float) -> np.ndarray | None:
    """Parts too thin for the grid, grown to about 2.5 cells: bool (h, w), or None where there are none."""
    width = 1.25 * cell
    core = depth > width
    if core.any():
        near = nearest_false(~core)
        away = distance_to(near)
        thin = mask & (away > width + 0.5)
        labels, count = ndimage.label(thin, EIGHT)
        if not count:
            return None
        # What reaches less than two cells beyond the opened part is a plain corner.
        kept = np.zeros(count + 1, bool)
        kept[labels[thin & (away > width + 0.5 + 2 * cell)]] = True
        thin = kept[labels]
    else:
        thin = mask
    if not thin.any():
        return None
    ridge = thin & (depth >= ndimage.maximum_filter(depth, 3))
    near = nearest_false(~ridge)
    return distance_to(near) <= width
