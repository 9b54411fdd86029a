"""PNG bytes of a texture or a picture (Pillow does the work)."""

from __future__ import annotations

import io

import numpy as np


def png(pixels: np.ndarray, level: int = 3) -> bytes:
    """uint8 (H, W, 3) or (H, W, 4), sRGB -> a PNG file. Level 3 is half the time of Pillow's 6 for 3 % more bytes."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=level)
    return out.getvalue()
