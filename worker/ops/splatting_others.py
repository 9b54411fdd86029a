"""gsplat behind the call of splatting.py. Optional: it compiles CUDA code when it is first used, and runs only where it is forced by name.

It differs from our own paths in the small: a Gaussian ends where gsplat's own bound on its radius puts it.
Source: gsplat's public Python interface, versions 1.4 and 1.5 (Apache-2.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cameras import Cameras

if TYPE_CHECKING:
    from .splatting import Gaussians

_VIEWS = 4  # at once: its lists of tile entries grow with the views


def splat(
    splats: Gaussians, cameras: Cameras, low_pass: float, compensate: bool, near: float, depth: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """image (V, H, W, 3) without background, alpha (V, H, W), depth times alpha (V, H, W) or nothing of use."""
    import gsplat  # type: ignore[import-not-found, unused-ignore]

    whole = torch.isfinite(torch.cat([t.reshape(len(t), -1) for t in splats], dim=1)).all(dim=1)
    positions, scales, rotations, opacities, colors = (tensor[whole].contiguous() for tensor in splats)
    pictures, alphas = [], []
    for start in range(0, len(cameras), _VIEWS):
        some = cameras[start : start + _VIEWS]
        k = torch.zeros(len(some), 3, 3, device=positions.device)
        k[:, [0, 1], [0, 1]], k[:, :2, 2], k[:, 2, 2] = some.focal, some.centre, 1.0
        picture, alpha, _ = gsplat.rasterization(
            positions, rotations, scales, opacities, colors, some.view, k, some.width, some.height, near_plane=near, eps2d=low_pass,
            render_mode="RGB+D" if depth else "RGB", rasterize_mode="antialiased" if compensate else "classic",
            camera_model="ortho" if some.orthographic else "pinhole",
        )  # fmt: skip
        pictures.append(picture)
        alphas.append(alpha[..., 0])
    picture, alpha = torch.cat(pictures), torch.cat(alphas)
    return picture[..., :3], alpha, picture[..., 3] if depth else alpha
