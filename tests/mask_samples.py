"""What the mask tests share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def png(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", **options)
    return out.getvalue()


class Hostile:
    """Fails however it is asked."""

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise RuntimeError("no")

    @property
    def mask(self) -> Any:
        raise RuntimeError("no")
