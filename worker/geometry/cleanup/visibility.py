"""How often each face is seen from all around (spec: postprocess.md 2.2)."""

from __future__ import annotations

import numpy as np
import torch

from ...ops.cameras import orbit, spherical_hammersley
from ...ops.rasterise import visible_faces
from .topology import Array

NEAR, FAR = 1.0, 3.0  # of cameras 2 away from the origin


def visibility(vertices: Array, faces: Array, views: int, size: int, device: torch.device | str = "cpu") -> Array:
    """float32 (F,): the share of `views` pictures of size x size pixels in which each face owns a pixel.

    vertices float32 (V, 3), z up, inside the cube [-0.5, 0.5] or near it. A face smaller than a pixel is missed in many views that it could
    be seen in: give a mesh of some ten thousand faces, not the raw one.
    """
    if len(faces) == 0:
        return np.zeros(0, np.float32)
    cameras = orbit(*spherical_hammersley(views, dtype=torch.float64), size=size).to(device)
    points = torch.tensor(vertices, dtype=torch.float32, device=device)
    corners = torch.tensor(faces, dtype=torch.int32, device=device)
    with torch.inference_mode():
        seen = visible_faces(points, corners, cameras, near=NEAR, far=FAR)
    return (seen.double() / views).float().cpu().numpy()
