"""Cameras: from points to pixels, and views that frame a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ....contract.errors import OptionError
from ....contract.rotations import rotation_quaternions
from ....contract.scene import Camera, Pose, Scene

_ENOUGH = 20000  # points that decide a framing


def to_camera(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Scene points (N, 3) -> camera axes (x right, y up, looking along -z), float32."""
    turn = camera.pose.rotation_matrix().astype(np.float32)  # its inverse is its transpose: row vectors times it
    return (points - np.asarray(camera.pose.translation, np.float32)) @ turn


def focal(camera: Camera, width: int, height: int) -> tuple[float, float]:
    """Pixels per metre (orthographic) or per unit of tangent (perspective), across and down, in a width x height picture.

    A picture of another shape than the camera's shows what the camera sees, stretched (orthographic), or more or less at the sides
    (perspective).
    """
    if camera.kind == "orthographic":
        if camera.xmag <= 0 or camera.ymag <= 0:
            raise OptionError(
                "An orthographic camera needs xmag and ymag above 0.", "Give half of the width and height that it sees, in metres."
            )
        return width / (2 * camera.xmag), height / (2 * camera.ymag)
    if not 0 < camera.yfov < math.pi:
        raise OptionError("A perspective camera needs a yfov between 0 and pi.", "Give the vertical angle in radians.")
    length = height / (2 * math.tan(camera.yfov / 2))
    return length, length


def project(camera: Camera, width: int, height: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points in camera axes (N, 3) -> pixel positions (N, 2), the top left corner being (0, 0), and distances in front of the camera (N,).

    Perspective: points that lie not in front of `znear` get pixel positions as if they lay there; the caller drops them.
    """
    across, down = focal(camera, width, height)
    distance = -points[:, 2]
    shrink = 1 / np.maximum(distance, camera.znear) if camera.kind == "perspective" else np.ones_like(distance)
    xy = np.stack([width / 2 + across * points[:, 0] * shrink, height / 2 - down * points[:, 1] * shrink], axis=1)
    return xy.astype(np.float32), distance


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """counts (N,) -> for each of sum(counts) items: which of the N it belongs to, and its number there."""
    which = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = (np.cumsum(counts) - counts).astype(np.int32)
    return which, np.arange(len(which), dtype=np.int32) - starts[which]


def outline_points(scene: Scene) -> np.ndarray:
    """Points (N, 3) that stand for the scene's extent: mesh vertices, or splat centres where there is no mesh; thinned out evenly."""
    found = [np.zeros((0, 3), np.float32)]
    for thing in scene.objects:
        points = thing.mesh.vertices if thing.mesh is not None else thing.splats.positions if thing.splats is not None else found[0]
        points = points[np.isfinite(points).all(axis=1)]
        extremes = np.concatenate([points.argmin(axis=0), points.argmax(axis=0)]) if len(points) else []
        found.append(thing.pose.apply(points[np.r_[: len(points) : 1 + len(points) // _ENOUGH, extremes].astype(int)]))
    return np.concatenate(found)


def orbit_cameras(
    scene: Scene,
    yaws: Sequence[float],
    pitch: float = 0.0,
    *,
    width: int = 512,
    height: int = 512,
    kind: Literal["perspective", "orthographic"] = "perspective",
    yfov: float = math.radians(30),
    margin: float = 0.06,
) -> list[Camera]:
    """Cameras around the scene that all stand equally far and together see all of it, tightly, with `margin` (share of the picture) left
    free.

    yaw: degrees, 0 looks at the front (from +z), 90 at the object's left side (from +x). pitch: degrees, positive looks down from above.
    They look at the middle of the scene's box. A scene without points is framed as a metre around the origin.
    """
    points = outline_points(scene).astype(np.float64)
    if len(points) == 0:
        points = np.array([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    room = 1 - 2 * margin
    tall = math.tan(yfov / 2) * room
    wide = tall * width / height
    turns = [_look(math.radians(yaw), math.radians(pitch)) for yaw in yaws]
    distance, half_width, half_height, depth = 1e-3, 1e-6, 1e-6, 1e-6
    for turn in turns:
        x, y, z = ((points - middle) @ turn).T
        distance = max(distance, float((z + np.maximum(np.abs(x) / wide, np.abs(y) / tall)).max()))
        half_width, half_height = max(half_width, float(np.abs(x).max())), max(half_height, float(np.abs(y).max()))
        depth = max(depth, float(np.abs(z).max()))
    ymag = max(half_height, half_width * height / width) / room
    if kind == "orthographic":
        distance = 2 * depth + ymag
    near, far = max((distance - depth) / 4, distance * 1e-3), distance + 4 * depth
    lens = {"yfov": yfov} if kind == "perspective" else {"xmag": ymag * width / height, "ymag": ymag}
    return [
        Camera(
            kind,
            width,
            height,
            Pose(tuple(rotation_quaternions(turn)), tuple(middle + turn[:, 2] * distance)),
            znear=near,
            zfar=far,
            **lens,
        )
        for turn in turns
    ]


def orbit_camera(scene: Scene, yaw: float, pitch: float = 0.0, **options: object) -> Camera:
    """One camera that frames the scene; options as for `orbit_cameras`."""
    return orbit_cameras(scene, [yaw], pitch, **options)[0]  # type: ignore[arg-type]


def _look(yaw: float, pitch: float) -> np.ndarray:
    """Camera axes as columns (3, 3): right, up, backward."""
    back = np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    return np.stack([right, np.cross(back, right), back], axis=1)
