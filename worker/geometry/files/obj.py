"""Wavefront OBJ with its material library and textures. OBJ counts v upwards from the bottom, glTF downwards: v is flipped here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....contract.scene import Mesh
from ..surfaces import textured, unit_normals
from .png import Textures


def obj(meshes: Sequence[tuple[str, Mesh]], stem: str = "model", textures: Textures | None = None) -> dict[str, bytes]:
    """`stem`.obj, `stem`.mtl and a PNG for each different texture (`stem`.png, `stem`-2.png, ...), of (name, placed mesh) pairs.

    Names are written as one word. Meshes without a texture carry their colours behind the positions, as most readers understand.
    """
    textures = textures or Textures()
    text, library = [f"mtllib {stem}.mtl\n"], []
    pictures: dict[str, tuple[str, bytes]] = {}  # a texture's key -> file name and bytes
    offset, uv_offset = 1, 1  # OBJ counts from 1, over the whole file
    for number, (name, mesh) in enumerate(meshes, start=1):
        word = "_".join(name.split()) or "object"
        text.append(f"o {word}\n")
        if mesh.vertex_colors is not None and not textured(mesh):
            text.append(_lines("v" + " %.7g" * 3 + " %.4f" * 3, np.hstack([mesh.vertices, mesh.vertex_colors[:, :3] / 255])))
        else:
            text.append(_lines("v %.7g %.7g %.7g", mesh.vertices))
        text.append(_lines("vn %.5f %.5f %.5f", unit_normals(mesh)))
        index = mesh.faces.astype(np.int64)
        if mesh.uvs is not None:
            text.append(_lines("vt %.7g %.7g", np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1)))
            corners, pattern = np.stack([index + offset, index + uv_offset, index + offset], axis=2), "f %d/%d/%d %d/%d/%d %d/%d/%d"
            uv_offset += len(mesh.uvs)
        else:
            corners, pattern = np.stack([index + offset, index + offset], axis=2), "f %d//%d %d//%d %d//%d"
        text.append(f"usemtl material_{number}\n")
        text.append(_lines(pattern, corners.reshape(len(index), -1)))
        offset += len(mesh.vertices)
        library.append(f"newmtl material_{number}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\n")
        if textured(mesh):
            assert mesh.texture is not None
            key, data = textures.png(mesh.texture)
            pictures.setdefault(key, (f"{stem}.png" if not pictures else f"{stem}-{len(pictures) + 1}.png", data))
            library.append(f"map_Kd {pictures[key][0]}\n")
    files = {f"{stem}.obj": "".join(text).encode("utf-8", "replace"), f"{stem}.mtl": "".join(library).encode("utf-8", "replace")}
    return files | dict(pictures.values())


def _lines(pattern: str, rows: np.ndarray) -> str:
    """One line for each row; formatting them all at once is ten times as fast as one by one."""
    return (pattern + "\n") * len(rows) % tuple(rows.ravel().tolist())
