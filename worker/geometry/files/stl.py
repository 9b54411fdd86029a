"""Binary STL: bare triangles with their normals, 50 bytes each. Metres and y up, as everywhere; the format can't say either."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from ....contract.scene import Mesh

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def stl(meshes: Sequence[Mesh]) -> bytes:
    """One file of all meshes, already placed."""
    blocks = []
    for mesh in meshes:
        rows = np.zeros(len(mesh.faces), _TRIANGLE)
        corners = mesh.vertices[mesh.faces.astype(np.int64)]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float64)
        rows["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        rows["corners"] = corners
        blocks.append(rows.tobytes())
    head = b"binary STL, comfyui-sam3d".ljust(80)  # must not begin with "solid": that means a text file
    return head + struct.pack("<I", sum(len(mesh.faces) for mesh in meshes)) + b"".join(blocks)
