"""Charts packed into a texture: each is a rectangle, all at one scale, as large as they fit.

A skyline takes the highest ones one by one; the many small ones behind them go into strips first, side by side, and the strips are packed
like charts. So thousands of charts take hardly longer than a hundred.
"""

from __future__ import annotations

import numpy as np

from ....contract.errors import EngineError

SEARCH = 9  # halvings of the interval that the scale is looked for in
SINGLE = 160  # charts that are placed one by one, the highest ones
STRIP = 4  # of the texture's width, one part is as wide as a strip of others
FILLED = 0.8  # of a texture by the charts' rectangles, about


def packed(flat: np.ndarray, charts: np.ndarray, size: int, padding: int) -> np.ndarray:
    """Corners (F, 3, 2) in metres, each chart for itself -> UVs (F, 3, 2) float32 of a texture of size x size texels.

    charts int64 (F,): every number from 0 on is there. At least `padding` texels between two, fewer where there is no room for it.
    Raises EngineError where the charts don't fit at all.
    """
    low, metres = _rectangles(flat, charts)
    while True:
        least, most = 0.0, size / max(float(metres.max()), np.sqrt(float(metres.prod(axis=1).sum())), 1e-30)
        best = _placed(metres * least, size, padding)
        if best is not None or padding == 0:
            break
        padding //= 2
    if best is None:
        raise EngineError(
            f"{len(low)} charts don't fit into a texture of {size} texels.", "Choose a larger texture, or smooth and decimate the mesh."
        )
    for _ in range(SEARCH):
        middle = (least + most) / 2
        places = _placed(metres * middle, size, padding)
        if places is None:
            most = middle
        else:
            least, best = middle, places
    return (((flat - low[charts][:, None]) * least + best[charts][:, None]) / size).astype(np.float32)


def likely_scale(flat: np.ndarray, charts: np.ndarray, size: int) -> float:
    """Texels to the metre that `packed` will come to, about."""
    _, metres = _rectangles(flat, charts)
    return size / max(float(metres.max()), np.sqrt(float(metres.prod(axis=1).sum()) / FILLED), 1e-30)


def loose(flat: np.ndarray, charts: np.ndarray, scale: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Charts, any numbers, at a given scale beside each other in a picture that is as large as it takes -> UVs as from `packed`, (height, width)."""
    charts = np.unique(charts, return_inverse=True)[1]
    low, metres = _rectangles(flat, charts)
    outer = np.ceil(metres * scale).astype(np.int64) + 1
    order = np.lexsort((-outer[:, 0], -outer[:, 1]))
    across, strip, sizes = _strips(outer[order], int(np.sqrt(outer.prod(axis=1).sum())))
    down = np.cumsum(sizes[:, 1]) - sizes[:, 1]
    places = np.zeros((len(outer), 2))
    places[order] = np.stack([across, down[strip]], axis=1)
    shape = int(sizes[:, 1].sum()), int(sizes[:, 0].max())
    texels = (flat - low[charts][:, None]) * scale + places[charts][:, None] + 0.5
    return (texels / (shape[1], shape[0])).astype(np.float32), shape


def _rectangles(flat: np.ndarray, charts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each chart's low corner and its size, (C, 2)."""
    order = np.argsort(charts, kind="stable")
    begin = 3 * np.searchsorted(charts[order], np.arange(charts.max() + 1))
    points = flat[order].reshape(-1, 2)
    low = np.minimum.reduceat(points, begin, axis=0)
    return low, np.maximum.reduceat(points, begin, axis=0) - low


def _placed(texels: np.ndarray, size: int, padding: int) -> np.ndarray | None:
    """Rectangles (C, 2), width and height -> where their low corners go, (C, 2); None where they don't fit."""
    outer = np.ceil(texels).astype(np.int64) + 1 + padding
    if outer.max() > size or int(outer.prod(axis=1).sum()) > size * size:
        return None
    order = np.lexsort((-outer[:, 0], -outer[:, 1]))
    single, rest = order[:SINGLE], order[SINGLE:]
    across, strip, sizes = _strips(outer[rest], size // STRIP)
    found = _skyline(np.concatenate([outer[single], sizes]), size)
    if found is None:
        return None
    places = np.zeros((len(texels), 2))
    places[single] = found[: len(single)]
    places[rest] = found[len(single) :][strip]
    places[rest, 0] += across
    return places + (padding + 1) / 2


def _strips(outer: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rectangles int64 (C, 2), the highest first, side by side in strips of at most `width`, or of one rectangle -> each one's place along
    its strip (C,), its strip (C,), the strips' sizes (S, 2)."""
    ends = np.cumsum(outer[:, 0])
    firsts, at = [], 0
    while at < len(outer):
        firsts.append(at)
        at = max(at + 1, int(np.searchsorted(ends, ends[at] - outer[at, 0] + width, side="right")))
    first = np.array(firsts, np.int64)
    strip = np.repeat(np.arange(len(first)), np.diff(first, append=len(outer)))
    begin = (ends - outer[:, 0])[first]
    last = np.append(first[1:], len(outer))[: len(first)] - 1
    return ends - outer[:, 0] - begin[strip], strip, np.stack([ends[last] - begin, outer[first, 1]], axis=1)


def _skyline(outer: np.ndarray, size: int) -> np.ndarray | None:
    """Rectangles int64 (C, 2), the highest first -> their low corners int64 (C, 2): each goes where it comes to lie lowest. None where they
    don't fit."""
    places = np.zeros((len(outer), 2), np.int64)
    skyline = np.zeros(size, np.int64)
    for number, (width, tall) in enumerate(outer.tolist()):
        if width > size:
            return None
        lowest, reach = skyline, 1  # the highest of each `reach` columns side by side
        while 2 * reach <= width:
            lowest, reach = np.maximum(lowest[:-reach], lowest[reach:]), 2 * reach
        if reach < width:
            lowest = np.maximum(lowest[: size - width + 1], lowest[width - reach :])
        x = int(lowest.argmin())
        y = int(lowest[x])
        if y + tall > size:
            return None
        places[number] = x, y
        skyline[x : x + width] = y + tall
    return places
