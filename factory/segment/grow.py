"""A small map brought to a picture's size in strips: at 40 megapixels each whole float map on the way would be 160 MB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cv import cv2

_STRIP = 2_000_000  # pixels at once


def grown(small: np.ndarray, size: tuple[int, int], finish: Callable[[np.ndarray], np.ndarray], sigma: float = 0.0) -> np.ndarray:
    """float (h, w) -> uint8 (H, W) of `size`: linear interpolation between pixel middles, a Gaussian blur of `sigma` pixels of the large map, then `finish`,
    which turns float32 into numbers that are cut to 0..255."""
    height, width = size
    down, across = _weights(small.shape[0], height, sigma), _weights(small.shape[1], width, sigma)
    rows = small.astype(np.float32) @ across.T
    out = np.empty(size, np.uint8)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        part = down[top : top + step]
        near = np.flatnonzero(part.any(axis=0))
        near_rows = slice(near[0], near[-1] + 1)
        out[top : top + step] = np.clip(finish(part[:, near_rows] @ rows[near_rows]), 0, 255)
    return out


def _weights(count: int, many: int, sigma: float) -> np.ndarray:
    """float32 (many, count): how much each pixel of one axis, made larger and blurred, takes from each small one."""
    weights = cv2().resize(np.eye(count, dtype=np.float32), (count, many), interpolation=cv2().INTER_LINEAR)
    return np.asarray(cv2().GaussianBlur(weights, (1, 0), sigma, sigmaY=sigma) if sigma else weights)
