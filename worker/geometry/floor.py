"""The floor under a scene's objects: a plane fitted to where they stand (Fischler and Bolles' RANSAC, 1981), and a mesh of it."""

from __future__ import annotations

import numpy as np

from ...contract.rotations import rotation_quaternions
from ...contract.scene import Mesh, Pose, Scene, SceneObject

FOOT = 0.02  # of an object's height: what lies lower than this above its lowest point is its foot
NEAR = 0.02  # of the scene's extent: how far from the plane a foot may be and still stand on it
STEEP = np.cos(np.radians(30))  # a plane that leans more, against the objects' own mean upright, is no floor
ROUNDS = 1000
MARGIN = 0.2  # of the scene's extent, around the objects
_GREY = (190, 190, 190, 255)


def floor_of(scene: Scene) -> Pose | None:
    """Floor -> scene: y is the floor's normal, the origin lies on it under the objects' middle, x goes as the scene's x does. None without points.

    Each object says where it stands by five points: the middle of its foot, and four around it in its own level plane. So one object gives its own base,
    two give what is common to both, and one that lies on top of another is outvoted. The plane is slid down until no foot on it reaches through. Where the camera is orthographic
    (a draft's picture has no common floor) the floor is level, under the lowest foot. The same scene has the same floor.
    """
    feet = [_foot(thing) for thing in scene.objects]
    stands = np.concatenate([foot for foot in feet if foot is not None] or [np.zeros((0, 3))])
    if len(stands) == 0:
        return None
    upright = np.mean([thing.pose.rotation_matrix()[:, 1] for thing in scene.objects], axis=0)
    upright = upright / np.linalg.norm(upright) if np.linalg.norm(upright) > 1e-3 else np.array([0.0, 1.0, 0.0])
    everything = np.concatenate([_points(thing) for thing in scene.objects]).astype(np.float64)
    extent = float(np.ptp(everything, axis=0).max()) or 1.0
    flat = scene.camera is not None and scene.camera.kind == "orthographic"
    normal, on = (upright, np.ones(len(stands), bool)) if flat else _plane(stands, upright, NEAR * extent)
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2
    height = float((stands[on] @ normal).min())
    origin = middle + (height - middle @ normal) * normal
    across = np.array([1.0, 0.0, 0.0]) if abs(normal[0]) < 0.9 else np.array([0.0, 0.0, -1.0])
    x = across - (across @ normal) * normal
    x /= np.linalg.norm(x)
    axes = np.stack([x, normal, np.cross(x, normal)], axis=1)
    return Pose(tuple(rotation_quaternions(axes).tolist()), tuple(origin.tolist()))


def ground(scene: Scene, name: str = "ground") -> SceneObject | None:
    """The floor as an object: a grey square, face up, `MARGIN` larger than what stands on it. None without points."""
    pose = floor_of(scene)
    if pose is None:
        return None
    points = np.concatenate([_points(thing) for thing in scene.objects]).astype(np.float64)
    flat = ((points - pose.translation) @ pose.rotation_matrix())[:, [0, 2]]
    low, high = flat.min(axis=0), flat.max(axis=0)
    room = MARGIN * max(float((high - low).max()), 1e-3)
    (x0, z0), (x1, z1) = low - room, high + room
    corners = np.array([(x0, 0, z1), (x1, 0, z1), (x1, 0, z0), (x0, 0, z0)], np.float32)
    colors = np.tile(np.array(_GREY, np.uint8), (4, 1))
    mesh = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.uint32), vertex_colors=colors, roughness=1.0)
    return SceneObject(name, mesh, pose=pose)


def _own_points(thing: SceneObject) -> np.ndarray:
    """(N, 3) in the object's frame: mesh vertices, or the centres of splats."""
    points = thing.mesh.vertices if thing.mesh is not None else thing.splats.positions if thing.splats is not None else np.zeros((0, 3))
    return np.asarray(points[np.isfinite(points).all(axis=1)])


def _points(thing: SceneObject) -> np.ndarray:
    return thing.pose.apply(_own_points(thing))


def _foot(thing: SceneObject) -> np.ndarray | None:
    """Five points in the scene's frame (5, 3): the middle of the foot's box, and the middles of its sides, level with the lowest point."""
    points = _own_points(thing).astype(np.float64)
    if len(points) == 0:
        return None
    bottom, height = points[:, 1].min(), np.ptp(points[:, 1])
    foot = points[points[:, 1] <= bottom + FOOT * height]
    low, high = foot.min(axis=0), foot.max(axis=0)
    half = np.maximum((high - low) / 2, FOOT * np.ptp(points, axis=0).max())  # one point alone has no plane
    x, z = (low[0] + high[0]) / 2, (low[2] + high[2]) / 2
    offsets = ((0, 0), (half[0], 0), (-half[0], 0), (0, half[2]), (0, -half[2]))
    return thing.pose.apply(np.array([(x + dx, bottom, z + dz) for dx, dz in offsets]))


def _plane(points: np.ndarray, upright: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) -> a unit normal and which of them lie on the plane (N,)."""
    draw = np.random.default_rng(0)
    triples = points[draw.random((ROUNDS, len(points))).argsort(axis=1)[:, :3]]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1)
    normals = normals / np.maximum(length, 1e-30)[:, None]
    normals *= np.where(normals @ upright < 0, -1, 1)[:, None]
    good = (length > 1e-12) & (normals @ upright > STEEP)
    if not good.any():
        return upright, np.ones(len(points), bool)
    apart = np.abs(points @ normals[good].T - (triples[good, 0] * normals[good]).sum(axis=1))
    on = apart[:, (apart < near).sum(axis=0).argmax()] < near
    centre = points[on].mean(axis=0)
    fitted = np.linalg.svd(points[on] - centre)[2][2]
    fitted = fitted * (1 if fitted @ upright > 0 else -1)
    return (fitted, on) if fitted @ upright > STEEP else (upright, on)
