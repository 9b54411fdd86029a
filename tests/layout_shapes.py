"""Small shapes and lenses for the tests of the layout refinement."""

from __future__ import annotations

import numpy as np
import torch
from comfyui_sam3d.worker.geometry.layout.silhouette import Lens

LENSES = [
    Lens((22.0, 22.0), (10.0, 10.0), 20, 20, 20),
    Lens((21.0, 25.0), (15.5, 7.2), 18, 27, 18),
    Lens((21.0, 25.0), (15.5, 7.2), 27, 18, 27),
]


def scraps(count: int = 12, seed: int = 0, dtype=torch.float64):
    """Loose triangles before a camera, some beyond the picture's sides."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform((-0.8, -0.8, 1.5), (0.8, 0.8, 3), (count, 1, 3))
    points = (middle + rng.normal(size=(count, 3, 3)) * (0.3, 0.3, 0)).reshape(-1, 3)
    return torch.tensor(points, dtype=dtype), torch.arange(3 * count).view(-1, 3)


def disc(radius: float = 16, size: int = 64, middle: tuple[float, float] = (32, 32)) -> np.ndarray:
    y, x = np.mgrid[:size, :size] + 0.5
    return (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2
