"""What an engine sees of the job that it works on: progress out, cancellation in. Engines know nothing else of the process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from ..contract.request import PrepareRequest, ReconstructRequest
from ..contract.scene import Scene


class Planned(NamedTuple):
    """A stage to come. share: of the time, in any unit. size: how much work it is, in a unit of the stage's own (0: unknown); key: what that work is, where the
    stage's name doesn't say it."""

    stage: str
    share: float
    size: float = 0.0
    key: str = ""


class Job(Protocol):
    """Given to an engine. Every method may raise JobCancelled: let it pass."""

    timings: dict[str, float]

    def plan(self, stages: Mapping[str, float] | Iterable[Planned], where: str = "") -> None:
        """The stages to come, in their order, so that the bar moves evenly: name -> share of the time, or a row in which a name may come again. Optional.

        where: what does the work (`sam3d NVIDIA H200 resident`). With it, and a size for each stage, earlier jobs tell how long it will take.
        """
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


@runtime_checkable
class Preparing(Protocol):
    """An engine that can work ahead on a picture without masks."""

    def prepare(self, request: PrepareRequest, job: Job) -> None:
        """Work out, and keep, what depends on the picture alone."""
        ...


class QuietJob:
    """A Job without an audience, for direct calls in tests and benchmarks."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    def plan(self, stages: Mapping[str, float] | Iterable[Planned], where: str = "") -> None:
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
