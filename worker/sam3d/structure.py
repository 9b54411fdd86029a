"""Stage 1, assembled: conditions -> context -> latents -> voxels and pose, for all objects of a picture at once.

What belongs to the picture alone is embedded once; objects are sampled as one batch; on CUDA a step is a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import occupancy
from .flow import LATENTS, POSE_LATENTS, SHAPE, SHAPE_CHANNELS, Latents, SparseStructureFlow
from .flow_cached import CachedFlow, Context
from .fuser import EmbedderFuser
from .pose import DecodedPose, decode_pose
from .preprocess import Conditions
from .sampler import SamplerOptions, draw, generator, sample

PICTURE_ONLY = ("rgb_image",)  # what doesn't change with the mask (a point map does: it is normalised by the object)
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Structure:
    """One object of stage 1. coords: int32 (K, 4), rows (0, i, j, k) in a 64^3 grid; original: before pruning and halving."""

    coords: Tensor
    original: Tensor
    downsample: int
    pose: DecodedPose


def latent_shapes(resolution: int) -> dict[str, tuple[int, ...]]:
    """name -> shape of one object's latent."""
    return {name: (1, resolution**3, SHAPE_CHANNELS) if name == SHAPE else (1, 1, POSE_LATENTS[name]) for name in LATENTS}


def noise_for(seed: int, objects: int, resolution: int = 16, *, compatible: bool = False) -> Latents:
    """Noise of N objects, (N, ...) each, drawn on the CPU so that every device starts from the same numbers.

    compatible: all objects in turn from one generator seeded with `seed`, in the original's order.
    """
    shapes = latent_shapes(resolution)
    shared = torch.Generator().manual_seed(seed % 2**63)
    drawn = [draw(shapes, shared if compatible else generator(seed, "structure", index)) for index in range(objects)]
    return {name: torch.cat([one[name] for one in drawn]) for name in LATENTS}


def embed(fuser: EmbedderFuser, conditions: Sequence[Conditions]) -> Tensor:
    """Conditions of N objects of one picture -> context tokens (N, M, C). Inputs of one embedder run as one batch."""
    inputs = [one.inputs() for one in conditions]
    tokens: dict[str, Tensor] = {}
    for index in dict.fromkeys(route[1] for route in fuser.routes):
        names = [name for name, at, _ in fuser.routes if at == index]
        batch = [torch.cat([one[name] for one in inputs[: 1 if name in PICTURE_ONLY else None]]) for name in names]
        parts = fuser.embed(index, torch.cat(batch)).split([len(part) for part in batch])
        tokens |= {name: part.expand(len(inputs), -1, -1) for name, part in zip(names, parts)}
    return torch.cat([fuser.project(index, group, tokens[name]) for name, index, group in fuser.routes], dim=1)


class StructureSampler:
    """The flow network with its caches. One instance may serve any number of pictures, one after another.

    graphs: capture a step as a CUDA graph (default: on CUDA). The captured steps of a batch size are kept for the next picture of as many objects.
    """

    def __init__(self, model: SparseStructureFlow, *, graphs: bool | None = None) -> None:
        self.flow = CachedFlow(model)
        self.device = next(model.parameters()).device
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        self._captured: dict[tuple[int, int, float], _Captured] = {}

    @torch.inference_mode()
    def sample(self, tokens: Tensor, noise: Mapping[str, Tensor], options: SamplerOptions, on_step: OnStep | None = None) -> Latents:
        """tokens (N, M, C), noise (N, ...) each -> latents, float32. on_step(done, steps) may raise to stop."""
        noise = {name: value.to(self.device, torch.float32) for name, value in noise.items()}
        table = self.flow.modulation(options)
        if self.graphs:
            return self._replay(tokens, noise, options, table, on_step)
        context = self.flow.prepare(tokens)
        rows = {float(1000.0 * t): row for t, row in zip(options.times()[:-1].tolist(), table)}

        def velocity(latents: Latents, t: float, d: float, conditional: bool) -> Mapping[str, Tensor]:
            guided = options.guided(t)
            if conditional:
                found = self.flow.velocity(latents, rows[t], context, guided=guided)
                self._free = found[1]
                return found[0]
            assert self._free is not None  # both passes ran as one batch
            return self._free

        return sample(velocity, noise, options, None if on_step is None else lambda done, steps, _: on_step(done, steps))

    def _replay(
        self, tokens: Tensor, noise: Mapping[str, Tensor], options: SamplerOptions, table: Tensor, on_step: OnStep | None
    ) -> Latents:
        key = (len(tokens), tokens.shape[1], options.guidance)
        if key not in self._captured:
            self._captured.clear()  # one batch size at a time: its keys, values and buffers are the larger part of the memory
            self._captured[key] = _Captured(self.flow, tokens, noise, options.guidance)
        else:
            self._captured[key].take(tokens)
        step = self._captured[key]
        times = options.times()
        for name, value in noise.items():
            step.latents[name].copy_(value)
        for index in range(options.steps):
            step.modulation.copy_(table[index])
            step.dt.fill_(float(times[index + 1] - times[index]))
            step.run(options.guided(1000.0 * float(times[index])))
            if on_step is not None:
                on_step(index + 1, options.steps)
        return {name: value.clone() for name, value in step.latents.items()}


class _Captured:
    """One Euler step, guided and not, as CUDA graphs over fixed buffers."""

    def __init__(self, flow: CachedFlow, tokens: Tensor, noise: Mapping[str, Tensor], guidance: float) -> None:
        self.flow, self.guidance = flow, guidance
        self.context: Context = flow.prepare(tokens)
        self.latents = {name: value.clone() for name, value in noise.items()}
        self.modulation = torch.zeros(flow.modulation_shape(), device=tokens.device)
        self.dt = torch.zeros((), device=tokens.device)
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def take(self, tokens: Tensor) -> None:
        """Another picture's context into the same buffers."""
        self.flow.prepare(tokens, into=self.context)

    def run(self, guided: bool) -> None:
        if guided not in self._graphs:
            self._graphs[guided] = self._capture(guided)
        self._graphs[guided].replay()

    def _capture(self, guided: bool) -> torch.cuda.CUDAGraph:
        kept = {name: value.clone() for name, value in self.latents.items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # kernels compile and pick their configuration before anything is recorded
                self._step(guided)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            self._step(guided)
        for name, value in kept.items():
            self.latents[name].copy_(value)
        return graph

    def _step(self, guided: bool) -> None:
        v, free = self.flow.velocity(self.latents, self.modulation, self.context, guided=guided)
        for name, value in self.latents.items():
            change = v[name] if free is None else (1 + self.guidance) * v[name] - self.guidance * free[name]
            value += change * self.dt


@torch.inference_mode()
def decode(
    latents: Mapping[str, Tensor], decoder: occupancy.OccupancyDecoder, conditions: Sequence[Conditions], limit: int = occupancy.MAX_VOXELS
) -> list[Structure]:
    """Latents of N objects -> their voxels and poses. Raises EngineError for an object without voxels."""
    structures = []
    for index, one in enumerate(conditions):
        assert one.scale is not None and one.shift is not None
        latent = {name: value[index : index + 1] for name, value in latents.items()}
        original = occupancy.occupied(decoder(occupancy.as_cube(latent[SHAPE])))
        coords, factor = occupancy.halve(occupancy.prune(original), limit)
        structures.append(Structure(coords, original, factor, decode_pose(latent, one.scale, one.shift, factor)))
    return structures
