"""Scene -> files, as bytes. The one entry that the worker, and through it every front door, uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from ...contract.errors import OptionError, OutputError
from ...contract.names import unique_filenames
from ...contract.request import FORMATS, ExportOptions
from ...contract.scene import Pose, Scene, SceneObject, Splats
from ..job import Job, QuietJob
from .files.glb import glb
from .files.mesh_ply import mesh_ply
from .files.obj import obj
from .files.png import Textures
from .files.splat import splat
from .files.splat_ply import splat_ply
from .files.stl import stl
from .frames import FRAMES, move_mesh, move_splats, place_mesh, place_splats
from .surfaces import checked

MESH_FORMATS = ("glb", "obj", "stl", "mesh_ply")
SPLAT_FORMATS = ("ply", "splat")
_PICTURES = ("preview", "turntable")


def encode(scene: Scene, formats: Iterable[str], options: ExportOptions | None = None, job: Job | None = None) -> dict[str, bytes]:
    """File name -> bytes, for each format the whole scene: GLB with a node per object, the others with the poses applied.

    With several objects and `options.objects`, also `objects/<name>.<suffix>` one by one, each in its own frame, for every mesh and splat
    format. An object without a mesh is left out of mesh files, one without splats out of splat files; a scene without any is an
    OutputError. Raises OptionError for an unknown format and OutputError for a missing or broken mesh before anything is encoded, and for
    splats without a finite row when it comes to them.
    job: told between any two files and pictures; lets its JobCancelled pass.
    """
    options = options or ExportOptions()
    wanted = list(dict.fromkeys(formats))
    for kind in wanted:
        _check(scene, kind)
    single = options.objects and len(scene.objects) > 1
    stems, mesh_stems = _stems(scene)
    textures = Textures()
    tasks: list[Callable[[], dict[str, bytes]]] = []
    for kind in wanted:
        if kind in _PICTURES:
            continue
        stem, _, suffix = FORMATS[kind][0].rpartition(".")
        tasks.append(partial(_write, scene, kind, stem, suffix, options, textures))
        for name, thing in zip(mesh_stems if kind == "mesh_ply" else stems, scene.objects if single else ()):
            if _has(thing, kind):
                tasks.append(partial(_write, _alone(scene, thing), kind, f"objects/{name}", suffix, options, textures))
    ticker = _Ticker(job or QuietJob(), len(tasks) + ("preview" in wanted) + options.turntable_frames * ("turntable" in wanted))
    files: dict[str, bytes] = {}
    for task in tasks:
        files |= task()
        ticker.step()
    if any(kind in wanted for kind in _PICTURES):
        from .render.pictures import preview, turntable

        if "preview" in wanted:
            files[FORMATS["preview"][0]] = preview(scene, options.preview_size)
            ticker.step()
        if "turntable" in wanted:
            files[FORMATS["turntable"][0]] = turntable(scene, options.preview_size, options.turntable_frames, ticker.step)
    return files


class _Ticker:
    """Counts what is done and tells the job, which may answer with JobCancelled."""

    def __init__(self, job: Job, total: int) -> None:
        self.job, self.total, self.done = job, max(total, 1), 0
        job.step("encode", 0, self.total)

    def step(self) -> None:
        self.done += 1
        self.job.step("encode", self.done, self.total)


def _has(thing: SceneObject, kind: str) -> bool:
    if kind in _PICTURES:
        return thing.mesh is not None or thing.splats is not None
    return (thing.mesh if kind in MESH_FORMATS else thing.splats) is not None


def _check(scene: Scene, kind: str) -> None:
    """The format is known and the scene has what it shows, whole."""
    if kind not in FORMATS:
        raise OptionError(f"{kind!r} is no output format.", f"Choose among: {', '.join(FORMATS)}.")
    if not any(_has(thing, kind) for thing in scene.objects):
        missing = "mesh" if kind in MESH_FORMATS else "splats" if kind in SPLAT_FORMATS else "mesh and no splats"
        raise OutputError(f"This scene has no {missing}: {FORMATS[kind][0]} can't be made of it.", "Ask for other formats.")
    if kind in MESH_FORMATS:
        for thing in scene.objects:
            if thing.mesh is not None:
                checked(thing.mesh, thing.name)


def _stems(scene: Scene) -> tuple[list[str], list[str]]:
    """A stem for each object's files, and another for its mesh PLY (its splats have the .ply of the first)."""
    names = [thing.name for thing in scene.objects]
    stems = unique_filenames([*names, *(f"{name}.mesh" for name in names)])
    return stems[: len(names)], stems[len(names) :]


def _alone(scene: Scene, thing: SceneObject) -> Scene:
    """One object as a scene of its own, in its own frame (so without the picture's camera)."""
    return scene.replace(objects=(thing.replace(pose=Pose()),), camera=None, files={})


def _write(scene: Scene, kind: str, stem: str, suffix: str, options: ExportOptions, textures: Textures) -> dict[str, bytes]:
    name = f"{stem}.{suffix}"
    if kind == "glb":
        return {name: glb(scene, textures)}
    if kind in SPLAT_FORMATS:
        splats = move_splats(all_splats(scene), FRAMES[options.ply_frame])
        return {name: splat_ply(splats) if kind == "ply" else splat(splats)}
    meshes = [(thing.name, place_mesh(thing.mesh, thing.pose)) for thing in scene.objects if thing.mesh is not None]
    if kind == "obj":
        folder, _, base = stem.rpartition("/")
        return {f"{folder}/{file}" if folder else file: data for file, data in obj(meshes, base, textures).items()}
    if kind == "stl":
        return {name: stl([mesh for _, mesh in meshes])}
    # y_down is a habit of splat files, which splat viewers undo; no reader of meshes does, so there it would stand on its head.
    turn = FRAMES["z_up" if options.ply_frame == "z_up" else "y_up"]
    return {name: mesh_ply([move_mesh(mesh, turn) for _, mesh in meshes])}


def all_splats(scene: Scene) -> Splats:
    """Every object's splats, placed, as one. Fewer coefficients than the richest object has are filled up with zeros."""
    placed = [place_splats(thing.splats, thing.pose) for thing in scene.objects if thing.splats is not None]
    if len(placed) == 1:
        return placed[0]
    most = max(item.sh.shape[1] for item in placed)
    padded = [np.pad(item.sh, ((0, 0), (0, most - item.sh.shape[1]), (0, 0))) for item in placed]
    return Splats(
        positions=np.concatenate([item.positions for item in placed]),
        scales=np.concatenate([item.scales for item in placed]),
        rotations=np.concatenate([item.rotations for item in placed]),
        opacities=np.concatenate([item.opacities for item in placed]),
        sh=np.concatenate(padded),
    )
