"""A running job's picture of itself (contract.backend.Preview) as a small PNG. Each slot keeps the last one of its job; `GET /jobs/{id}/preview` hands it out."""

from __future__ import annotations

import io

import numpy as np

SIDE = 512  # pixels of the longer side, at the most
EVERY = 0.5  # seconds between two of one job; what comes sooner is not looked at


def png(image: np.ndarray) -> bytes:
    """image: uint8 (H, W, 3), sRGB."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))  # never enlarges
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=1)
    return out.getvalue()
