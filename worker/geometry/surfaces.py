"""What writers and renderers need of meshes and splats: that they're sound, normals, colours at a place."""

from __future__ import annotations

import numpy as np

from ...contract.errors import OutputError
from ...contract.scene import Mesh, Splats


def checked(mesh: Mesh, name: str) -> Mesh:
    """The mesh, or an OutputError that says why it can't be written."""
    if len(mesh.faces) == 0:
        raise OutputError(f"The mesh of {name!r} has no faces.", "Choose another format, or leave this object out.")
    for what, values in (("vertices", mesh.vertices), ("normals", mesh.normals), ("uvs", mesh.uvs)):
        if values is not None and not np.isfinite(values).all():
            raise OutputError(f"The mesh of {name!r} has {what} that are not finite.", "The engine made a broken mesh: please report it.")
    return mesh


def sound(splats: Splats) -> Splats:
    """The splats without rows that aren't finite or have no rotation; OutputError if none is left."""
    rows = (splats.positions, splats.scales, splats.rotations, splats.opacities[:, None], splats.sh.reshape(len(splats.sh), -1))
    turned = splats.rotations.any(axis=1)
    if len(turned) and turned.all() and all(np.isfinite(values).all() for values in rows):
        return splats  # as nearly always: row by row takes several times as long
    good = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in rows]) & turned
    if not good.any():
        raise OutputError("None of the splats is finite.", "The engine made broken splats: please report it.")
    return Splats(splats.positions[good], splats.scales[good], splats.rotations[good], splats.opacities[good], splats.sh[good])


def textured(mesh: Mesh) -> bool:
    """Whether the colour comes from a texture (it wins over vertex colours)."""
    return mesh.uvs is not None and mesh.texture is not None and mesh.texture.size > 0


def weld(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices at the same place as one -> vertices float64 (W, 3), faces int64 (G, 3) without those that lost a corner, and for each vertex
    one of the mesh's that lies there (W,)."""
    places, first, number = np.unique(mesh.vertices, axis=0, return_index=True, return_inverse=True)
    faces = number.reshape(-1)[mesh.faces.astype(np.int64)]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return places.astype(np.float64), faces[whole], first


def unit_normals(mesh: Mesh) -> np.ndarray:
    """(V, 3) float32, unit length: the mesh's own, or the area-weighted mean over all faces that meet at a *place*.

    Vertices that a texture seam splits share their place, and so their normal. A vertex without any area gets +y.
    """
    if mesh.normals is None:
        corners = mesh.vertices[mesh.faces.astype(np.int64)]
        areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # twice the area long
        place = _places(mesh.vertices)
        target = place[mesh.faces.astype(np.int64)].ravel()
        summed = [np.bincount(target, np.repeat(areas[:, axis], 3), minlength=len(mesh.vertices)) for axis in range(3)]
        normals = np.stack(summed, axis=1)[place]
    else:
        normals = mesh.normals.astype(np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-20, normals / np.maximum(length, 1e-20), (0.0, 1.0, 0.0)).astype(np.float32)


def _places(points: np.ndarray) -> np.ndarray:
    """(N, 3) -> a number for each different place (N,), counted from 0; a third of the time of np.unique."""
    order = np.lexsort(points.T)
    ordered = points[order]  # -0 is 0, here and there
    places = np.empty(len(points), np.intp)
    places[order] = np.cumsum(np.concatenate([np.zeros(min(len(points), 1), bool), (ordered[1:] != ordered[:-1]).any(axis=1)]))
    return places


def sample(texture: np.ndarray, uvs: np.ndarray, nearest: bool = False) -> np.ndarray:
    """Texture (H, W, C) at UVs (N, 2), clamped at the border -> (N, C) float32 in the texture's units.

    glTF's rule: (0, 0) is the top left *corner*, texel centres lie at (i + 0.5) / size. Bilinear unless `nearest`.
    """
    height, width = texture.shape[:2]
    x, y = uvs[:, 0] * np.float32(width), uvs[:, 1] * np.float32(height)
    flat = texture.reshape(height * width, -1)
    if nearest:
        column, row = np.clip(x.astype(np.int32), 0, width - 1), np.clip(y.astype(np.int32), 0, height - 1)
        return flat.take(row * width + column, axis=0).astype(np.float32)
    x, y = np.clip(x - np.float32(0.5), 0, np.float32(width - 1)), np.clip(y - np.float32(0.5), 0, np.float32(height - 1))
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    top, bottom = top * width, bottom * width
    upper = flat.take(top + left, axis=0) * (1 - across)
    upper += flat.take(top + right, axis=0) * across
    lower = flat.take(bottom + left, axis=0) * (1 - across)
    lower += flat.take(bottom + right, axis=0) * across
    upper += (lower - upper) * down
    return upper


def vertex_colors(mesh: Mesh) -> np.ndarray:
    """(V, 4) uint8 sRGB: the mesh's own, or those of its texture at the vertices, or a neutral grey."""
    if mesh.vertex_colors is not None:
        return mesh.vertex_colors
    colors = np.full((len(mesh.vertices), 4), 255, np.uint8)
    if textured(mesh):
        assert mesh.texture is not None and mesh.uvs is not None
        colors[:, :3] = np.round(sample(mesh.texture, mesh.uvs, mesh.sampler == "nearest"))
    else:
        colors[:, :3] = 200
    return colors
