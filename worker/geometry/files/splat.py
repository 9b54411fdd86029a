"""`.splat`: 32 bytes a splat - position and linear scale as float32, colour + opacity and quaternion as bytes - largest first.

Source of the layout: spec/postprocess.md section 6.1. View-dependent colour is lost; the mean colour stays.
"""

from __future__ import annotations

import numpy as np

from ....contract.scene import Splats
from ..surfaces import sound

_ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def splat(splats: Splats) -> bytes:
    """The file, for splats already in the file's frame, sorted by opacity * volume (what a loader that stops early wants first)."""
    splats = sound(splats)
    weight = splats.opacities.astype(np.float64) * np.prod(splats.scales.astype(np.float64), axis=1)
    order = np.argsort(-weight, kind="stable")
    rows = np.empty(len(order), _ROW)
    rows["position"], rows["scale"] = splats.positions[order], splats.scales[order]
    rows["rgba"][:, :3] = np.round(255 * np.clip(splats.colors()[order], 0, 1))
    rows["rgba"][:, 3] = np.round(255 * np.clip(splats.opacities[order], 0, 1))
    turns = splats.rotations[order].astype(np.float64)
    rows["rotation"] = np.clip(np.round(128 * turns / np.linalg.norm(turns, axis=1, keepdims=True) + 128), 0, 255)
    return rows.tobytes()
