"""Voxels and conditions -> structured latents: how stage 2 samples, and the latents' scale (spec: stage2.md 1.3, 6)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from ..ops.graphs import capture
from ..ops.streams import stream
from .latent_flow import LatentFlow
from .latent_flow_cached import CachedLatentFlow, Grid
from .sampler import Latents, SamplerOptions, sample
from .sparse import Voxels

# The latents' mean and standard deviation by channel. (The original's code holds other fallback values, which don't belong to these weights.)
LATENT_MEAN = (0.12211431, 0.37204156, -1.26521907, -2.05276058, -3.10432536, -0.11294304, -0.85146744, 0.45506954)
LATENT_STD = (2.37326008, 2.13174402, 2.2413953, 2.30589401, 2.1191894, 1.8969511, 2.41684989, 2.08374642)
RELEASED = SamplerOptions(steps=25, rescale=1.0, guidance=1.0, interval=(0.0, 500.0))

OnStep = Callable[[int, int, Tensor], None]
_NAME = "latent"  # of the only latent, for the sampler


@torch.inference_mode()
def sample_latents(
    flow: LatentFlow | CachedLatentFlow,
    context: Tensor,
    noise: Tensor,
    voxels: Voxels,
    options: SamplerOptions = RELEASED,
    on_step: OnStep | None = None,
    *,
    plain: bool = False,
    graphs: bool | None = None,
    ahead: bool | None = None,
) -> Tensor:
    """Noise (N, 8), context (B, L, width) -> normalised latents, float32 (N, 8); one network call for all objects of the batch.

    on_step(done, steps, latents) runs when a step is really done; what it raises ends the sampling. Guidance as in stage 1, `0 * context` the
    unconditional side. plain: with nothing computed beforehand. graphs: replay a step as a CUDA graph (default: on CUDA). ahead: begin the next step before
    on_step hears of one (default: on CUDA), so that the GPU has work while this thread waits for the interpreter's lock; at most one step more is done.
    """
    if plain:
        return _sample_plain(flow if isinstance(flow, LatentFlow) else flow.model, context, noise, voxels, options, on_step)
    if len(noise) == 0:
        return noise.float()
    flow = CachedLatentFlow(flow) if isinstance(flow, LatentFlow) else flow
    with torch.cuda.device(flow.device) if flow.device.type == "cuda" else nullcontext():
        step = Step(flow, context, noise, voxels, options.guidance, flow.device.type == "cuda" if graphs is None else graphs)
        table, times = flow.modulation(options), options.times().tolist()
        guided = [options.guided(1000.0 * t) for t in times[:-1]]
        ahead = flow.device.type == "cuda" if ahead is None else ahead
        begun: list[Callable[[], None]] = []  # what is to be told of the steps that run, the oldest first
        for index in range(options.steps):
            step.run(table[index], times[index + 1] - times[index], guided[index], more=guided[index + 1 :].count(guided[index]))
            if on_step is not None:
                begun.append(partial(_tell, on_step, index + 1, options.steps, step.latents.clone(), _mark(flow.device)))
                if len(begun) > ahead:
                    begun.pop(0)()
        for tell in begun:
            tell()
        return step.latents.clone()


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """What can be waited for: everything that this thread has launched until now."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _tell(on_step: OnStep, done: int, steps: int, latents: Tensor, mark: torch.cuda.Event | None) -> None:
    """on_step, when the step is really done: launching runs far ahead of the work."""
    if mark is not None:
        mark.synchronize()
    on_step(done, steps, latents)


class Step:
    """One Euler step over fixed buffers, with graphs captured: one for guided steps, one for the others. Both are made anew for each set of voxels,
    while the GPU is busy with the first step of their kind.
    """

    def __init__(self, flow: CachedLatentFlow, context: Tensor, noise: Tensor, voxels: Voxels, guidance: float, graphs: bool) -> None:
        self.flow, self.guidance = flow, guidance
        self.grid, self.context = Grid(voxels, flow.model), flow.prepare(context)
        self.latents = noise.to(flow.device, torch.float32, copy=True)
        self.modulation = torch.zeros(flow.modulation_size, device=flow.device)
        self.dt = torch.zeros((), device=flow.device)
        self._aside = stream(flow.device, "capture") if graphs else None
        self._captured: dict[bool, torch.cuda.CUDAGraph] = {}

    def run(self, modulation: Tensor, dt: float, guided: bool, more: int = 0) -> None:
        """Move the latents by one step. modulation: its row of the table. dt: its length. more: how many of its kind are to follow."""
        self.modulation.copy_(modulation)
        self.dt.fill_(dt)
        if guided in self._captured:
            self._captured[guided].replay()
        else:
            self._advance(guided)
            if self._aside is not None and more > 1:  # after one that really ran: kernels are compiled, tables made
                try:
                    pool = [other.pool() for other in self._captured.values()]
                    self._captured[guided] = capture(partial(self._advance, guided), self._aside, *pool)
                except RuntimeError:  # a graph needs memory of its own, and other threads may disturb it: then without one
                    self._aside = None

    def _advance(self, guided: bool) -> None:
        v, free = self.flow.velocity(self.latents, self.modulation, self.context, self.grid, guided=guided)
        self.latents += (v if free is None else (1 + self.guidance) * v - self.guidance * free) * self.dt


def _sample_plain(
    flow: LatentFlow, context: Tensor, noise: Tensor, voxels: Voxels, options: SamplerOptions, on_step: OnStep | None
) -> Tensor:
    def velocity(latents: Latents, t: float, step_size: float, conditional: bool) -> Latents:
        time = torch.tensor([t], dtype=torch.float32, device=noise.device)
        return {_NAME: flow(latents[_NAME], time, context if conditional else 0 * context, voxels)}

    def step(done: int, steps: int, latents: Latents) -> None:
        if on_step is not None:
            on_step(done, steps, latents[_NAME])

    return sample(velocity, {_NAME: noise}, options, step)[_NAME]


def denormalise(latents: Tensor) -> Tensor:
    """Normalised latents (N, 8) -> what the decoders read, float32 (N, 8)."""
    return latents.float() * latents.new_tensor(LATENT_STD, dtype=torch.float32) + latents.new_tensor(LATENT_MEAN, dtype=torch.float32)
