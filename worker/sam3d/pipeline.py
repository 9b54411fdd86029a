"""The model, assembled: picture, masks and point map -> voxels and poses -> latents -> splats and surfaces, in the model's own frames.

Every step takes what the step before it made, so that results can be kept between them. Several objects of one picture share a batch as far as memory
allows. Out of memory: everything is freed and the step done again, without other threads beside it first (turns.py), then by smaller batches, then by a
smaller plan (networks.py).
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..ops.streams import settle
from . import latents as latent_space
from . import occupancy, structure
from .flexicubes import Surface
from .gaussians import Gaussians
from .networks import WEIGHTS, Networks
from .preprocess import Conditions, preprocess_objects, whole_picture
from .sampler import Noise, SamplerOptions, draw
from .sparse import Voxels
from .structure import Structure
from .turns import Turns

T = TypeVar("T")
SECOND_STAGE = "latents"
BESIDE = "beside"  # in `Pipeline.most`: objects that are worked on at a time, in whatever stage
# Bytes that one more object of a batch takes on the device: keys and values of its context, activations (docs/log.md).
STRUCTURE_BYTES, LATENT_BYTES = 1.5e9, 1.2e9
RESERVE = 1.5e9  # left free for what isn't counted
EMBEDDERS = ("structure_embedder", "latent_embedder")  # of both stages; each has tokens of the whole picture
OnStep = Callable[[int, int], None]
Ready = Callable[[int, T], None]  # the object's place among those that were asked for, what was made of it
Keep = Callable[[str, Callable[[], Tensor]], Tensor]  # an embedder's name, what makes the picture's tokens -> those tokens


def _ignore(done: int, total: int) -> None:
    pass


def _unheard(index: int, made: object) -> None:
    pass


def _make(name: str, make: Callable[[], Tensor]) -> Tensor:
    return make()


@dataclass(frozen=True)
class StructuredLatent:
    """One object after stage 2. coords: int32 (N, 4) rows (0, x, y, z); features: float32 (N, 8), denormalised. On the CPU."""

    coords: Tensor
    features: Tensor


@dataclass
class Pipeline:
    """networks: what `Architecture.parts` names. grid: voxels along a side. note: told what went differently than planned."""

    networks: Networks
    size: int = 518
    note: Callable[[str], None] = print
    most: dict[str, int] = field(default_factory=dict)  # stage -> objects in one batch, learned by running out of memory
    turns: Turns = field(default_factory=Turns)  # of the threads that work on a job
    lock: threading.RLock = field(default_factory=threading.RLock)  # held by whoever decodes: objects may be finished in several threads
    _decoded: tuple[Tensor, Voxels] | None = None  # the last object's voxels: its decoders share windows, neighbours and positions

    @property
    def device(self) -> torch.device:
        return self.networks.device

    @torch.inference_mode()
    def picture(self, name: str, image: Tensor) -> Tensor:
        """The tokens of a whole picture, uint8 (H, W, 3), by one of EMBEDDERS: (1, T, C), on the device. They are all that a picture without masks tells."""

        def embedded() -> Tensor:
            with self.networks.use(name) as embedder:
                return structure.embed_picture(embedder, whole_picture(image, self.size))

        return self.insisting("picture", embedded)

    @torch.inference_mode()
    def structures(
        self,
        image: Tensor,
        alphas: Tensor,
        pointmap: Tensor,
        options: SamplerOptions,
        noise: Noise,
        *,
        numbers: Sequence[int] | None = None,
        on_step: OnStep = _ignore,
        keep: Keep = _make,
    ) -> list[Structure]:
        """Stage 1. image: uint8 (H, W, 3). alphas: bool or uint8 (N, H, W). pointmap: float32 (3, h, w), PyTorch3D camera axes, NaN where invalid.

        numbers: the objects' numbers in their picture, which decide their noise (default: 0, 1, ...). keep: asked for the picture's tokens; it may know them,
        or make them and keep them. Raises EmptyMaskError, MaskError, EngineError (no voxels).
        """
        conditions = preprocess_objects(image, alphas, pointmap, size=self.size)
        named = range(len(conditions)) if numbers is None else numbers

        def sampled(some: range, report: OnStep) -> list[Structure]:
            chosen = [conditions[i] for i in some]
            tokens = self._embedded(EMBEDDERS[0], chosen, keep)
            with self.networks.use("structure_flow") as sampler:
                drawn = structure.noise_for(noise, [named[i] for i in some], sampler.flow.model.resolution)
                result = sampler.sample(tokens, drawn, options, report)
                if self.networks.plan != "resident":
                    sampler.release()
            del tokens
            with self.networks.use("structure_decoder") as decoder:
                return structure.decode(result, decoder, chosen)

        return self._batched("structure", len(conditions), STRUCTURE_BYTES, sampled, options.steps, on_step)

    @torch.inference_mode()
    def latents(
        self,
        image: Tensor,
        alphas: Tensor,
        coords: Sequence[Tensor],
        options: SamplerOptions,
        noise: Noise,
        *,
        numbers: Sequence[int] | None = None,
        on_step: OnStep = _ignore,
        keep: Keep = _make,
        together: int | None = None,
        ready: Ready[StructuredLatent] = _unheard,
    ) -> list[StructuredLatent]:
        """Stage 2. coords: each object's voxels, int32 (N, 4); the rest as for `structures`.

        together: the most objects in one batch, if not as many as there is room for. ready: told of each object, in their order, as soon as its batch is done.
        """
        conditions = preprocess_objects(image, alphas, None, size=self.size)
        named = range(len(conditions)) if numbers is None else numbers
        # Drawn once: compatible noise goes on where it stopped, and a batch that is done again must get the same.
        drawn = [draw({"x": (len(rows), 8)}, noise.source(SECOND_STAGE, number))["x"] for rows, number in zip(coords, named)]

        keep = _once(keep)

        def sampled(some: range, report: OnStep) -> list[StructuredLatent]:
            tokens = self._embedded(EMBEDDERS[1], [conditions[i] for i in some], keep)
            voxels = packed([coords[i] for i in some], self.device)
            with self.networks.use("latent_flow") as flow:
                result = latent_space.sample_latents(
                    flow,
                    tokens,
                    torch.cat([drawn[i] for i in some]).to(self.device),
                    voxels,
                    options,
                    lambda done, total, _: report(done, total),
                )
            features = latent_space.denormalise(result).cpu()
            return [StructuredLatent(coords[i].cpu(), features[rows]) for i, rows in zip(some, voxels.slices)]

        return self._batched("latents", len(coords), LATENT_BYTES, sampled, options.steps, on_step, together, ready)

    @torch.inference_mode()
    def splats(self, latent: StructuredLatent, per_voxel: int = 32) -> Gaussians:
        """One object's splats, on the device. per_voxel: 32 or 4, each with a decoder of its own."""

        def decoded() -> Gaussians:
            with self.networks.use("splats" if per_voxel == 32 else "splats_4") as decoder:
                return decoder(latent.features.to(self.device), self._voxels(latent))[0]

        with self.lock:
            return self.insisting("splats", decoded)

    @torch.inference_mode()
    def surface(self, latent: StructuredLatent) -> Surface:
        """One object's surface as the mesh decoder makes it, on the device."""

        def decoded() -> Surface:
            with self.networks.use("mesh") as decoder:
                return decoder(latent.features.to(self.device), self._voxels(latent))[0]

        with self.lock:
            return self.insisting("mesh", decoded)

    def _embedded(self, name: str, conditions: Sequence[Conditions], keep: Keep) -> Tensor:
        """Context tokens of the objects, (N, M, C), on the device."""
        with self.networks.use(name) as embedder:
            picture = keep(name, lambda: structure.embed_picture(embedder, conditions[0].rgb_image))
            return structure.embed(embedder, conditions, picture)

    def forget(self) -> None:
        """Nothing of a job stays on the device: neither networks, which an interrupted step may have left half done, nor what they share."""
        self._decoded = None
        self.networks.release()

    def _voxels(self, latent: StructuredLatent) -> Voxels:
        if self._decoded is None or self._decoded[0] is not latent.coords:
            self._decoded = None  # before the next is made
            self._decoded = latent.coords, packed([latent.coords], self.device)
        return self._decoded[1]

    # -- batches and memory

    def _batched(
        self,
        stage: str,
        count: int,
        each: float,
        run: Callable[[range, OnStep], list[T]],
        steps: int,
        on_step: OnStep,
        together: int | None = None,
        ready: Ready[T] = _unheard,
    ) -> list[T]:
        """run(some objects, report) over all `count` objects, as many at once as there is room for; the bar moves over all of them."""
        made: list[T] = []
        on_step(0, steps * count)
        while len(made) < count:
            some = range(len(made), min(count, len(made) + min(together or count, self._room(stage, each))))

            def report(done: int, _: int, some: range = some) -> None:
                on_step(some.start * steps + done * len(some), steps * count)

            before = _Before.of(self.turns)
            try:
                made += self._step(lambda some=some, report=report: run(some, report))  # type: ignore[misc]
            except torch.cuda.OutOfMemoryError:
                pass  # outside of this block nothing holds the tensors that were being made
            else:
                for index in some:
                    ready(index, made[index])
                continue
            self._make_room(stage, len(some), before)
        return made

    def _room(self, stage: str, each: float) -> int:
        """How many objects fit at once."""
        most = self.most.get(stage, 1 << 20)
        if self.device.type != "cuda":
            return most
        used = torch.cuda.memory_allocated(self.device)
        if self.networks.plan == "resident":
            used = max(used, int(WEIGHTS))  # in the first job most networks come yet
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - used
        return max(1, min(most, int((free - RESERVE) / each)))

    def insisting(self, stage: str, run: Callable[[], T]) -> T:
        """run(), again under the next smaller plan whenever the device's memory runs out; from several threads: one by one first. What it made may be read by
        any thread."""
        while True:
            before = _Before.of(self.turns)
            try:
                return self._step(run)
            except torch.cuda.OutOfMemoryError:
                pass
            self._make_room(stage, 1, before)

    def _step(self, run: Callable[[], T]) -> T:
        """A step that fails has launched work too, which may read what others free next."""
        with self.turns.step():
            try:
                return run()
            finally:
                settle(self.device)

    def _make_room(self, stage: str, count: int, before: _Before) -> None:
        """After running out of memory with `count` objects at once. Waits until nobody else is in a step: then nothing that is freed is in use, no graph is
        being captured, and what is done again is done alone."""
        self.turns.alone = True
        with self.turns.step():
            if self.turns.freed != before.freed:  # another thread ran out as well, and has made room for both
                return
            self.turns.freed += 1
            self._decoded = None
            gc.collect()  # what ran out may be held by a circle of objects
            if not before.alone:
                self.most[BESIDE] = 1
                self.networks.give_back()
                self.note(f"not enough memory in {stage} beside other objects; done again, one at a time")
            elif count > 1:
                self.most[stage] = count // 2
                self.networks.release()
                self.note(f"not enough memory for {count} objects at once in {stage}; done again, {count // 2} at a time")
            else:
                self.note(f"not enough memory in {stage}; done again with the plan `{self.networks.shrink()}`")


class _Before(NamedTuple):
    """How things stood when an attempt began."""

    alone: bool
    freed: int

    @classmethod
    def of(cls, turns: Turns) -> _Before:
        return cls(turns.alone, turns.freed)


def _once(keep: Keep) -> Keep:
    """`keep`, asked once for each name: batch after batch reads the same tokens."""
    known: dict[str, Tensor] = {}

    def asked(name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in known:
            known[name] = keep(name, make)
        return known[name]

    return asked


def packed(coords: Sequence[Tensor], device: torch.device) -> Voxels:
    """Objects' voxels, int32 (N, 4) with any batch column, as one batch. Raises EngineError for an object without voxels."""
    for rows in coords:
        if len(rows) == 0:
            raise occupancy.nothing()
    numbered = [torch.cat([torch.full_like(rows[:, :1], b), rows[:, 1:]], dim=1) for b, rows in enumerate(coords)]
    return Voxels(torch.cat(numbered).to(device), len(coords))
