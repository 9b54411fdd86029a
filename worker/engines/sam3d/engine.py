"""The sam3d engine: Meta's SAM 3D Objects in plain PyTorch (docs/sam3d.md).

point map, picture -> voxels and pose -> latents -> splats and surface -> cleaned, textured mesh -> scene. Each stage's result is kept under a key of what made
it (cache.py), so that a change further down makes nothing again. All keys follow from the request alone: what will run is known, and planned, before it does.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....contract.request import PrepareRequest, ReconstructRequest
from ....contract.scene import Camera, Mesh, Pose, Scene, SceneObject, Splats
from ....contract.version import VERSION
from ...cache import Cache, key_of, open_cache
from ...geometry.frames import CANONICAL_TO_OBJECT, from_sam3d_pose, move_mesh, move_splats
from ...job import Job, Planned, timed
from ...ops import backends
from ...pointmap import PointMap
from ...sam3d.networks import PLANS, Networks, Plan, choose_plan
from ...sam3d.pipeline import BESIDE, EMBEDDERS, Pipeline, StructuredLatent
from ...sam3d.pose import DecodedPose
from ...sam3d.sampler import Noise
from ...sam3d.structure import Structure, noise_for
from ...sam3d.turns import Turns
from . import hands, kept
from .mesh import Finished, Finisher
from .picture import Picture
from .settings import settings_of
from .voxels import picture_of_voxels

if TYPE_CHECKING:
    from ...weights.store import Store

CODE = 2  # raised when a stage computes something else than before: old entries of the cache are then never found
VOXELS = 20_000  # of an object, as long as none has been seen: for the time that it may take
_NOTHING = (0, 0, 0)  # of `_size`: a picture without objects
# Shares of the time for one object, where no earlier job tells.
SHARES = {"structure": 8.0, "latents": 8.0, "decode": 0.5, "clean-up": 4.0, "unwrap": 2.0, "texture": 2.0, "layout": 4.0, hands.STAGE: 4.0}


@functools.cache
def engine() -> Engine:
    """This process's. Raises SetupError: no weights, or SAM3D_OPS names what can't run."""
    from ...weights.store import open_store

    device = default_device()
    backends.check(device)
    return Engine(open_store(), open_cache(), device)


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
        self.voxels = VOXELS  # of an object of the last job
        self.hands: int | None = None  # objects finished at a time; None: as many as there is room for (hands.py)
        self.overlap = True  # finish objects while others are sampled, where there is room for both
        self.group = hands.GROUP  # objects sampled together then
        self._ran_out: list[_RanOut] = []

    def __call__(self, request: ReconstructRequest, job: Job) -> Scene:
        """One object for each mask. Raises InputErrors, SetupError (no weights), OutOfMemoryError, and JobCancelled from `job`."""
        with self._at_work(request.sam3d.memory, job, _size(request)) as notes:
            return _Run(self, request, job, notes).scene()

    def prepare(self, request: PrepareRequest, job: Job) -> None:
        """Make and keep what depends on the picture alone; raises as a call does."""
        with self._at_work(request.sam3d.memory, job):
            self.pipeline.note = lambda text: job.log(text, "warning")
            picture = Picture(self, request, job)
            job.plan(picture.missing(), self.where)
            picture.prepare()

    def key(self, stage: str, **parts: Any) -> str:
        """Of a stage's result: what is told here, and what decides every result."""
        common = {"code": f"{VERSION} {CODE}", "weights": self.store.digest, "device": self.device.type, "dtype": str(self.store.dtype)}
        return key_of(stage, **common, ops=os.environ.get("SAM3D_OPS", ""), **parts)

    @property
    def where(self) -> str:
        """What does the work, for what is known of its times."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"sam3d {name} {self.networks.plan}"

    @contextmanager
    def _at_work(self, memory: str, job: Job, size: tuple[int, ...] = _NOTHING) -> Iterator[list[str]]:
        """size: of what is to be done. Yields what is to be told with the result."""
        plan, notes = (memory, []) if memory != "auto" else self._chosen(size)
        self.networks.set_plan(plan)  # type: ignore[arg-type]
        self.pipeline.turns = Turns()
        try:
            for text in notes:
                job.log(text, "warning")
            yield notes
        except BaseException as problem:
            _let_go(problem)
            self.pipeline.forget()
            raise
        else:
            smaller = PLANS.index(self.networks.plan)
            if memory == "auto":
                self._ran_out += [_RanOut(one, size) for one in PLANS[PLANS.index(plan) : smaller]]  # type: ignore[arg-type]
        finally:
            self.pipeline.note = print  # the job's own holds on to the job, and that to its picture
            self.networks.tidy()

    def _chosen(self, size: tuple[int, ...]) -> tuple[Plan, list[str]]:
        """The plan by free memory, or a smaller one where that ran out with as much to do or less, which is said once."""
        first = plan = choose_plan(self.device)
        new = False
        while found := next((one for one in self._ran_out if one.plan == plan and one.within(size)), None):
            plan = PLANS[PLANS.index(plan) + 1]
            new, found.said = new or not found.said, True
        text = f"The plan `{first}` ran out of memory before with as much to do or less; it is `{plan}` from now on."
        return plan, [text] if new else []


@dataclass
class _RanOut:
    """A plan that ran out of memory where a smaller one didn't. said: people know."""

    plan: Plan
    size: tuple[int, ...]
    said: bool = False

    def within(self, size: tuple[int, ...]) -> bool:
        """Was it no larger in any respect?"""
        return all(own <= other for own, other in zip(self.size, size))


def _size(request: ReconstructRequest) -> tuple[int, ...]:
    """What a request takes memory for: its objects, a texture's side, splats of a voxel."""
    settings = settings_of(request)
    return len(request.masks if request.alpha is None else request.alpha), settings.texture_size, settings.splats_per_voxel


def _let_go(problem: BaseException | None) -> None:
    """Frames that an exception ended keep their tensors as long as it lives; nobody looks at them."""
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem = problem.__cause__ or problem.__context__
    gc.collect()


class _Run:
    """One request."""

    def __init__(self, engine: Engine, request: ReconstructRequest, job: Job, notes: list[str]) -> None:
        """notes: what is known already, for the result."""
        self.engine, self.request, self.notes = engine, request, notes
        self.pipeline, self.cache = engine.pipeline, engine.cache
        self.settings = settings_of(request)
        shapes = request.masks if request.alpha is None else request.alpha
        self.alphas = torch.from_numpy(np.array(shapes))
        self.count = len(shapes)
        self.hands = self._hands()
        self.pipeline.turns = Turns(alone=self.hands == 1)
        self.job = job = job if self.hands == 1 else hands.Shared(job, self.count)
        self.pipeline.note = self._note
        self.picture = Picture(engine, request, job)
        self.noise = Noise(request.seed, compatible=request.sam3d.noise == "original")
        self.latent_seed = request.seed if request.sam3d.latent_seed is None else request.sam3d.latent_seed
        self.structure_keys = [
            engine.key(
                "structure",
                points=self.picture.points_key,
                picture=self.picture.key,
                mask=shapes[i],
                number=i,
                options=vars(self.settings.structure),
                **self._drawn(request.seed),
            )
            for i in range(self.count)
        ]
        self.latent_keys = [
            engine.key("latents", structure=key, options=vars(self.settings.latents), **self._drawn(self.latent_seed))
            for key in self.structure_keys
        ]
        self.finishers = [Finisher(engine, request, self.settings, key) for key in self.latent_keys]

    def _hands(self) -> int:
        """Objects finished at a time."""
        known = self.pipeline.most.get(BESIDE, self.count)
        return min(self.count, known, hands.most(self.engine.networks, self.count) if self.engine.hands is None else self.engine.hands)

    def _beside(self) -> bool:
        """Are objects finished while others are sampled? Not where they are all sampled together."""
        if self.hands == 1 or not self.engine.overlap:
            return False
        several = sum(not self.cache.holds(key) for key in self.latent_keys) > self.engine.group
        return several and hands.fits_beside(self.engine.networks, self.count, self.hands)

    def scene(self) -> Scene:
        request, job = self.request, self.job
        self._plan()
        points = self.picture.points()
        with timed(job, "structure"):
            structures = self._structures(points)
        voxels = [len(item.coords) for item in structures]
        self.engine.voxels = max(voxels)
        self._plan(voxels)
        said = len(self.notes)
        with hands.Finishing[SceneObject](self.count, self.hands, job, self.engine.device) as finishing:

            def begin(index: int, latent: StructuredLatent) -> None:
                finishing.begin(index, functools.partial(self._object, index, structures[index], latent, points))

            if beside := self._beside():
                hands.make_free(self.engine.networks, self.hands)
            with timed(job, "latents"):
                latents = self._latents(structures, begin if beside else None)
            if not beside:
                said = len(self.notes)
                for index, latent in enumerate(latents):
                    begin(index, latent)
            objects = finishing.results()
        self.notes[said:] = sorted(self.notes[said:])  # in whatever order the objects were finished
        return Scene(
            objects=tuple(objects),
            engine="sam3d",
            seed=request.seed,
            camera=_camera(points, request) if request.sam3d.frame == "camera" else None,
            timings=dict(job.timings),
            warnings=(*self.engine.store.warnings, *dict.fromkeys(self.notes)),
            parameters={
                **request.parameters(),
                "in_effect": {
                    **self.settings.facts(),
                    "memory": self.engine.networks.plan,
                    "weights": self.engine.store.origin,
                    "weights_digest": self.engine.store.digest,
                },
            },
        )

    def _note(self, text: str) -> None:
        """Something went otherwise than planned: the user reads it now and with the result."""
        self.notes.append(text[0].upper() + text[1:] + ".")
        self.job.log(text, "warning")

    # -- what is to come

    def _plan(self, voxels: Sequence[int] | None = None) -> None:
        """Tell the job which stages will run. voxels: of each object, once stage 1 has found them."""
        own, holds = self.settings, self.cache.holds
        structures = [i for i in range(self.count) if voxels is None and not holds(self.structure_keys[i])]
        latents = [i for i in range(self.count) if not holds(self.latent_keys[i])]
        counts = [self.engine.voxels] * self.count if voxels is None else voxels
        needed = {EMBEDDERS[0]: structures, EMBEDDERS[1]: latents}
        tokens = float(sum(1 for name, objects in needed.items() if objects and not self.picture.holds(name)))
        row = [item for item in self.picture.missing() if item.stage == "point map" and voxels is None]
        row += [Planned("picture", 0.1, tokens)] if tokens else []
        row += self._planned("structure", own.structure.evaluations() * len(structures), len(structures))
        beside = self._beside()  # then sampling takes longer, and a part of the finishing is over when its stage begins
        evaluations = own.latents.evaluations() * sum(counts[i] for i in latents)
        row += self._planned("latents", evaluations, len(latents), key=f"latents beside {self.hands}" if beside else "")
        if self.hands > 1:
            work = [counts[i] for i, one in enumerate(self.finishers) if one.decodes_surface or one.decodes_splats]
            kind = f"{hands.STAGE} {self.hands} {own.unwrap} {own.texture}" + (f" after sampling {len(latents)}" if beside else "")
            row += self._planned(hands.STAGE, float(sum(work)), len(work), key=kind)
        for i, one in enumerate(self.finishers if self.hands == 1 else ()):
            row += self._planned("decode", counts[i] * one.decodes_surface, key="decode surface")
            row += self._planned("clean-up", counts[i] * one.cleans)
            row += self._planned("decode", counts[i] * one.decodes_splats, key=f"decode {own.splats_per_voxel} splats")
            if own.unwrap != "box":  # box charts come without a step of their own: their time is the texture's
                row += self._planned("unwrap", own.face_budget * one.bakes)
            row += self._planned("texture", own.texture_size**2 * one.bakes, key=f"texture {own.texture} {own.unwrap}")
            row += self._planned("layout", float(self.request.sam3d.layout and own.want_mesh))
        self.job.plan(row, self.engine.where)

    def _planned(self, stage: str, size: float, times: int = 1, key: str = "") -> list[Planned]:
        return [Planned(stage, SHARES[stage] * times, float(size), key)] if size else []

    # -- stages, each looked up before it is computed

    def _structures(self, points: PointMap) -> list[Structure]:
        keys = self.structure_keys
        made = {i: kept.structure_of(found) for i, key in enumerate(keys) if (found := self.cache.get(key)) is not None}
        missing = [i for i in range(self.count) if i not in made]
        if missing:
            pointmap = torch.from_numpy(np.array(points.points)).permute(2, 0, 1)
            fresh = self.pipeline.structures(
                self.picture.image, self.alphas[missing], pointmap, self.settings.structure, self.noise,
                numbers=missing, on_step=self._report("structure"), keep=self.picture.keep,
            )  # fmt: skip
            for i, item in zip(missing, fresh):
                made[i] = item
                self.cache.put(keys[i], *kept.of_structure(item))
        grid = self.engine.store.architecture.grid
        if self.noise.compatible and len(missing) < self.count:  # stage 2 goes on where stage 1 stopped, also where stage 1 wasn't run
            noise_for(self.noise, [i for i in range(self.count) if i not in missing], grid // 4)
        ordered = [made[i] for i in range(self.count)]
        self.job.preview(picture_of_voxels([item.coords.numpy()[:, 1:] for item in ordered], grid))
        return ordered

    def _latents(
        self, structures: Sequence[Structure], ready: Callable[[int, StructuredLatent], None] | None = None
    ) -> list[StructuredLatent]:
        """ready: told of each object as soon as it is there, which is group after group."""
        made = {
            i: StructuredLatent(structures[i].coords, kept.tensor_of(found))
            for i, key in enumerate(self.latent_keys)
            if (found := self.cache.get(key)) is not None
        }
        missing = [i for i in range(self.count) if i not in made]
        tell = ready or (lambda i, item: None)
        for i, item in made.items():
            tell(i, item)

        def sampled(number: int, item: StructuredLatent) -> None:
            i = missing[number]
            made[i] = item
            self.cache.put(self.latent_keys[i], *kept.of_tensor(item.features))
            tell(i, item)

        if missing:
            coords = [structures[i].coords for i in missing]
            same = self.latent_seed == self.request.seed
            noise = self.noise if same else Noise(self.latent_seed, compatible=self.noise.compatible)
            self.pipeline.latents(
                self.picture.image, self.alphas[missing], coords, self.settings.latents, noise,
                numbers=missing, on_step=self._report("latents"), keep=self.picture.keep,
                together=self.engine.group if ready else None, ready=sampled,
            )  # fmt: skip
        return [made[i] for i in range(self.count)]

    def _object(self, index: int, structure: Structure, latent: StructuredLatent, points: PointMap, job: Job) -> SceneObject:
        """Finish one object and place it. job: this object's own."""
        request, name = self.request, self.request.names[index]
        made = self.finishers[index].finish(latent, job)
        if self.settings.want_mesh and made.mesh is None:  # one empty mesh must not cost the others their file
            self._note(f"{name} has no surface")
        info: dict[str, Any] = {"voxels": len(structure.coords), "downsample": structure.downsample, **made.info}
        mesh = None if made.mesh is None else move_mesh(made.mesh, CANONICAL_TO_OBJECT)
        splats = None if made.splats is None else move_splats(made.splats, CANONICAL_TO_OBJECT)
        if request.sam3d.frame == "object":
            mesh, splats = _upright(mesh, splats, request.size)
            return SceneObject(name=name, mesh=mesh, splats=splats, info=info)
        pose, score = _pose_of(structure.pose), None
        if request.sam3d.layout and made.bare is not None and points.intrinsics is not None:
            with timed(job, "layout"):
                pose, score, info["layout"] = self._refined(index, job, made, pose, points)
        return SceneObject(name=name, mesh=mesh, splats=splats, pose=pose, score=score, info=info)

    def _refined(self, index: int, job: Job, made: Finished, pose: Pose, points: PointMap) -> tuple[Pose, float | None, dict[str, Any]]:
        """The pose, moved so that the outline fits the mask better; how well it fits; what was done."""
        from ...geometry.layout.refine import Refined, refine

        mask, bare = self.request.masks[index], made.bare
        assert bare is not None
        key = self.engine.key(
            "layout", mesh=made.bare_key, structure=self.structure_keys[index], mask=mask, intrinsics=points.intrinsics
        )  # fmt: skip
        if made.bare_key is not None and (found := self.cache.get(key)) is not None:
            refined, facts = kept.record_of(Pose, found)
            return refined, facts["score"], facts["report"]

        def run() -> Refined:
            moved = move_mesh(bare, CANONICAL_TO_OBJECT)
            return refine(moved, pose, mask, points.points, points.intrinsics, device=self.engine.device, watch=lambda step: report())

        def report() -> None:
            job.step("layout", index, self.count)

        report()
        better = self.pipeline.insisting("layout", run)
        facts = {"score": better.score, "report": dict(better.report)}
        if made.bare_key is not None:
            self.cache.put(key, *kept.of_record(better.pose, facts))
        return better.pose, better.score, facts["report"]

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
