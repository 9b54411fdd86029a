"""Several objects at a time: finishing one is half work for a GPU and half for one core, and the others would idle.

Each object's finishing sees a Job of its own; together they are one stage of the whole job, `objects`, since their steps come in no order. Only where the
networks stay on a GPU: elsewhere the memory or the cores are taken already.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import torch

from ....contract.errors import JobCancelled
from ...job import Job, Planned
from ...sam3d.networks import WEIGHTS, Networks
from ...sam3d.pipeline import STRUCTURE_BYTES

T = TypeVar("T")
STAGE = "objects"
MOST = 4  # more of them wait for the interpreter's lock
EACH = 3e9  # bytes of the device that finishing one object may take
# How far an object is when a stage of its own begins, and when it ends.
_PLACES = {"decode": (0.0, 0.1), "clean-up": (0.1, 0.5), "unwrap": (0.5, 0.75), "texture": (0.75, 0.95), "layout": (0.95, 1.0)}


def most(networks: Networks, objects: int) -> int:
    """How many objects to finish at a time, as the job begins: its networks, and what stage 1 keeps, may not be there yet."""
    if networks.plan != "resident" or networks.device.type != "cuda":
        return 1
    free = torch.cuda.mem_get_info(networks.device)[0] + torch.cuda.memory_reserved(networks.device)
    free -= max(torch.cuda.memory_allocated(networks.device), int(WEIGHTS + objects * STRUCTURE_BYTES))
    return max(1, min(objects, MOST, (os.cpu_count() or 1) // 2, int(free / EACH)))


def each(objects: int, workers: int, job: Job, run: Callable[[int, Job], T]) -> list[T]:
    """[run(i, its job)] for every object, up to `workers` at a time. The first exception stops the others at their next step, and is raised when they
    have stopped. Seconds in `job.timings` are of work: with several workers they add up to more than passed."""
    if min(workers, objects) <= 1:
        return [run(index, job) for index in range(objects)]
    whole = _Whole(job, objects)
    parts = [_Part(whole, index) for index in range(objects)]
    with ThreadPoolExecutor(min(workers, objects), "object") as pool:
        futures = [pool.submit(run, index, part) for index, part in enumerate(parts)]
        wait(futures, return_when=FIRST_EXCEPTION)
        whole.stopped = any(future.done() and future.exception() is not None for future in futures)
        for future in futures:
            future.cancel()
    for part in parts:
        for stage, seconds in part.timings.items():
            job.timings[stage] = job.timings.get(stage, 0.0) + seconds
    problems = [problem for future in futures if not future.cancelled() and (problem := future.exception()) is not None]
    if problems:  # those that were told to stop raise too: what stopped them comes first
        raise next((problem for problem in problems if not isinstance(problem, _Stopped)), problems[0])
    return [future.result() for future in futures]


class _Stopped(JobCancelled):
    """Another object has failed."""


class _Whole:
    """The job that all parts belong to. One thread at a time speaks to it."""

    def __init__(self, job: Job, objects: int) -> None:
        self.job, self.lock, self.stopped = job, threading.Lock(), False
        self.done = [0.0] * objects
        job.step(STAGE, 0, 100 * objects)

    def tell(self, call: Callable[[], None]) -> None:
        with self.lock:
            if self.stopped:
                raise _Stopped("Another object failed.")
            call()


class _Part:
    """One object's Job."""

    def __init__(self, whole: _Whole, index: int) -> None:
        self.timings: dict[str, float] = {}
        self._whole, self._index = whole, index

    def plan(self, stages: Mapping[str, float] | Iterable[Planned], where: str = "") -> None:
        pass

    def step(self, stage: str, step: int, total: int) -> None:
        def told() -> None:
            start, end = _PLACES.get(stage, (0.0, 0.0))
            done = self._whole.done
            done[self._index] = max(done[self._index], start + (end - start) * (step / total if total else 0.0))
            self._whole.job.step(STAGE, int(100 * sum(done)), 100 * len(done))

        self._whole.tell(told)

    def log(self, text: str, level: str = "info") -> None:
        self._whole.tell(lambda: self._whole.job.log(text, level))

    def preview(self, image: np.ndarray) -> None:
        self._whole.tell(lambda: self._whole.job.preview(image))
