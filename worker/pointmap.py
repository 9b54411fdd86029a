"""The point map of a request: the one that came with it, or MoGe's (docs/pointmaps.md).

Points leave here in PyTorch3D camera axes, NaN where there is none, as worker/sam3d/preprocess.py takes them (`match_pointmap`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract.pointmaps import FRAMES, PointMap, from_points
from ..contract.request import ReconstructRequest
from ..vendor.moge import focal as cameras

if TYPE_CHECKING:
    from ..vendor.moge.model import MoGeV1
    from ..vendor.moge.model_v2 import MoGeV2

__all__ = ["PointMap", "estimate_intrinsics", "from_picture", "from_request"]
_OPENCV = np.array(FRAMES["opencv"], np.float32)  # its own inverse


def from_picture(model: MoGeV1 | MoGeV2, image: np.ndarray, **options: Any) -> PointMap:
    """image: uint8 (H, W, 3) sRGB, the whole picture, nothing cut out. options: those of `infer` (fov_x, resolution_level, ...).

    A picture in which MoGe sees no surface at all gives NaN everywhere.
    """
    import torch

    from ..vendor.moge.infer import infer

    device = next(model.parameters()).device
    picture = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float() / 255
    found = infer(model, picture, **options)
    points = found.points.cpu().numpy() * _OPENCV
    # One coordinate that isn't finite makes the point none, as in the original's matrix product.
    points[~np.isfinite(points).all(-1)] = np.nan
    version = "MoGe 2" if model.needs_positive_depth else "MoGe"
    return PointMap(points, found.intrinsics.cpu().numpy(), version, model.metric)


def from_request(request: ReconstructRequest) -> PointMap | None:
    """The map that came with the request, at the picture's size, with intrinsics; None where none came. Raises OptionError."""
    given = request.sam3d
    if given.pointmap is None:
        return None
    made = from_points(given.pointmap, given.pointmap_frame, request.image.shape[:2], intrinsics=given.intrinsics)
    if made.intrinsics is not None:
        return made
    return PointMap(made.points, estimate_intrinsics(made.points), made.source, made.metric)


def estimate_intrinsics(points: np.ndarray) -> np.ndarray | None:
    """Points as in a PointMap -> the intrinsics that they were most likely seen with, (3, 3) for a picture of size 1 x 1.

    MoGe's own solver: square pixels, the optical axis through the middle, a shift in z allowed. None where fewer than two points tell.
    """
    height, width = points.shape[:2]
    mask = np.isfinite(points).all(-1)
    if np.count_nonzero(mask[np.ix_(cameras.sample(height), cameras.sample(width))]) < 2:
        return None
    focal, _ = cameras.recover(points * _OPENCV, mask)
    return cameras.intrinsics(focal, width / height) if focal > 0 else None
