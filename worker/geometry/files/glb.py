"""glTF 2.0 binary: one node per object with its pose, one mesh each, textures embedded as PNG and shared.

Materials are metallic-roughness with metallicFactor 0 (glTF's default of 1 looks black without an environment). The scene's camera stands
in `cameras`, where a program finds it, but no node holds it unless that is asked for: importers that instantiate camera nodes (Godot even looks
through the first one) must not get one with every prop. Its pose is in the camera's `extras` too. Same scene, same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....contract.errors import OutputError
from ....contract.scene import Camera, Mesh, Pose, Scene, SceneObject
from ....contract.version import VERSION
from ..surfaces import checked, textured, unit_normals
from .png import Textures

GENERATOR = f"comfyui-sam3d {VERSION}"
_ARRAY, _INDEX = 34962, 34963  # bufferView targets
_COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
_SAMPLERS = {"linear": (9729, 9987), "nearest": (9728, 9728)}  # magnifying, minifying (9987: trilinear over mipmaps)
_CLAMP = 33071
_LARGEST = 2**32 - 1  # the container counts bytes in 32 bits


def glb(scene: Scene, textures: Textures | None = None, *, camera_node: bool = False) -> bytes:
    """A .glb of every object that has a mesh; `textures` may be shared with other files. camera_node: a node of its own holds the scene's camera.
    Raises OutputError for a mesh that is empty or not finite."""
    writer = _Writer(textures or Textures())
    for thing in scene.objects:
        if thing.mesh is not None:
            writer.add(thing, checked(thing.mesh, thing.name))
    return writer.file(scene, camera_node)


def provenance(scene: Scene) -> dict[str, Any]:
    """What made this scene, as JSON values: engine, seed, version, parameters. No times, no paths, nothing of the other files that were asked for:
    same scene, same bytes."""
    parameters = {name: value for name, value in plain(scene.parameters).items() if name not in ("outputs", "export")}
    return {"engine": scene.engine, "seed": scene.seed, "version": VERSION, "parameters": parameters}


def plain(value: Any) -> Any:
    """Mappings, sequences and numpy scalars as what the json module takes; numbers that JSON can't hold become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def linear_colors(colors: np.ndarray) -> np.ndarray:
    """sRGB uint8 (V, 4) -> linear uint16 (V, 4), what COLOR_0 means in glTF. Alpha is linear already."""
    levels = np.arange(256) / 255
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    out = np.empty(colors.shape, np.uint16)
    out[:, :3] = np.round(curve * 65535).astype(np.uint16)[colors[:, :3]]
    out[:, 3] = colors[:, 3].astype(np.uint16) * 257
    return out


class _Writer:
    """Collects the JSON lists and the binary chunk; every chunk of data starts at a multiple of 4."""

    def __init__(self, textures: Textures) -> None:
        self.textures = textures
        self.json: dict[str, list[Any]] = {
            name: [] for name in ("nodes", "meshes", "materials", "textures", "images", "samplers", "accessors", "bufferViews")
        }
        self.parts: list[bytes | memoryview] = []
        self.length = 0
        self.images: dict[str, int] = {}

    def add(self, thing: SceneObject, mesh: Mesh) -> None:
        attributes = {"POSITION": self.accessor(mesh.vertices, "VEC3", _ARRAY, bounds=True)}
        attributes["NORMAL"] = self.accessor(unit_normals(mesh), "VEC3", _ARRAY)
        if mesh.uvs is not None:
            attributes["TEXCOORD_0"] = self.accessor(mesh.uvs, "VEC2", _ARRAY)
        if mesh.vertex_colors is not None and not textured(mesh):  # glTF multiplies the two: one of them is enough
            attributes["COLOR_0"] = self.accessor(linear_colors(mesh.vertex_colors), "VEC4", _ARRAY, normalized=True)
        kind = np.uint16 if len(mesh.vertices) <= 65535 else np.uint32  # 65535 itself is glTF's restart mark, never an index
        primitive = {
            "attributes": attributes,
            "indices": self.accessor(mesh.faces.reshape(-1).astype(kind), "SCALAR", _INDEX),
            "material": self.material(mesh),
            "mode": 4,
        }
        node = {"name": thing.name, "mesh": len(self.json["meshes"]), **_placement(thing.pose)}
        extras = {key: value for key, value in (("score", thing.score), ("info", plain(thing.info))) if value not in (None, {})}
        self.json["meshes"].append({"name": thing.name, "primitives": [primitive]})
        self.json["nodes"].append({**node, "extras": extras} if extras else node)

    def material(self, mesh: Mesh) -> int:
        surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": float(mesh.roughness)}
        if textured(mesh):
            surface["baseColorTexture"] = {"index": self.texture(mesh)}
        return self.once("materials", {"pbrMetallicRoughness": surface, "doubleSided": False})

    def texture(self, mesh: Mesh) -> int:
        magnify, minify = _SAMPLERS[mesh.sampler]
        sampler = self.once("samplers", {"magFilter": magnify, "minFilter": minify, "wrapS": _CLAMP, "wrapT": _CLAMP})
        assert mesh.texture is not None
        return self.once("textures", {"sampler": sampler, "source": self.image(mesh.texture)})

    def image(self, texture: np.ndarray) -> int:
        key, data = self.textures.png(texture)
        if key not in self.images:
            self.images[key] = len(self.images)
            self.json["images"].append({"bufferView": self.view(data), "mimeType": "image/png"})
        return self.images[key]

    def once(self, where: str, entry: dict[str, Any]) -> int:
        """The index of `entry` in its list; equal entries are written once."""
        if entry not in self.json[where]:
            self.json[where].append(entry)
        return self.json[where].index(entry)

    def accessor(self, data: np.ndarray, kind: str, target: int, *, bounds: bool = False, normalized: bool = False) -> int:
        item: dict[str, Any] = {
            "bufferView": self.view(memoryview(np.ascontiguousarray(data)).cast("B"), target),
            "componentType": _COMPONENTS[data.dtype.name],
            "count": len(data),
            "type": kind,
        }
        if normalized:
            item["normalized"] = True
        if bounds:  # float32 -> float is exact, and repr() of it reads back to the same float32
            item["min"], item["max"] = data.min(axis=0).tolist(), data.max(axis=0).tolist()
        self.json["accessors"].append(item)
        return len(self.json["accessors"]) - 1

    def view(self, data: bytes | memoryview, target: int | None = None) -> int:
        item = {"buffer": 0, "byteOffset": self.length, "byteLength": len(data)}
        self.json["bufferViews"].append(item if target is None else {**item, "target": target})
        padding = b"\0" * (-len(data) % 4)
        self.parts += [data, padding]
        self.length += len(data) + len(padding)
        return len(self.json["bufferViews"]) - 1

    def file(self, scene: Scene, camera_node: bool) -> bytes:
        camera = None if scene.camera is None else _camera(scene.camera)
        if camera and camera_node:
            assert scene.camera is not None
            self.json["nodes"].append({"name": "camera", "camera": 0, **_placement(scene.camera.pose)})
        root: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": GENERATOR, "extras": provenance(scene)},
            "scene": 0,
            "scenes": [{"nodes": list(range(len(self.json["nodes"])))}],
            "buffers": [{"byteLength": self.length}],
            **{name: entries for name, entries in self.json.items() if entries},
        }
        if camera:
            root["cameras"] = [camera]
        text = json.dumps(root, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self.length
        if total > _LARGEST:
            raise OutputError(f"The GLB would have {total} bytes; the format ends at 4 GiB.", "Choose fewer faces or smaller textures.")
        head = struct.pack("<4sIIII", b"glTF", 2, total, len(text), 0x4E4F534A)
        return b"".join([head, text, struct.pack("<II", self.length, 0x004E4942), *self.parts])


def _placement(pose: Pose) -> dict[str, list[float]]:
    """Translation, rotation (x, y, z, w) and scale of a node; what is the default is left out."""
    out: dict[str, list[float]] = {}
    if any(pose.translation):
        out["translation"] = list(pose.translation)
    w, *xyz = np.asarray(pose.rotation) / np.linalg.norm(pose.rotation)
    if any(xyz):
        out["rotation"] = [float(q) for q in (*xyz, w)]
    if pose.scale != 1:
        out["scale"] = [pose.scale] * 3
    return out


def _camera(camera: Camera) -> dict[str, Any] | None:
    """A glTF camera, its pose and the picture's size in `extras`; None where the numbers make no glTF camera."""
    extras: dict[str, Any] = {**_placement(camera.pose), "width": camera.width, "height": camera.height}
    near, far = max(camera.znear, 1e-4), camera.zfar
    if far <= near:
        return None
    if camera.kind == "orthographic" and camera.xmag > 0 and camera.ymag > 0:
        lens = {"xmag": camera.xmag, "ymag": camera.ymag, "znear": near, "zfar": far}
    elif camera.kind == "perspective" and 0 < camera.yfov < np.pi and camera.width > 0 and camera.height > 0:
        lens = {"yfov": camera.yfov, "aspectRatio": camera.width / camera.height, "znear": near, "zfar": far}
    else:
        return None
    return {"name": "picture", "type": camera.kind, camera.kind: lens, "extras": extras}
