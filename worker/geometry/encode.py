"""Scene -> files, as bytes. The one entry that the worker, and through it every front door, uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from ...contract.errors import OptionError, OutputError
from ...contract.names import unique_filenames
from ...contract.request import FORMATS, MESH_PICTURES, MESHES, PICTURES, SPLATS, ExportOptions
from ...contract.scene import Pose, Scene, SceneObject, Splats
from ...contract.targets import METRES
from ..job import Job, QuietJob
from .assemble import Assembly
from .files.glb import glb
from .files.mesh_ply import mesh_ply
from .files.obj import obj
from .files.png import Textures
from .files.splat import splat
from .files.splat_ply import SplatPly
from .files.stl import stl
from .frames import FRAMES, Motion, move_mesh, move_splats, place_mesh, place_splats
from .surfaces import checked, textured

T = TypeVar("T")
File = bytes | memoryview
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
HANDS = min(8, CORES)  # threads for what files are made of: a texture, or some thousand splats, each
WRITERS = min(4, CORES)  # files that are being put together at a time: some take several times their size in memory
_WITH_NODES = ("glb", "obj")  # formats of named parts: levels of detail, hulls and the ground go into these
_UP = {"y": FRAMES["y_up"], "z": FRAMES["z_up"]}


def encode(
    scene: Scene, formats: Iterable[str], options: ExportOptions | None = None, job: Job | None = None, photo: np.ndarray | None = None
) -> dict[str, File]:
    """File name -> bytes or a view of them, for each format the whole scene: GLB with a node per object, the others with the poses applied.

    With several objects and `options.objects`, also `objects/<name>.<suffix>` one by one, each in its own frame, for every mesh and splat
    format. An object without a mesh is left out of mesh files, one without splats out of splat files; a scene without any is an
    OutputError. Raises OptionError for an unknown format, OutputError for a missing or broken mesh and SetupError for a missing package before anything is
    encoded, and OutputError for splats without a finite row when it comes to them. Pictures show the scene as the engine placed it, whatever the options move.
    job: told between any two textures, files, pictures and lots of splats; lets its JobCancelled pass. photo: uint8 (H, W, 3) sRGB, what the scene was made of: `overlay` needs it.
    """
    options = options or ExportOptions()
    wanted = list(dict.fromkeys(formats))
    for kind in wanted:
        _check(scene, kind, photo)
    ready(wanted, options)
    files: dict[str, File] = {}
    pictures = [kind for kind in wanted if kind in PICTURES]
    ahead, tasks = _tasks(scene, [kind for kind in wanted if kind not in PICTURES], options)
    turns = sum(kind in ("turntable", "video") for kind in pictures)
    ticker = _Ticker(job or QuietJob(), len(ahead) + len(tasks) + len(pictures) - turns + turns * options.turntable_frames)
    for _ in _beside(ahead, HANDS):
        ticker.step()
    for made in _beside(tasks, WRITERS):
        files |= made
        ticker.step()
    if pictures:
        from .render.pictures import Pictures

        show = Pictures(scene, options.preview_size, options.turntable_frames, photo)
        for kind in pictures:
            files[FORMATS[kind][0]] = show.make(kind, ticker.step)
    return files


def ready(formats: Iterable[str], options: ExportOptions) -> None:
    """SetupError where a package is missing that these files need. To be asked before an engine works for minutes."""
    wanted = set(formats)
    if (options.lods or options.collision) and wanted & set(_WITH_NODES):
        from . import parts

        parts.need()
    if "video" in wanted:
        from .files.mp4 import need

        need()


def _beside(calls: Sequence[Callable[[], T]], threads: int) -> Iterator[T]:
    """What the calls return, in their order; so many run at a time, since compressing and copying let other threads run. Whoever stops listening waits for
    no more than what has begun."""
    if min(len(calls), threads) < 2:
        yield from (call() for call in calls)
        return
    with ThreadPoolExecutor(min(threads, len(calls)), "encode") as pool:
        yield from pool.map(lambda call: call(), calls)  # left early, it cancels what hasn't begun


def _tasks(
    scene: Scene, formats: Sequence[str], options: ExportOptions
) -> tuple[list[Callable[[], object]], list[Callable[[], Mapping[str, File]]]]:
    """What the files of meshes and splats are made of (textures, lots of splats), and then a task for each file."""
    if not formats:
        return [], []
    assembly, textures = Assembly(scene, options), Textures()
    ahead: list[Callable[[], object]] = []
    if set(formats) & set(_WITH_NODES):
        meshes = [thing.mesh for thing in assembly.scene.objects if thing.mesh is not None]
        ahead += [partial(textures.png, mesh.texture) for mesh in meshes if textured(mesh)]
    single = options.objects and len(scene.objects) > 1
    stems, mesh_stems = _stems(assembly.scene)
    tasks: list[Callable[[], Mapping[str, File]]] = []
    for kind in formats:
        nodes = kind in _WITH_NODES
        stem, _, suffix = FORMATS[kind][0].rpartition(".")
        scenes: list[tuple[str, Callable[[], Scene]]] = [(stem, assembly.nodes if nodes else lambda: assembly.scene)]
        for index, name in enumerate(mesh_stems if kind == "mesh_ply" else stems) if single else ():
            if _has(scene.objects[index], kind):
                scenes.append((f"objects/{name}", partial(assembly.alone, index, nodes=nodes)))
        for stem, make in scenes:
            if kind == "ply":
                ply = _splat_ply(make(), options)
                ahead += ply.blocks()
                tasks.append(partial(_finished, f"{stem}.{suffix}", ply))
            else:
                tasks.append(partial(_write, make, kind, stem, suffix, options, textures))
    return ahead, tasks


class _Ticker:
    """Counts what is done and tells the job, which may answer with JobCancelled."""

    def __init__(self, job: Job, total: int) -> None:
        self.job, self.total, self.done = job, max(total, 1), 0
        job.step("encode", 0, self.total)

    def step(self) -> None:
        self.done += 1
        self.job.step("encode", self.done, self.total)


def _has(thing: SceneObject, kind: str) -> bool:
    if kind in PICTURES and kind not in MESH_PICTURES:
        return thing.mesh is not None or thing.splats is not None
    return (thing.splats if kind in SPLATS else thing.mesh) is not None


def _check(scene: Scene, kind: str, photo: np.ndarray | None) -> None:
    """The format is known, the scene has what it shows, whole, and what it takes is there."""
    if kind not in FORMATS:
        raise OptionError(f"{kind!r} is no output format.", f"Choose among: {', '.join(FORMATS)}.")
    if not any(_has(thing, kind) for thing in scene.objects):
        missing = "splats" if kind in SPLATS else "mesh" if kind in (*MESHES, *MESH_PICTURES) else "mesh and no splats"
        raise OutputError(f"This scene has no {missing}: {FORMATS[kind][0]} can't be made of it.", "Ask for other formats.")
    if kind in MESHES:
        for thing in scene.objects:
            if thing.mesh is not None:
                checked(thing.mesh, thing.name)
    if kind == "overlay" and photo is None:
        raise OutputError("An overlay needs the photo, which a scene doesn't hold.", "Ask for it together with the reconstruction.")
    if kind == "overlay" and scene.camera is None:
        raise OutputError(
            "An overlay needs the photo's camera, and this scene has none.",
            "With the engine sam3d: frame = camera, and a point map with intrinsics.",
        )


def _stems(scene: Scene) -> tuple[list[str], list[str]]:
    """A stem for each object's files, and another for its mesh PLY (its splats have the .ply of the first)."""
    names = [thing.name for thing in scene.objects]
    stems = unique_filenames([*names, *(f"{name}.mesh" for name in names)])
    return stems[: len(names)], stems[len(names) :]


def _splat_ply(scene: Scene, options: ExportOptions) -> SplatPly:
    """Every object's splats, placed and turned as they are written."""
    turn = Motion(_splats_turn(options))
    parts = [(thing.splats, thing.pose) for thing in scene.objects if thing.splats is not None]
    placed = [(splats, () if pose == Pose() else (Motion(pose.rotation_matrix(), pose.scale, pose.translation),)) for splats, pose in parts]
    return SplatPly([(splats, (*moves, turn)) for splats, moves in placed], options.pad_sh)


def _finished(name: str, ply: SplatPly) -> Mapping[str, File]:
    return {name: ply.file()}


def _splats_turn(options: ExportOptions) -> np.ndarray:
    return FRAMES[options.ply_frame or options.usual.ply_frame]


def _write(make: Callable[[], Scene], kind: str, stem: str, suffix: str, options: ExportOptions, textures: Textures) -> Mapping[str, File]:
    scene, name, usual = make(), f"{stem}.{suffix}", options.usual
    if kind == "glb":
        return {name: glb(scene, textures, camera_node=usual.camera_node if options.camera_node is None else options.camera_node)}
    if kind == "splat":
        return {name: splat(move_splats(all_splats(scene), _splats_turn(options)))}
    turn, unit = _UP[options.up_of(kind)], METRES[options.unit or usual.unit]
    placed = [(thing.name, place_mesh(thing.mesh, thing.pose)) for thing in scene.objects if thing.mesh is not None]
    meshes = placed if unit == 1 and (turn == np.eye(3)).all() else [(name, move_mesh(mesh, turn, unit)) for name, mesh in placed]
    if kind == "obj":
        folder, _, base = stem.rpartition("/")
        return {f"{folder}/{file}" if folder else file: data for file, data in obj(meshes, base, textures).items()}
    return {name: (stl if kind == "stl" else mesh_ply)([mesh for _, mesh in meshes])}


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
