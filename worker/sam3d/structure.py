"""Stage 1, assembled: conditions -> context -> latents -> voxels and pose, for all objects of a picture at once.

What belongs to the picture alone is embedded once; objects are sampled as one batch; on CUDA a step is a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.attention import attend, attend_long
from ..ops.streams import stream
from . import occupancy
from .flow import LATENTS, POSE_LATENTS, SHAPE, SHAPE_CHANNELS, Latents, SparseStructureFlow
from .flow_cached import CachedFlow, Context
from .fuser import EmbedderFuser
from .pose import DecodedPose, decode_pose
from .preprocess import Conditions
from .sampler import FIRST_STAGE, Noise, SamplerOptions, draw

PICTURE = "rgb_image"  # the input that doesn't change with the mask (a point map does: it is normalised by the object)
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Structure:
    """One object of stage 1. coords: int32 (K, 4), rows (0, i, j, k) in a 64^3 grid; original: before pruning and halving.

    downsample: 1, or 2 where the grid was halved (the pose's scale has it in it already).
    """

    coords: Tensor
    original: Tensor
    downsample: int
    pose: DecodedPose


def latent_shapes(resolution: int) -> dict[str, tuple[int, ...]]:
    """name -> shape of one object's latent."""
    return {name: (1, resolution**3, SHAPE_CHANNELS) if name == SHAPE else (1, 1, POSE_LATENTS[name]) for name in LATENTS}


def noise_for(noise: Noise, objects: int | Sequence[int], resolution: int = 16) -> Latents:
    """Noise of N objects, (N, ...) each, on the device that `noise` draws on. objects: how many, or their numbers in their picture."""
    shapes = latent_shapes(resolution)
    numbers = range(objects) if isinstance(objects, int) else objects
    drawn = [draw(shapes, noise.source(FIRST_STAGE, number)) for number in numbers]
    return {name: torch.cat([one[name] for one in drawn]) for name in LATENTS}


@torch.inference_mode()
def embed_picture(fuser: EmbedderFuser, rgb_image: Tensor) -> Tensor:
    """`rgb_image` (1, 3, S, S) of a picture (preprocess.whole_picture) -> its tokens (1, T, C), the same for all of its objects, on the fuser's device."""
    index, group = next((index, group) for name, index, group in fuser.routes if name == PICTURE)
    return fuser.project(index, group, fuser.embed(index, rgb_image.to(fuser.idx_emb.device)))


@torch.inference_mode()
def embed(fuser: EmbedderFuser, conditions: Sequence[Conditions], picture: Tensor | None = None) -> Tensor:
    """Conditions of N objects of one picture -> context tokens (N, M, C), on the fuser's device. picture: of `embed_picture`; None: made here.

    The picture, and each object, are embedded by themselves: what an object's tokens are in half precision must not depend on how many there are.
    """
    device = fuser.idx_emb.device
    tokens = picture.to(device) if picture is not None else embed_picture(fuser, conditions[0].rgb_image)
    return torch.cat([_of_object(fuser, one.inputs(), tokens, device) for one in conditions])


def _of_object(fuser: EmbedderFuser, inputs: Mapping[str, Tensor], picture: Tensor, device: torch.device) -> Tensor:
    """One object's context (1, M, C). Inputs of one embedder run as one batch."""
    tokens = {PICTURE: picture}
    routes = [route for route in fuser.routes if route[0] != PICTURE]
    for index in dict.fromkeys(route[1] for route in routes):
        own = [(name, group) for name, at, group in routes if at == index]
        parts = fuser.embed(index, torch.cat([inputs[name] for name, _ in own]).to(device)).split(1)
        for (name, group), part in zip(own, parts):
            tokens[name] = fuser.project(index, group, part)
    return torch.cat([tokens[name] for name, _, _ in fuser.routes], dim=1)


class StructureSampler:
    """The flow network with its caches. One instance may serve any number of pictures, one after another.

    graphs: capture a step as a CUDA graph (default: on CUDA). What a number of objects needs - buffers, keys and values, graphs - is kept for the next
    picture of as many objects, until another number comes or `release` is called.
    """

    def __init__(self, model: SparseStructureFlow, *, graphs: bool | None = None) -> None:
        self.device = model.t_embedder.mlp[0].weight.device
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        self.flow = CachedFlow(model, attend_long if self.graphs else attend)
        self._key: tuple[int, int, float] | None = None
        self._step: _Step | None = None

    @torch.inference_mode()
    def sample(self, tokens: Tensor, noise: Mapping[str, Tensor], options: SamplerOptions, on_step: OnStep | None = None) -> Latents:
        """tokens (N, M, C), noise (N, ...) each -> latents, float32, on the network's device.

        on_step(done, steps) is called when a step is really done, and may raise to stop; the next call starts afresh.
        """
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            step = self.step_for(tokens, options.guidance)
            table = self.flow.modulation(options)
            step.start(noise)
            times = options.times().tolist()
            for index in range(options.steps):
                step.set_to(table[index], times[index + 1] - times[index])
                step.run(options.guided(1000.0 * times[index]))
                if on_step is not None:
                    if self.device.type == "cuda":  # launching runs far ahead of the work
                        torch.cuda.current_stream(self.device).synchronize()
                    on_step(index + 1, options.steps)
            return {name: value.clone() for name, value in step.latents.items()}

    def step_for(self, tokens: Tensor, guidance: float) -> _Step:
        """The step of this many objects, made or kept, with these tokens as its context."""
        key = (len(tokens), tokens.shape[1], guidance)
        if self._step is not None and self._key == key:
            self._step.take(tokens)
        else:
            self.release()  # before the next is made: keys, values and buffers are the larger part of the memory
            self._step, self._key = _Step(self.flow, tokens, guidance, self.graphs), key
        return self._step

    def release(self) -> None:
        """Give the memory of the last number of objects back; the next sampling makes it anew."""
        self._step = self._key = None


class _Step:
    """One Euler step of N objects over fixed buffers, which may be captured as CUDA graphs: one for guided steps, one for the others."""

    def __init__(self, flow: CachedFlow, tokens: Tensor, guidance: float, graphs: bool) -> None:
        self.flow, self.guidance, self.graphs = flow, guidance, graphs
        self.context: Context = flow.prepare(tokens)
        shapes = latent_shapes(flow.model.resolution)
        self.latents = {name: torch.zeros(len(tokens), *shapes[name][1:], device=flow.device) for name in LATENTS}
        self.modulation = torch.zeros(flow.modulation_shape(), device=flow.device)
        self.dt = torch.zeros((), device=flow.device)
        self._captured: dict[bool, torch.cuda.CUDAGraph] = {}

    def take(self, tokens: Tensor) -> None:
        """Another picture's context into the same buffers."""
        self.flow.prepare(tokens, into=self.context)

    def start(self, noise: Mapping[str, Tensor]) -> None:
        for name, value in noise.items():
            self.latents[name].copy_(value)

    def set_to(self, modulation: Tensor, dt: float) -> None:
        """The row of the table, and the length, of the step to run next."""
        self.modulation.copy_(modulation)
        self.dt.fill_(dt)

    def run(self, guided: bool) -> None:
        """Move the latents by one step."""
        if not self.graphs:
            return self._advance(guided)
        if guided not in self._captured:
            self._captured[guided] = self._capture(guided)
        self._captured[guided].replay()

    def _capture(self, guided: bool) -> torch.cuda.CUDAGraph:
        kept = {name: value.clone() for name, value in self.latents.items()}
        aside = stream(self.flow.device, "capture")
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # kernels compile and pick their configuration before anything is recorded
                self._advance(guided)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._captured.values())).pool() if self._captured else None
        with torch.cuda.graph(graph, pool=pool):
            self._advance(guided)
        for name, value in kept.items():
            self.latents[name].copy_(value)
        return graph

    def _advance(self, guided: bool) -> None:
        v, free = self.flow.velocity(self.latents, self.modulation, self.context, guided=guided)
        for name, value in self.latents.items():
            change = v[name] if free is None else (1 + self.guidance) * v[name] - self.guidance * free[name]
            value += change * self.dt


@torch.inference_mode()
def decode(
    latents: Mapping[str, Tensor], decoder: occupancy.OccupancyDecoder, conditions: Sequence[Conditions], limit: int = occupancy.MAX_VOXELS
) -> list[Structure]:
    """Latents of N objects -> their voxels and poses, on the CPU. Raises EngineError for an object without voxels.

    The network runs on its device, one object at a time; what follows is a few thousand whole numbers and the same on every device.
    """
    device = decoder.input_layer.weight.device
    structures = []
    for index, one in enumerate(conditions):
        assert one.scale is not None and one.shift is not None, "stage 1 needs a point map"
        latent = {name: value[index : index + 1] for name, value in latents.items()}
        original = occupancy.occupied(decoder(occupancy.as_cube(latent[SHAPE].to(device))).cpu())
        if len(original) == 0:
            raise occupancy.nothing(f" for object {index + 1} of {len(conditions)}")
        coords, factor = occupancy.halve(occupancy.prune(original), limit)
        pose = {name: value.cpu() for name, value in latent.items() if name != SHAPE}
        structures.append(Structure(coords, original, factor, decode_pose(pose, one.scale.cpu(), one.shift.cpu(), factor)))
    return structures
