"""What an engine sees of the job that it works on: progress out, cancellation in. Engines know nothing else of the process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from ..contract.request import ReconstructRequest
from ..contract.scene import Scene


class Job(Protocol):
    """Given to an engine. Every method may raise JobCancelled: let it pass."""

    timings: dict[str, float]

    def plan(self, stages: Mapping[str, float]) -> None:
        """The stages to come and their shares of the time (any unit), so that the bar moves evenly. Optional."""
        ...

    def step(self, stage: str, step: int, total: int) -> None:
        """Step `step` of `total` of `stage` is done (0: the stage begins). Call it at least between any two pieces of work of 0.3 s."""
        ...

    def log(self, text: str, level: str = "info") -> None:
        """One line for a person."""
        ...

    def preview(self, image: np.ndarray) -> None:
        """A picture of the work so far, uint8 (H, W, 3), sRGB."""
        ...


class Engine(Protocol):
    """Request in, scene out (without files: the worker encodes those that were asked for)."""

    def __call__(self, request: ReconstructRequest, job: Job) -> Scene: ...


class QuietJob:
    """A Job without an audience, for direct calls in tests and benchmarks."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    def plan(self, stages: Mapping[str, float]) -> None:
        pass

    def step(self, stage: str, step: int, total: int) -> None:
        pass

    def log(self, text: str, level: str = "info") -> None:
        pass

    def preview(self, image: np.ndarray) -> None:
        pass


@contextmanager
def timed(job: Job, stage: str) -> Iterator[None]:
    """Add the seconds spent inside to `job.timings[stage]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        job.timings[stage] = job.timings.get(stage, 0.0) + time.perf_counter() - start
