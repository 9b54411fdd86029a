"""`.splat`: 32 bytes a splat - position and linear scale as float32, colour + opacity and quaternion as bytes - largest first.

Source of the layout: spec/postprocess.md section 6.1. View-dependent colour is lost; the mean colour stays.
"""

from __future__ import annotations

import numpy as np

from ....contract.errors import OutputError
from ....contract.scene import Splats

_ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def splat(splats: Splats) -> bytes:
    """The file, for splats already in the file's frame, sorted by opacity * volume (what a loader that stops early wants first)."""
    values = (splats.positions, splats.scales, splats.rotations, splats.opacities[:, None], splats.sh[:, 0])
    good = np.logical_and.reduce([np.isfinite(item).all(axis=1) for item in values]) & (np.abs(splats.rotations).max(axis=1, initial=0) > 0)
    if not good.any():
        raise OutputError("None of the splats is finite.", "The engine made broken splats: please report it.")
    order = np.flatnonzero(good)
    weight = splats.opacities[order].astype(np.float64) * np.prod(splats.scales[order].astype(np.float64), axis=1)
    order = order[np.argsort(-weight, kind="stable")]
    rows = np.empty(len(order), _ROW)
    rows["position"], rows["scale"] = splats.positions[order], splats.scales[order]
    rows["rgba"][:, :3] = np.round(255 * np.clip(splats.colors()[order], 0, 1))
    rows["rgba"][:, 3] = np.round(255 * np.clip(splats.opacities[order], 0, 1))
    turns = splats.rotations[order].astype(np.float64)
    rows["rotation"] = np.clip(np.round(128 * turns / np.linalg.norm(turns, axis=1, keepdims=True) + 128), 0, 255)
    return rows.tobytes()
