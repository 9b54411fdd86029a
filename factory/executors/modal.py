"""The executor of Modal: the containers of a deployed app (deploy/sam3d_modal_app.py), fed by one `.map` for all slots.

    modal deploy deploy/sam3d_modal_app.py
    python sam3d.py batch sprites --out assets --executor modal --workers 20

Inputs and outputs are frames (relay.py), so an answer knows its job by number, in whatever order it comes. An input whose container died comes back as a bare
exception without a number; then nothing more is put into this map, and when it has ended, the jobs without an answer are the ones that the exceptions
were about. The next job opens the next map.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Union

from ...client.job import LocalJob
from ...contract.backend import Cancelled, Event, Failed
from ...contract.errors import ProtocolError, Sam3dError, SetupError, WorkerCrashed, WorkerError, WorkerStartError
from ...contract.request import ReconstructRequest
from .relay import read_event, request_frame

APP, CLASS, METHOD = "sam3d", "Sam3d", "answer"
APP_VARIABLE = "SAM3D_MODAL_APP"  # another name of the deployed app
SLOTS = 8
IDLE = 30.0  # seconds without work after which a map is ended; the next job opens another
TICK = 0.05

Map = Callable[[AsyncIterator[bytes]], AsyncGenerator[Union[bytes, BaseException], None]]  # frames in -> answers out, in any order


def mapped(method: Callable[[], Any]) -> Map:
    """method: gives the remote method `answer` when the map is opened."""

    async def call(frames: AsyncIterator[bytes]) -> AsyncGenerator[bytes | BaseException, None]:
        async for answer in method().map.aio(frames, order_outputs=False, return_exceptions=True):
            yield answer

    return call


def deployed(app: str | None = None) -> Map:
    """The `.map` of the deployed app. Modal is met when it is used."""

    def method() -> Any:
        import modal

        return getattr(modal.Cls.from_name(app or os.environ.get(APP_VARIABLE) or APP, CLASS)(), METHOD)

    return mapped(method)


class ModalExecutor:
    """workers: how many inputs are under way at once (default 8); how many containers they get, the app says."""

    def __init__(self, workers: int | None = None, call: Map | None = None) -> None:
        self.slots = workers or SLOTS
        self._call = call or deployed()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards _jobs and _thread
        self._jobs: dict[int, LocalJob] = {}  # without an answer yet
        self._inbox: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None  # ends the map under way
        self._closed = False
        self._refused: Sam3dError | None = None  # Modal can't be reached: it would meet every job

    def lease(self, number: int) -> ModalSlot:
        del number  # all slots are alike
        return ModalSlot(self)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            jobs, self._jobs = self._jobs, {}
            thread = self._thread
            self._stop()
        for job in jobs.values():
            job.put(Cancelled())
        if thread is not None:
            thread.join(30)

    def submit(self, request: ReconstructRequest) -> LocalJob:
        if self._refused is not None:
            raise self._refused
        number = next(self._numbers)
        job = LocalJob(number, self.drop)
        frame = request_frame(number, request)
        with self._lock:
            self._jobs[number] = job
            self._inbox.put((number, frame))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="sam3d-modal", daemon=True)
                self._thread.start()
        return job

    def drop(self, job: LocalJob) -> None:
        """Nobody waits for it any more; what its container makes is thrown away."""
        with self._lock:
            self._jobs.pop(job.number, None)
        job.put(Cancelled())

    # -- on the executor's thread

    def _serve(self) -> None:
        """One map after another while there is work."""
        while True:
            one = _OneMap(self._inbox, lambda: self._closed)
            problem: Sam3dError | None = None
            try:
                asyncio.run(self._map(one))
            except asyncio.CancelledError:
                pass  # close() did that
            except Exception as error:
                problem = _of_modal(error, began=one.began)
            for number in one.sent:
                self._end(number, Failed(problem or one.problem()))
            if isinstance(problem, SetupError):
                self._refused = problem
            hopeless = problem is not None and not one.began
            with self._lock:
                if self._closed or hopeless or self._inbox.empty():
                    self._thread = None
                    left = [self._inbox.get() for _ in range(self._inbox.qsize())]
                    break
        for number, _ in left:
            self._end(number, Failed(problem) if problem is not None else Cancelled())

    async def _map(self, one: _OneMap) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with self._lock:
            if self._closed:
                return
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            async with aclosing(self._call(one.frames())) as answers:
                async for answer in answers:
                    if isinstance(answer, BaseException):
                        one.failed(answer)
                    else:
                        self._deliver(one, answer)
        finally:
            with self._lock:
                self._stop = lambda: None

    def _deliver(self, one: _OneMap, answer: bytes) -> None:
        try:
            number, event = read_event(answer)
        except ProtocolError as problem:
            one.failed(problem)
            return
        one.sent.discard(number)
        self._end(number, event)

    def _end(self, number: int, event: Event) -> None:
        with self._lock:
            job = self._jobs.pop(number, None)
        if job is not None:
            job.put(event)


class _OneMap:
    """What went into one map and has no answer yet, and the exceptions that came out of it."""

    def __init__(self, inbox: queue.SimpleQueue[tuple[int, bytes]], closed: Callable[[], bool]) -> None:
        self._inbox, self._closed = inbox, closed
        self.sent: set[int] = set()
        self.began = False
        self._problems: list[BaseException] = []

    async def frames(self) -> AsyncIterator[bytes]:
        """The map's inputs as they come."""
        idle_since = time.monotonic()
        while not self._closed() and not self._problems and time.monotonic() - idle_since < IDLE:
            try:
                number, frame = self._inbox.get_nowait()
            except queue.Empty:
                if self.sent:
                    idle_since = time.monotonic()
                await asyncio.sleep(TICK)
                continue
            self.sent.add(number)
            self.began = True
            yield frame

    def failed(self, problem: BaseException) -> None:
        self._problems.append(problem)

    def problem(self) -> Sam3dError:
        """What is said of a job without an answer."""
        texts = dict.fromkeys(f"{type(p).__name__}: {p}".rstrip(": ") for p in self._problems)
        why = "; ".join(texts) or "the map ended without its answer"
        return WorkerCrashed(f"The Modal container failed ({why}).", "The next attempt gets a fresh one; `modal app logs` says more.")


def _of_modal(error: Exception, *, began: bool) -> Sam3dError:
    """A failure of the whole map. Nobody's doing, so no WorkerCrashed, which would count against its jobs."""
    name = type(error).__name__
    if name in ("AuthError", "NotFoundError", "PermissionDeniedError", "InvalidError"):
        hint = "Run: modal token new" if name == "AuthError" else "Deploy the app first: modal deploy deploy/sam3d_modal_app.py"
        return SetupError(f"Modal can't be used: {error}", hint)
    kind = WorkerError if began else WorkerStartError
    return kind(f"Modal failed ({name}: {error}).", "Look at status and logs of the app: modal app logs sam3d.")


class ModalSlot:
    """One of the inputs that may be under way."""

    def __init__(self, executor: ModalExecutor) -> None:
        self._executor = executor
        self._job: Any = None

    def reconstruct(self, request: ReconstructRequest) -> LocalJob:
        job = self._job = self._executor.submit(request)
        return job

    def close(self) -> None:
        if self._job is not None:
            self._executor.drop(self._job)
