"""Rectified flow from noise (t = 0) to data (t = 1): time grids, guidance, Euler steps, noise (spec: stage1.md section 5).

Serves both stages: a latent is a dictionary of tensors, a velocity the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...contract.errors import OptionError

FIRST_STAGE = "structure"
Latents = dict[str, Tensor]
# v(latents, t, d, conditional): t and d on the 0..1000 scale
Velocity = Callable[[Latents, float, float, bool], Mapping[str, Tensor]]


@dataclass(frozen=True)
class SamplerOptions:
    """How stage 1 (or 2) is sampled. The defaults are those of the released configuration of stage 1. Raises OptionError.

    steps: Euler steps. rescale: > 1 puts more of them near t = 0. guidance: strength s, v = (1+s) v_cond - s v_uncond, where
    interval[0] <= 1000 t <= interval[1]. shortcut: few-step mode - no guidance, and the network is told its step size, 1000/steps, on
    the original's rescaled grid; grid `uniform` makes the steps as long as the network is told.
    """

    steps: int = 25
    rescale: float = 3.0
    guidance: float = 7.0
    interval: tuple[float, float] = (0.0, 500.0)
    shortcut: bool = False
    grid: Literal["original", "uniform"] = "original"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rescale <= 0:
            raise OptionError(
                f"{self.steps} steps with rescale {self.rescale} can't be sampled.", "Take 1 or more steps, and a rescale above 0."
            )

    @property
    def step_size(self) -> float:
        """d, as the network gets it, 0..1000: 0 in the normal mode."""
        return 1000.0 / self.steps if self.shortcut else 0.0

    def times(self) -> Tensor:
        """(steps + 1,) float64, from 0 to 1."""
        u = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        return u if self.grid == "uniform" else u / (1 + (self.rescale - 1) * (1 - u))

    def guided(self, t: float) -> bool:
        """Does the step at t (0..1000) take a second, unconditional evaluation?"""
        return not self.shortcut and self.guidance > 0 and self.interval[0] <= t <= self.interval[1]

    def evaluations(self) -> int:
        """How often the network is evaluated for one object."""
        return self.steps + sum(self.guided(1000.0 * t) for t in self.times()[:-1].tolist())


def sample(
    velocity: Velocity, noise: Mapping[str, Tensor], options: SamplerOptions, on_step: Callable[[int, int, Latents], None] | None = None
) -> Latents:
    """Noise -> data by `options.steps` Euler steps. Latents stay float32, whatever the velocity's dtype.

    on_step(done, steps, latents) runs after each step; what it raises (a cancel) ends the sampling.
    """
    times = options.times()
    latents = {name: value.float() for name, value in noise.items()}
    for index in range(options.steps):
        t, dt = 1000.0 * float(times[index]), float(times[index + 1] - times[index])
        v = guided_velocity(velocity, latents, t, options)
        latents = {name: value + v[name] * dt for name, value in latents.items()}
        if on_step is not None:
            on_step(index + 1, options.steps, latents)
    return latents


def guided_velocity(velocity: Velocity, latents: Latents, t: float, options: SamplerOptions) -> Mapping[str, Tensor]:
    """Classifier-free guidance (Ho & Salimans 2022) in the form 1 + s, on every latent."""
    conditional = velocity(latents, t, options.step_size, True)
    if not options.guided(t):
        return conditional
    free = velocity(latents, t, options.step_size, False)
    s = options.guidance
    return {name: (1 + s) * conditional[name].float() - s * free[name].float() for name in conditional}


# -- noise


class Noise:
    """Where a job's noise comes from: a generator of its own for each stage and object, so that what one draws never shifts another's numbers.

    seed: 0 <= seed < 2^64. compatible: as the original, which seeds anew for each object and lets stage 2 go on where that object's stage 1
    stopped (same seed, device and PyTorch: the original's numbers). device: where the numbers are drawn; the CPU's are the same on every machine.
    """

    def __init__(self, seed: int, *, compatible: bool = False, device: torch.device | str = "cpu") -> None:
        self.seed, self.compatible, self.device = seed, compatible, device
        self._open: dict[int, torch.Generator] = {}

    def source(self, stage: str, index: int) -> torch.Generator:
        """For the draws of object `index` in `stage`: fresh at each call, or, compatible, fresh for stage `structure` and continued after it."""
        if not self.compatible:
            # PyTorch's CPU generator looks at 32 bits of its seed only; a hash brings all 64 of ours into them.
            mixed = hashlib.blake2b(f"{self.seed} {stage} {index}".encode(), digest_size=8).digest()
            return torch.Generator(self.device).manual_seed(int.from_bytes(mixed, "little"))
        if stage == FIRST_STAGE or index not in self._open:
            self._open[index] = torch.Generator(self.device).manual_seed(self.seed)
        return self._open[index]


def draw(shapes: Mapping[str, tuple[int, ...]], source: torch.Generator) -> Latents:
    """Standard normal noise, float32, one draw per latent in alphabetical order, as the original does."""
    return {name: torch.randn(shapes[name], generator=source, device=source.device) for name in sorted(shapes)}
