"""Meshes, splats and scenes for the tests of what is written, and readers that check every rule of a GLB's container by hand."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
from comfyui_sam3d.contract.scene import Mesh, Pose, Scene, SceneObject, Splats

POSE = Pose((0.5, 0.5, -0.5, 0.5), (1.0, -2.0, 0.5), 2.0)


def globe(columns: int = 12, rows: int = 8, seed: int = 0) -> Mesh:
    """A closed ellipsoid whose texture seam splits vertices, with its own small random texture."""
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    around, down = 2 * np.pi * u, np.pi * v
    around[:, -1] = 0  # exactly the same place on both sides of the seam
    shape = [np.sin(down) * np.sin(around), np.cos(down) * 0.8, np.sin(down) * np.cos(around) * 0.5]
    vertices = np.stack(shape, axis=-1).reshape(-1, 3)
    vertices[: columns + 1], vertices[-columns - 1 :] = (0, 0.8, 0), (0, -0.8, 0)
    a = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    b, c, d = a + 1, a + columns + 1, a + columns + 2
    faces = np.concatenate([np.stack([a, c, d], 1)[: -columns or None], np.stack([a, d, b], 1)[columns:]])
    texture = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    return Mesh(
        vertices.astype(np.float32), faces.astype(np.uint32), uvs=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32), texture=texture
    )


def cloud(count: int = 20, coefficients: int = 1, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    turns = rng.normal(size=(count, 4))
    return Splats(
        positions=rng.normal(size=(count, 3)).astype(np.float32),
        scales=rng.uniform(0.001, 0.1, (count, 3)).astype(np.float32),
        rotations=(turns / np.linalg.norm(turns, axis=1, keepdims=True)).astype(np.float32),
        opacities=rng.uniform(0.01, 0.99, count).astype(np.float32),
        sh=rng.normal(size=(count, coefficients, 3)).astype(np.float32),
    )


def scene_of(*things: SceneObject, **more: object) -> Scene:
    return Scene(things, "test", **more)


def chunks(data: bytes) -> tuple[dict, bytes]:
    """The two chunks of a GLB, with every rule of the container checked."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data)) and len(data) % 4 == 0
    text_length, text_kind = struct.unpack_from("<I4s", data, 12)
    assert text_kind == b"JSON" and text_length % 4 == 0
    blob_length, blob_kind = struct.unpack_from("<I4s", data, 20 + text_length)
    assert blob_kind == b"BIN\0" and blob_length % 4 == 0 and 28 + text_length + blob_length == len(data)
    return json.loads(data[20 : 20 + text_length]), data[28 + text_length :]


DTYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def accessor(root: dict, blob: bytes, number: int) -> np.ndarray:
    """An accessor's values; alignment and ends are checked."""
    item = root["accessors"][number]
    view = root["bufferViews"][item["bufferView"]]
    kind, width = np.dtype(DTYPES[item["componentType"]]), WIDTHS[item["type"]]
    assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= root["buffers"][0]["byteLength"] == len(blob)
    assert view["byteLength"] == item["count"] * width * kind.itemsize and (width == 1 or width * kind.itemsize % 4 == 0)
    return np.frombuffer(blob, kind, item["count"] * width, view["byteOffset"]).reshape(-1, width)


def load(data: bytes, kind: str) -> object:
    import trimesh

    return trimesh.load(io.BytesIO(data), file_type=kind, process=False)
