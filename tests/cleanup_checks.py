"""Meshes judged from outside, by trimesh, as every reader of our files would."""

from __future__ import annotations

import numpy as np
import trimesh
from comfyui_sam3d.worker.geometry.cleanup import topology


def judged(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """Welded, as every reader of our files would."""
    return trimesh.Trimesh(vertices, faces, process=False).process(merge_tex=True, merge_norm=True)


def assert_closed(vertices: np.ndarray, faces: np.ndarray, bodies: int) -> trimesh.Trimesh:
    mesh = judged(vertices, faces)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.body_count == bodies
    found = topology.soundness(vertices, faces)
    assert found.closed and found.bodies == bodies
    return mesh
