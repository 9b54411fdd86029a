"""A scene as it goes into files: moved, its origins placed, its textures within bounds, with the nodes that an engine asked for."""

from __future__ import annotations

import threading

import numpy as np

from ...contract.request import ExportOptions
from ...contract.scene import Mesh, Pose, Scene, SceneObject
from .floor import floor_of, ground
from .frames import compose, inverse, move_mesh, move_splats

_EYE = np.eye(3)


class Assembly:
    """`scene`: every object where the options want it, what all formats are made of. Levels and hulls are made once, when the first file with nodes is written."""

    def __init__(self, scene: Scene, options: ExportOptions) -> None:
        origin = options.origin or options.usual.origin
        largest = options.max_texture or options.usual.texture_size
        things = [_textured(_recentred(thing, origin), largest) for thing in scene.objects]
        self.scene = _moved(scene.replace(objects=tuple(things), files={}), options.space)
        self.options = options
        self._parts: dict[int, list[SceneObject]] = {}
        self._making = threading.Lock()

    def alone(self, index: int, *, nodes: bool = False) -> Scene:
        """One object as a scene of its own, in its own frame (so without the picture's camera)."""
        things = self._with_parts(index) if nodes else [self.scene.objects[index]]
        return self.scene.replace(objects=tuple(thing.replace(pose=Pose()) for thing in things), camera=None)

    def nodes(self) -> Scene:
        """The whole scene with levels, hulls and the ground."""
        things = [part for index in range(len(self.scene.objects)) for part in self._with_parts(index)]
        if self.options.ground and (plane := ground(self.scene, _free("ground", things))) is not None:
            things.append(plane)
        return self.scene.replace(objects=tuple(things))

    def _with_parts(self, index: int) -> list[SceneObject]:
        with self._making:  # files are made in several threads
            if index not in self._parts:
                self._parts[index] = _parts(self.scene.objects[index], self.options)
            return self._parts[index]


def _parts(thing: SceneObject, options: ExportOptions) -> list[SceneObject]:
    """The object, its levels of detail, its hull: all with its pose."""
    if thing.mesh is None or not (options.lods or options.collision):
        return [thing]
    from . import parts

    name, found = thing.name, [thing]
    if options.lods:
        found = [thing.replace(name=f"{name}_LOD0")]
        found += [
            SceneObject(f"{name}_LOD{i}", mesh, pose=thing.pose) for i, mesh in enumerate(parts.levels(thing.mesh, options.lods), start=1)
        ]
    if options.collision:
        found.append(SceneObject(options.usual.collision.format(name=found[0].name), parts.hull(thing.mesh), pose=thing.pose))
    return found


def _moved(scene: Scene, space: str) -> Scene:
    """To where `space` wants it, the camera along with it."""
    if space == "object":
        return scene.replace(objects=tuple(thing.replace(pose=Pose()) for thing in scene.objects), camera=None)
    floor = floor_of(scene) if space == "floor" else None
    if floor is None:
        return scene
    back = inverse(floor)
    camera = None if scene.camera is None else scene.camera.replace(pose=compose(back, scene.camera.pose))
    return scene.replace(objects=tuple(thing.replace(pose=compose(back, thing.pose)) for thing in scene.objects), camera=camera)


def _recentred(thing: SceneObject, where: str) -> SceneObject:
    """The same object in the same place, its own origin in the middle of its box, or of its box's base."""
    points = thing.mesh.vertices if thing.mesh is not None else thing.splats.positions if thing.splats is not None else np.zeros((0, 3))
    points = points[np.isfinite(points).all(axis=1)]
    if where == "keep" or len(points) == 0:
        return thing
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    origin = (low + high) / 2
    if where == "bottom":
        origin[1] = low[1]
    mesh = None if thing.mesh is None else move_mesh(thing.mesh, _EYE, translation=-origin)
    splats = None if thing.splats is None else move_splats(thing.splats, _EYE, translation=-origin)
    return thing.replace(mesh=mesh, splats=splats, pose=thing.pose.replace(translation=tuple(thing.pose.apply(origin).tolist())))


def _textured(thing: SceneObject, largest: int | None) -> SceneObject:
    """With a texture of at most `largest` texels a side, made smaller by area means. Pixel art (sampler `nearest`) keeps its own."""
    mesh: Mesh | None = thing.mesh
    if largest is None or mesh is None or mesh.texture is None or mesh.sampler == "nearest" or max(mesh.texture.shape[:2]) <= largest:
        return thing
    from PIL import Image

    height, width = (max(1, round(side * largest / max(mesh.texture.shape[:2]))) for side in mesh.texture.shape[:2])
    smaller = np.asarray(Image.fromarray(mesh.texture).resize((width, height), Image.Resampling.BOX))
    return thing.replace(mesh=mesh.replace(texture=smaller))


def _free(name: str, things: list[SceneObject]) -> str:
    """The name, with a number where an object has it already."""
    taken = {thing.name for thing in things}
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found
