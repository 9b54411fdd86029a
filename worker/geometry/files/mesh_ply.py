"""A mesh as PLY: binary, positions, normals and 8-bit sRGB vertex colours (sampled from the texture where there are none)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....contract.scene import Mesh
from ..surfaces import unit_normals, vertex_colors

_VERTEX = np.dtype([("position", "<f4", 3), ("normal", "<f4", 3), ("rgba", "u1", 4)])
_FACE = np.dtype([("corners", "u1"), ("index", "<i4", 3)])
_HEADER = """ply
format binary_little_endian 1.0
element vertex {vertices}
property float x
property float y
property float z
property float nx
property float ny
property float nz
property uchar red
property uchar green
property uchar blue
property uchar alpha
element face {faces}
property list uchar int vertex_indices
end_header
"""


def mesh_ply(meshes: Sequence[Mesh]) -> bytes:
    """One file of all meshes, already in the file's frame."""
    vertices, faces, offset = [], [], 0
    for mesh in meshes:
        vertex, face = np.empty(len(mesh.vertices), _VERTEX), np.empty(len(mesh.faces), _FACE)
        vertex["position"], vertex["normal"], vertex["rgba"] = mesh.vertices, unit_normals(mesh), vertex_colors(mesh)
        face["corners"], face["index"] = 3, mesh.faces.astype(np.int64) + offset
        offset += len(vertex)
        vertices.append(vertex.tobytes())
        faces.append(face.tobytes())
    head = _HEADER.format(vertices=offset, faces=sum(len(mesh.faces) for mesh in meshes))
    return b"".join([head.encode(), *vertices, *faces])
