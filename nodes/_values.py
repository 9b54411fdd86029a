"""A scene as ComfyUI's MESH and SPLAT: tensors with one batch item for each object, placed where they stand in the scene.

Frames: MESH is glTF's (y up), as core's SaveGLB writes it. SPLAT is the frame of splat files (y down, z forward), as core's SplatToFile3D
writes it and its viewer expects it: the same scene after half a turn about x.

On a host without these types the sockets carry tuples of the contract's records instead, in the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..contract.rotations import quaternion_product
from ..contract.scene import Mesh, Pose, Scene, Splats
from . import _host

_TURN = np.array([0.0, 1.0, 0.0, 0.0])  # half a turn about x, w x y z


def mesh_of(scene: Scene) -> Any:
    """MESH of (B, N, 3) vertices, (B, M, 3) faces and, where every object has them, normals, uvs with texture, or vertex colours."""
    found = [_posed_mesh(o.mesh, o.pose) for o in scene.objects if o.mesh is not None and len(o.mesh.vertices)]
    if not found:
        return _host.nothing("This engine made no mesh.")
    values: dict[str, np.ndarray | None] = {
        "vertices": _padded([m.vertices for m in found]),
        "faces": _padded([m.faces.astype(np.int64) for m in found]),
        "normals": _all_padded([m.normals for m in found]),
        **_counts(vertex_counts=[len(m.vertices) for m in found], face_counts=[len(m.faces) for m in found]),
    }
    if all(m.texture is not None and m.uvs is not None for m in found):
        values["texture"], values["uvs"] = _one_canvas(found)
    elif all(m.vertex_colors is not None for m in found):
        values["vertex_colors"] = _padded([np.asarray(m.vertex_colors, np.float32) / 255 for m in found])
    made = _host.mesh(**values)
    return tuple(found) if made is None else made


def splat_of(scene: Scene) -> Any:
    """SPLAT of (B, N, ...) activated values. Only the view-independent colour is handed on (K = 1): higher terms would have to turn too."""
    found = [_posed_splats(o.splats, o.pose) for o in scene.objects if o.splats is not None and len(o.splats.positions)]
    if not found:
        return _host.nothing("This engine made no splats.")
    made = _host.splat(
        positions=_padded([s.positions for s in found]),
        scales=_padded([s.scales for s in found]),
        rotations=_padded([s.rotations for s in found]),
        opacities=_padded([s.opacities[:, None] for s in found]),
        sh=_padded([s.sh for s in found]),
        **_counts(counts=[len(s.positions) for s in found]),
    )
    return tuple(found) if made is None else made


def _posed_mesh(mesh: Mesh, pose: Pose) -> Mesh:
    normals = None if mesh.normals is None else mesh.normals @ pose.rotation_matrix().T.astype(np.float32)
    return mesh.replace(vertices=pose.apply(mesh.vertices), normals=normals)


def _posed_splats(splats: Splats, pose: Pose) -> Splats:
    turned = quaternion_product(_TURN, quaternion_product(np.asarray(pose.rotation), splats.rotations.astype(np.float64)))
    return Splats(
        positions=pose.apply(splats.positions) * np.array([1, -1, -1], np.float32),
        scales=splats.scales * np.float32(pose.scale),
        rotations=turned.astype(np.float32),
        opacities=splats.opacities,
        sh=splats.sh[:, :1],
    )


def _padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(n_i, ...) of each -> (B, max n_i, ...), zeros behind."""
    out = np.zeros((len(parts), max(len(p) for p in parts), *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(out, parts):
        row[: len(part)] = part
    return out


def _all_padded(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [part for part in parts if part is not None]
    return _padded(there) if len(there) == len(parts) else None


def _counts(**lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """The real lengths, where they differ (the host takes their absence for `all alike`); either all of them or none."""
    if all(len(set(counts)) == 1 for counts in lengths.values()):
        return {}
    return {name: np.array(counts, np.int64) for name, counts in lengths.items()}


def _one_canvas(meshes: Sequence[Mesh]) -> tuple[np.ndarray, np.ndarray]:
    """Textures of different sizes in one batch: each in the top left corner of a canvas as large as the largest, its UVs scaled to match."""
    textures = [m.texture for m in meshes if m.texture is not None]
    height, width = (max(t.shape[axis] for t in textures) for axis in (0, 1))
    canvas = np.zeros((len(textures), height, width, 3), np.float32)
    uvs = []
    for row, texture, mesh in zip(canvas, textures, meshes):
        h, w = texture.shape[:2]
        # Core's writers cut off instead of rounding: a quarter of a step keeps clear of the edge.
        row[:h, :w] = np.minimum((texture + np.float32(0.25)) / 255, 1)
        # The border repeats, so that filtering at the edge finds its own colours.
        row[h:, :w], row[:, w:] = row[h - 1 : h, :w], row[:, w - 1 : w]
        uvs.append(np.asarray(mesh.uvs, np.float32) * np.array([w / width, h / height], np.float32))
    return canvas, _padded(uvs)
