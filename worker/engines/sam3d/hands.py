"""Several objects at a time: finishing one is half work for a GPU and half for one core, and the others would idle.

Threads finish objects while the main thread goes on, which may be sampling the next ones. Each object's finishing sees a Job of its own; together they are one
stage of the whole job, `objects`, since their steps come in no order. Only where the networks stay on a GPU: elsewhere the memory or the cores are taken
already. On CUDA each thread works on a stream of its own, so that its copies wait for its own work and not for a step of the sampler; what one thread hands to
another is on the CPU, or settled (ops/streams.py).
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import torch

from ....contract.errors import JobCancelled
from ...job import Job, Planned
from ...ops.streams import aside
from ...sam3d.networks import WEIGHTS, Networks
from ...sam3d.pipeline import LATENT_BYTES, STRUCTURE_BYTES

T = TypeVar("T")
STAGE = "objects"
MOST = 4  # more of them wait for the interpreter's lock
GROUP = 2  # objects that are sampled together in stage 2 while others are finished: it takes as long for each, alone or in a batch
EACH = 3e9  # bytes of the device that finishing one object may take
WORKSPACE = 1e8  # that the libraries keep for a thread and its stream
# How far an object is when a stage of its own begins, and when it ends.
_PLACES = {"decode": (0.0, 0.1), "clean-up": (0.1, 0.5), "unwrap": (0.5, 0.75), "texture": (0.75, 0.95), "layout": (0.95, 1.0)}


def most(networks: Networks, objects: int) -> int:
    """How many objects to finish at a time, as the job begins: its networks, and what stage 1 keeps, may not be there yet."""
    if networks.plan != "resident" or networks.device.type != "cuda":
        return 1
    return max(1, min(objects, MOST, (os.cpu_count() or 1) // 2, int(_room(networks, objects) / EACH)))


def fits_beside(networks: Networks, objects: int, hands: int) -> bool:
    """Whether `hands` objects may be finished while others are sampled."""
    if networks.device.type != "cuda":
        return True  # a CPU takes part only where it is told to
    return _room(networks, objects) >= hands * (EACH + WORKSPACE) + GROUP * LATENT_BYTES


def _room(networks: Networks, objects: int) -> float:
    free = torch.cuda.mem_get_info(networks.device)[0] + torch.cuda.memory_reserved(networks.device)
    return free - max(torch.cuda.memory_allocated(networks.device), int(WEIGHTS + objects * STRUCTURE_BYTES))


def make_free(networks: Networks, hands: int) -> None:
    """Before threads begin: each stream's free memory is its own, and while a graph is captured nothing of it can be given to another."""
    if networks.device.type == "cuda" and torch.cuda.mem_get_info(networks.device)[0] < hands * (EACH + WORKSPACE) + GROUP * LATENT_BYTES:
        networks.give_back()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """The process's: kept, because the libraries keep a workspace for every pair of a thread and a stream."""
    return ThreadPoolExecutor(MOST, "object")


class Finishing(Generic[T]):
    """Objects finished by up to `workers` threads, each from `begin` on; a block to be left only when all of them have ended.

    With one worker everything is done in the thread that asks for the results, and `job` sees each object's own stages. The first exception, in a thread or in
    the block, stops the others at their next step, and is raised when they have stopped. Seconds in `job.timings` are of work: with several workers they add
    up to more than passed.
    """

    def __init__(self, objects: int, workers: int, job: Job, device: torch.device) -> None:
        """job: with several workers a `Shared`."""
        self._job, self._device, self._workers = job, device, min(workers, objects, MOST)
        self._begun: dict[int, Callable[[Job], T]] = {}
        self._parts: dict[int, _Part] = {}
        self._made: dict[int, T] = {}
        self._line: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._running: list[Future[None]] = []

    def __enter__(self) -> Finishing[T]:
        if self._workers > 1:
            self._running = [_threads().submit(self._work, self._shared) for _ in range(self._workers)]
        return self

    def begin(self, index: int, run: Callable[[Job], T]) -> None:
        """Object `index` may be finished now: run(its job)."""
        self._begun[index] = run
        if self._workers > 1:
            self._parts[index] = _Part(self._shared, index)
            self._line.put(index)

    def results(self) -> list[T]:
        """Of all objects that have begun, in their order."""
        if self._workers <= 1:
            return [self._begun[index](self._job) for index in sorted(self._begun)]
        self._shared.show()
        self._close()
        if self._shared.problem is not None:
            raise self._shared.problem
        return [self._made[index] for index in sorted(self._parts)]

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self._workers <= 1:
            return
        if problem is not None:
            self._shared.stop(problem)
        self._close()
        first = self._shared.problem
        if first is not None and first is not problem and isinstance(problem, Exception):  # what follows from it matters less
            raise first from None

    @property
    def _shared(self) -> Shared:
        assert isinstance(self._job, Shared)
        return self._job

    def _work(self, job: Shared) -> None:
        """One thread's: object after object."""
        try:
            with aside(self._device, threading.current_thread().name):
                while (index := self._line.get()) is not None and job.problem is None:
                    self._made[index] = self._begun.pop(index)(self._parts[index])
                    job.moved(index, 1.0)
        except BaseException as problem:
            job.stop(problem)

    def _close(self) -> None:
        """No object begins any more; those that have are waited for."""
        for _ in self._running:
            self._line.put(None)
        wait(self._running)
        self._running = []
        for part in self._parts.values():
            for stage, seconds in part.timings.items():
                self._job.timings[stage] = self._job.timings.get(stage, 0.0) + seconds
            part.timings.clear()


class _Stopped(JobCancelled):
    """Another object has failed."""


class Shared:
    """The whole job, which several threads speak to, one at a time. problem: what has ended it; nobody gets a step further then."""

    def __init__(self, job: Job, objects: int) -> None:
        self.timings = job.timings
        self.problem: BaseException | None = None
        self._job, self._lock, self._first = job, threading.RLock(), threading.Lock()
        self._done = [0.0] * objects
        self._shown: float | None = None  # of all objects, what was done when their stage began; None: not yet

    def plan(self, stages: Mapping[str, float] | Iterable[Planned], where: str = "") -> None:
        self._tell(lambda: self._job.plan(stages, where))

    def step(self, stage: str, step: int, total: int) -> None:
        self._tell(lambda: self._job.step(stage, step, total))

    def log(self, text: str, level: str = "info") -> None:
        self._tell(lambda: self._job.log(text, level))

    def preview(self, image: np.ndarray) -> None:
        self._tell(lambda: self._job.preview(image))

    def moved(self, index: int, done: float) -> None:
        """Object `index` is so far, 0..1. The bar is the main thread's until it has nothing else to show."""

        def told() -> None:
            self._done[index] = max(self._done[index], done)
            if self._shown is not None:
                self._report(self._shown)

        self._tell(told)

    def show(self) -> None:
        """The objects' own stage begins, with what is left of them."""

        def told() -> None:
            self._shown = sum(self._done)
            self._report(self._shown)

        self._tell(told)

    def _report(self, begun: float) -> None:
        left = len(self._done) - begun
        self._job.step(STAGE, int(100 * (sum(self._done) - begun)), max(1, int(100 * left)))

    def stop(self, problem: BaseException) -> None:
        """The first one counts. Doesn't wait for who is speaking."""
        with self._first:
            self.problem = self.problem or problem

    def _tell(self, call: Callable[[], None]) -> None:
        with self._lock:
            if self.problem is not None:
                raise _Stopped("Another object failed.")
            try:
                call()
            except BaseException as problem:  # before the lock is free: the next one must not speak for a job that is over
                self.stop(problem)
                raise


class _Part:
    """One object's Job."""

    def __init__(self, whole: Shared, index: int) -> None:
        self.timings: dict[str, float] = {}
        self._whole, self._index = whole, index

    def plan(self, stages: Mapping[str, float] | Iterable[Planned], where: str = "") -> None:
        pass

    def step(self, stage: str, step: int, total: int) -> None:
        start, end = _PLACES.get(stage, (0.0, 0.0))
        self._whole.moved(self._index, start + (end - start) * (step / total if total else 0.0))

    def log(self, text: str, level: str = "info") -> None:
        self._whole.log(text, level)

    def preview(self, image: np.ndarray) -> None:
        self._whole.preview(image)
