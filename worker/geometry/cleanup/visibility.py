"""How often each face is seen from all around (spec: postprocess.md 2.2)."""

from __future__ import annotations

import numpy as np
import torch

from ...ops.cameras import orbit, spherical_hammersley
from ...ops.rasterise import visible_faces
from .topology import Array, area_vectors

NEAR, FAR = 1.0, 3.0  # of cameras 2 away from the origin
SPAN = 0.6868  # of a picture's side, what 1 takes up at that distance
SIZES = (256, 2048)


def visibility(vertices: Array, faces: Array, views: int, size: int, device: torch.device | str = "cpu") -> Array:
    """float32 (F,): the share of `views` pictures of size x size pixels in which each face owns a pixel.

    vertices float (V, 3), z up, inside the cube [-0.5, 0.5] or near it. size: see `fitting_size`.
    """
    if len(faces) == 0:
        return np.zeros(0, np.float32)
    cameras = orbit(*spherical_hammersley(views, dtype=torch.float64), size=size).to(device)
    points = torch.tensor(vertices, dtype=torch.float32, device=device)
    corners = torch.tensor(faces, dtype=torch.int32, device=device)
    with torch.inference_mode():
        seen = visible_faces(points, corners, cameras, near=NEAR, far=FAR)
    return (seen.double() / views).float().cpu().numpy()


def fitting_size(vertices: Array, faces: Array) -> int:
    """Pixels of a picture in which the mean face, at a slant, covers one: smaller ones are missed in many of the views that they are
    visible in, and then count as hidden. Within SIZES: a mesh of a million faces should be thinned first."""
    area = float(np.sqrt((area_vectors(vertices, faces) ** 2).sum(axis=1)).mean()) if len(faces) else 1.0
    wanted = (0.5 * max(area, 1e-12)) ** -0.5 / SPAN
    return int(np.clip(32 * np.ceil(wanted / 32), *SIZES))
