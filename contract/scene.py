"""What comes out: a scene of named objects, each with a mesh, splats or both, in one frame.

The frame (docs/frames.md): glTF's - right-handed, x right, y up, metres, an object's front towards +z. A `Pose` is a
column-vector map from the object's frame to the scene's. Quaternions are w, x, y, z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .errors import InputError
from .record import Record, array
from .rotations import rotation_matrices

SH_C0 = 0.28209479177387814  # the degree-0 spherical harmonic: colour = 0.5 + SH_C0 * sh[:, 0]


@dataclass(frozen=True)
class Pose(Record):
    """Object -> scene: `x_scene = scale * R(rotation) @ x_object + translation`.

    rotation: unit quaternion (w, x, y, z); translation: metres; scale: uniform, > 0.
    """

    rotation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def check(self) -> None:
        length = sum(q * q for q in self.rotation) ** 0.5
        if abs(length - 1) > 1e-3 or self.scale <= 0:
            raise InputError("A pose needs a unit quaternion and a positive scale.", "Normalise the rotation first.")

    def rotation_matrix(self) -> np.ndarray:
        """(3, 3) float64, for column vectors."""
        return rotation_matrices(np.asarray(self.rotation) / np.linalg.norm(self.rotation))

    def matrix(self) -> np.ndarray:
        """(4, 4) float64, for column vectors."""
        out = np.eye(4)
        out[:3, :3] = self.scale * self.rotation_matrix()
        out[:3, 3] = self.translation
        return out

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in the object's frame -> the scene's, in the points' dtype (float64 for whole numbers)."""
        points = points if points.dtype.kind == "f" else points.astype(np.float64)
        turn = (self.scale * self.rotation_matrix()).T.astype(points.dtype)
        moved: np.ndarray = points @ turn + np.asarray(self.translation, points.dtype)
        return moved


@dataclass(frozen=True)
class Camera(Record):
    """The camera that took the picture, in the scene's frame, as glTF has it: it looks along its own -z, y up.

    `pose` maps camera to scene (scale 1). Orthographic: `xmag`, `ymag` are half the width and height seen, in metres.
    Perspective: `yfov` is the vertical angle in radians, square pixels, principal point in the middle. `width`, `height` are the picture's pixels.
    """

    kind: Literal["orthographic", "perspective"]
    width: int
    height: int
    pose: Pose = field(default_factory=Pose)
    xmag: float = 0.0
    ymag: float = 0.0
    yfov: float = 0.0
    znear: float = 0.01
    zfar: float = 100.0


@dataclass(frozen=True)
class Mesh(Record):
    """A triangle mesh in its object's frame. Counter-clockwise faces seen from outside.

    Vertices are split where a texture seam runs; "closed" always means after welding equal positions. UVs are glTF's:
    (0, 0) is the top left corner of the texture. Colours are sRGB. `sampler` is how the texture wants to be read.
    """

    vertices: np.ndarray = array("float32", "V 3")
    faces: np.ndarray = array("uint32", "F 3")
    normals: np.ndarray | None = array("float32", "V 3", optional=True)
    uvs: np.ndarray | None = array("float32", "V 2", optional=True)
    texture: np.ndarray | None = array("uint8", "H W 3", optional=True)
    vertex_colors: np.ndarray | None = array("uint8", "V 4", optional=True)
    sampler: Literal["linear", "nearest"] = "linear"
    roughness: float = 0.9

    def check(self) -> None:
        if self.faces.size and int(self.faces.max()) >= len(self.vertices):
            raise InputError("A mesh's faces point beyond its vertices.", "Renumber the faces.")


@dataclass(frozen=True)
class Splats(Record):
    """Gaussian splats in their object's frame, as *activated* values, never the log / logit form of a PLY.

    scales: metres, one standard deviation along each axis of the rotated splat; rotations: unit, w x y z; opacities: 0..1;
    sh: (N, K, 3) spherical-harmonic coefficients, K = 1, 4, 9 or 16; the view-independent colour is 0.5 + SH_C0 * sh[:, 0], sRGB 0..1.
    """

    positions: np.ndarray = array("float32", "N 3")
    scales: np.ndarray = array("float32", "N 3")
    rotations: np.ndarray = array("float32", "N 4")
    opacities: np.ndarray = array("float32", "N")
    sh: np.ndarray = array("float32", "N K 3")

    def colors(self) -> np.ndarray:
        """(N, 3) float32, sRGB, not clipped."""
        colors: np.ndarray = np.float32(0.5) + np.float32(SH_C0) * self.sh[:, 0]
        return colors


@dataclass(frozen=True)
class SceneObject(Record):
    """One mask's object. `score` is the engine's own confidence, 0..1, or None where it has none."""

    name: str
    mesh: Mesh | None = None
    splats: Splats | None = None
    pose: Pose = field(default_factory=Pose)
    score: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)  # what the engine decided: parameters in effect, gates, notes (JSON values)


@dataclass(frozen=True)
class Scene(Record):
    """The answer. `engine` names what really made it; `files` holds what the request's `outputs` asked for, encoded.

    files: name (`model.glb`, `splat.ply`, `objects/<name>.glb`, ...) -> bytes as a uint8 array. timings: stage -> seconds.
    """

    objects: tuple[SceneObject, ...]
    engine: str
    seed: int = 0
    camera: Camera | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)  # the request's scalars, for provenance (JSON values)
    files: Mapping[str, np.ndarray] = field(default_factory=dict)

    def check(self) -> None:
        for name, data in self.files.items():
            if data.dtype != np.uint8 or data.ndim != 1:
                raise InputError(f"The file {name!r} of a scene isn't bytes.", "Give it as a uint8 array of one axis.")
