"""The sam3d engine: Meta's SAM 3D Objects in plain PyTorch (docs/sam3d.md).

point map -> voxels and pose -> latents -> splats and surface -> cleaned, textured mesh -> scene. Each stage's result is kept on disk under a key of what
made it (cache.py), so that a change further down samples nothing again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....contract.request import ReconstructRequest
from ....contract.scene import Camera, Mesh, Pose, Scene, SceneObject, Splats
from ...cache import Cache, key_of, open_cache
from ...geometry.frames import CANONICAL_TO_OBJECT, from_sam3d_pose, move_mesh, move_splats
from ...job import Job, timed
from ...pointmap import PointMap, from_picture, from_request
from ...sam3d.decoded import mesh_of, splats_of
from ...sam3d.networks import Networks, choose_plan
from ...sam3d.pipeline import Pipeline, StructuredLatent
from ...sam3d.pose import DecodedPose
from ...sam3d.sampler import Noise
from ...sam3d.structure import Structure, noise_for
from .mesh import finish
from .settings import settings_of
from .voxels import picture_of_voxels

if TYPE_CHECKING:
    from ...geometry.layout.refine import Refined
    from ...weights.store import Store

CODE = 1  # raised when a stage computes something else than before: old entries of the cache are then never found
SHARES = {"point map": 1.0, "structure": 8.0, "latents": 8.0, "decode": 1.0, "clean-up": 4.0, "unwrap": 2.0, "texture": 2.0}  # of the time


def reconstruct(request: ReconstructRequest, job: Job) -> Scene:
    """One object for each mask. Raises InputErrors, SetupError (no weights), OutOfMemoryError, and JobCancelled from `job`."""
    return _engine().run(request, job)


@functools.cache
def _engine() -> Engine:
    from ...weights.store import open_store

    return Engine(open_store(), open_cache(), default_device())


def default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


class Engine:
    """The networks of one store of weights on one device, kept between jobs."""

    def __init__(self, store: Store, cache: Cache, device: torch.device) -> None:
        self.store, self.cache, self.device = store, cache, device
        self.networks = Networks(store.load, device, choose_plan(device))
        self.pipeline = Pipeline(self.networks, store.architecture.size)

    def run(self, request: ReconstructRequest, job: Job) -> Scene:
        wanted = request.sam3d.memory
        self.networks.set_plan(choose_plan(self.device) if wanted == "auto" else wanted)
        try:
            return _Run(self, request, job).scene()
        except BaseException:
            self.networks.release()  # an interrupted step may have left half of its buffers
            raise


class _Run:
    """One request."""

    def __init__(self, engine: Engine, request: ReconstructRequest, job: Job) -> None:
        self.engine, self.request, self.job = engine, request, job
        self.pipeline, self.cache = engine.pipeline, engine.cache
        self.settings = settings_of(request)
        self.notes: list[str] = []
        self.pipeline.note = self._note
        self.image = torch.from_numpy(np.array(request.image))
        shapes = request.masks if request.alpha is None else request.alpha
        self.alphas = torch.from_numpy(np.array(shapes))
        self.noise = Noise(request.seed, compatible=request.sam3d.noise == "original")

    def scene(self) -> Scene:
        request, job = self.request, self.job
        job.plan(SHARES)
        with timed(job, "point map"):
            points, points_key = self._points()
        with timed(job, "structure"):
            structures, structure_keys = self._structures(points, points_key)
        with timed(job, "latents"):
            latents = self._latents(structures, structure_keys)
        objects = [self._object(i, structures[i], latents[i], points) for i in range(len(structures))]
        plan = self.engine.networks.plan
        return Scene(
            objects=tuple(objects),
            engine="sam3d",
            seed=request.seed,
            camera=_camera(points, request) if request.sam3d.frame == "camera" else None,
            timings=dict(job.timings),
            warnings=(*self.engine.store.warnings, *dict.fromkeys(self.notes)),
            parameters={
                **request.parameters(),
                "in_effect": {**self.settings.facts(), "memory": plan, "weights": self.engine.store.origin},
            },
        )

    def _note(self, text: str) -> None:
        """Something went otherwise than planned: the user reads it now and with the result."""
        self.notes.append(text[0].upper() + text[1:] + ".")
        self.job.log(text, "warning")

    # -- stages, each looked up before it is computed

    def _points(self) -> tuple[PointMap, str]:
        given = from_request(self.request)
        if given is not None:
            return given, key_of("points", points=given.points)
        key = self._key("points", image=self.request.image)
        if (found := self.cache.get(key)) is not None:
            return PointMap(found[1]["points"], found[1]["intrinsics"], found[0]["source"], found[0]["metric"]), key
        self.job.step("point map", 0, 1)
        points = self.pipeline.insisting("point map", self._moge)
        arrays = {"points": points.points, "intrinsics": points.intrinsics}
        self.cache.put(key, {"source": points.source, "metric": points.metric}, {k: v for k, v in arrays.items() if v is not None})
        self.job.step("point map", 1, 1)
        return points, key

    def _moge(self) -> PointMap:
        with self.engine.networks.use("moge") as moge:
            return from_picture(moge, self.request.image)

    def _structures(self, points: PointMap, points_key: str) -> tuple[list[Structure], list[str]]:
        options = self.settings.structure
        keys = [
            self._key(
                "structure",
                points=points_key,
                mask=self.alphas[i].numpy(),
                number=i,
                options=vars(options),
                **self._drawn(self.request.seed),
            )
            for i in range(len(self.alphas))
        ]
        made = {i: _structure_of(found) for i, key in enumerate(keys) if (found := self.cache.get(key)) is not None}
        missing = [i for i in range(len(keys)) if i not in made]
        if missing:
            pointmap = torch.from_numpy(np.array(points.points)).permute(2, 0, 1)
            fresh = self.pipeline.structures(
                self.image, self.alphas[missing], pointmap, options, self.noise, numbers=missing, on_step=self._report("structure")
            )
            for i, item in zip(missing, fresh):
                made[i] = item
                self.cache.put(keys[i], *_packed_structure(item))
        if self.noise.compatible:  # stage 2 goes on where stage 1 stopped, also where stage 1 wasn't run
            noise_for(self.noise, [i for i in range(len(keys)) if i not in missing], self.engine.store.architecture.grid // 4)
        ordered = [made[i] for i in range(len(keys))]
        self.job.preview(picture_of_voxels([item.coords.numpy()[:, 1:] for item in ordered], self.engine.store.architecture.grid))
        return ordered, keys

    def _latents(self, structures: Sequence[Structure], keys: Sequence[str]) -> list[StructuredLatent]:
        options = self.settings.latents
        seed = self.request.seed if self.request.sam3d.latent_seed is None else self.request.sam3d.latent_seed
        own = [self._key("latents", structure=key, options=vars(options), **self._drawn(seed)) for key in keys]
        made = {
            i: StructuredLatent(structures[i].coords, torch.from_numpy(found[1]["features"]))
            for i, key in enumerate(own)
            if (found := self.cache.get(key)) is not None
        }
        missing = [i for i in range(len(own)) if i not in made]
        if missing:
            coords = [structures[i].coords for i in missing]
            noise = self.noise if seed == self.request.seed else Noise(seed, compatible=self.noise.compatible)
            fresh = self.pipeline.latents(
                self.image, self.alphas[missing], coords, options, noise, numbers=missing, on_step=self._report("latents")
            )
            for i, item in zip(missing, fresh):
                made[i] = item
                self.cache.put(own[i], {}, {"features": item.features.numpy()})
        return [made[i] for i in range(len(own))]

    def _object(self, index: int, structure: Structure, latent: StructuredLatent, points: PointMap) -> SceneObject:
        """Decode one object and finish it."""
        job, settings, count = self.job, self.settings, len(self.alphas)
        with timed(job, "decode"):
            job.step("decode", 2 * index, 2 * count)
            splats = splats_of(self.pipeline.splats(latent, settings.splats_per_voxel)) if settings.needs_splats() else None
            job.step("decode", 2 * index + 1, 2 * count)
            mesh = mesh_of(self.pipeline.surface(latent)) if settings.want_mesh else None
            if mesh is not None and len(mesh.faces) == 0:  # one empty mesh must not cost the others their file
                self._note(f"{self.request.names[index]} has no surface")
                mesh = None
        info: dict[str, Any] = {"voxels": len(structure.coords), "downsample": structure.downsample}
        if mesh is not None:
            mesh, more = finish(mesh, splats, self.request, settings, job, self.pipeline)
            info |= more
            mesh = move_mesh(mesh, CANONICAL_TO_OBJECT)
        if splats is not None:
            splats = move_splats(splats, CANONICAL_TO_OBJECT) if settings.want_splats else None
        if self.request.sam3d.frame == "object":
            mesh, splats, pose = *_upright(mesh, splats, self.request.size), Pose()
            return SceneObject(name=self.request.names[index], mesh=mesh, splats=splats, pose=pose, info=info)
        pose, score = _pose_of(structure.pose), None
        if self.request.sam3d.layout and mesh is not None and points.intrinsics is not None:
            with timed(job, "layout"):
                refined = self._refined(index, mesh, pose, points)
            pose, score = refined.pose, refined.score
            info["layout"] = dict(refined.report)
        return SceneObject(name=self.request.names[index], mesh=mesh, splats=splats, pose=pose, score=score, info=info)

    def _refined(self, index: int, mesh: Mesh, pose: Pose, points: PointMap) -> Refined:
        from ...geometry.layout.refine import refine

        self.job.step("layout", index, len(self.alphas))
        return refine(
            mesh, pose, self.request.masks[index], points.points, points.intrinsics, device=self.engine.device,
            watch=lambda step: self.job.step("layout", index, len(self.alphas)),
        )  # fmt: skip

    # -- keys, progress

    def _key(self, stage: str, **parts: Any) -> str:
        return key_of(stage, code=CODE, weights=self.engine.store.digest, device=self.engine.device.type, **parts)

    def _drawn(self, seed: int) -> dict[str, Any]:
        """What decides the noise."""
        return {"seed": seed, "noise": self.request.sam3d.noise}

    def _report(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.job.step(stage, done, total)


def _camera(points: PointMap, request: ReconstructRequest) -> Camera | None:
    """The photo's: at the origin, unturned (docs/frames.md)."""
    if points.intrinsics is None:
        return None
    height, width = request.image.shape[:2]
    return Camera("perspective", width, height, yfov=2 * math.atan(0.5 / float(points.intrinsics[1, 1])))


def _pose_of(pose: DecodedPose) -> Pose:
    return from_sam3d_pose(pose.rotation[0].tolist(), pose.translation[0].tolist(), pose.scale[0].tolist())


def _upright(mesh: Mesh | None, splats: Splats | None, size: float) -> tuple[Mesh | None, Splats | None]:
    """An object for itself: standing on the middle of its base, its longest side `size` metres."""
    points = mesh.vertices if mesh is not None else splats.positions if splats is not None else np.zeros((1, 3), np.float32)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = size / max(float((high - low).max()), 1e-9)
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    moved = tuple(-scale * base)
    eye = np.eye(3)
    return (
        None if mesh is None else move_mesh(mesh, eye, scale, moved),
        None if splats is None else move_splats(splats, eye, scale, moved),
    )


def _packed_structure(item: Structure) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """As an entry of the cache."""
    pose = {f"pose.{name}": value.numpy() for name, value in vars(item.pose).items()}
    return {"downsample": item.downsample}, {"coords": item.coords.numpy(), "original": item.original.numpy(), **pose}


def _structure_of(entry: tuple[Mapping[str, Any], Mapping[str, np.ndarray]]) -> Structure:
    arrays = {name: torch.from_numpy(np.array(value)) for name, value in entry[1].items()}
    pose = DecodedPose(**{name.removeprefix("pose."): value for name, value in arrays.items() if name.startswith("pose.")})
    return Structure(arrays["coords"], arrays["original"], entry[0]["downsample"], pose)
