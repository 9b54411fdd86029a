"""The voxels of stage 1 as a small picture: what a person sees first of an object, before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDE = 256  # pixels of one object's picture
_BACKGROUND = 24
# Isometric: the object's axes (x right, y away, z up) on the picture, x right and y down, in pixels of a voxel.
_X, _Y, _Z = np.array([0.87, 0.45]), np.array([-0.87, 0.45]), np.array([0.0, -1.0])


def picture_of_voxels(objects: Sequence[np.ndarray], grid: int) -> np.ndarray:
    """Each object's voxels, whole numbers (N, 3) in 0..grid-1, side by side: uint8 (SIDE, SIDE * objects, 3), nearer ones lighter."""
    return np.concatenate([_one(np.asarray(voxels), grid) for voxels in objects[:8]], axis=1)


def _one(voxels: np.ndarray, grid: int) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), _BACKGROUND, np.uint8)
    if len(voxels) == 0:
        return image
    centred = voxels - (grid - 1) / 2
    size = SIDE / (2.0 * grid)
    place = SIDE / 2 + size * (centred[:, :1] * _X - centred[:, 1:2] * _Y + centred[:, 2:] * _Z)
    nearness = centred[:, 0] - centred[:, 1] + centred[:, 2]
    order = np.argsort(nearness, kind="stable")  # far ones first: nearer ones are painted over them
    shade = 0.35 + 0.65 * (nearness - nearness.min()) / max(float(np.ptp(nearness)), 1e-9)
    colors = (shade[:, None] * np.array([235, 205, 160])).astype(np.uint8)
    width = int(np.ceil(3 * size))
    for row in range(width):
        for column in range(width):
            x = np.clip(place[order, 0].astype(int) + column, 0, SIDE - 1)
            y = np.clip(place[order, 1].astype(int) + row, 0, SIDE - 1)
            image[y, x] = colors[order]
    return image
