"""Voxels and conditions -> structured latents: what the tokens are made of, how stage 2 samples, and the latents' scale (spec: stage2.md 1.3, 5, 6)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .dino import Dino
from .fuser import IMAGE_INPUTS, MASK_INPUTS, EmbedderFuser
from .latent_flow import LatentFlow
from .sampler import Latents, SamplerOptions, sample
from .sparse import Voxels

# The latents' mean and standard deviation by channel. (The original's code holds other fallback values, which don't belong to these weights.)
LATENT_MEAN = (0.12211431, 0.37204156, -1.26521907, -2.05276058, -3.10432536, -0.11294304, -0.85146744, 0.45506954)
LATENT_STD = (2.37326008, 2.13174402, 2.2413953, 2.30589401, 2.1191894, 1.8969511, 2.41684989, 2.08374642)
RELEASED = SamplerOptions(steps=25, rescale=1.0, guidance=1.0, interval=(0.0, 500.0))

_NAME = "latent"  # of the only latent, for the sampler


def stage2_fuser(size: int = 518) -> EmbedderFuser:
    """The released stage-2 embedder: pictures and masks, four times 1374 tokens of width 1024, from before the ViTs' last norm."""
    return EmbedderFuser([(Dino(size, prenorm=True), IMAGE_INPUTS), (Dino(size, prenorm=True), MASK_INPUTS)])


def sample_latents(
    flow: LatentFlow,
    context: Tensor,
    noise: Tensor,
    voxels: Voxels,
    options: SamplerOptions = RELEASED,
    on_step: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Noise (N, 8), context (B, L, width) -> normalised latents, float32 (N, 8); one network call for all objects of the batch.

    on_step(done, steps, latents) runs after each step; what it raises ends the sampling. Guidance as in stage 1, `0 * context` the unconditional side.
    """

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
