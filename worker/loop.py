"""The worker's loop: one job at a time on the main thread, and three threads beside it.

main    engines and encoders, undisturbed
read    takes messages off the wire, so that a cancel is seen at once; ends the process when the client closes its end
beat    tells the client that the interpreter runs
guard   re-arms a timer that ends the process when the interpreter doesn't run
"""

from __future__ import annotations

import faulthandler
import functools
import os
import platform
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ..contract.backend import Log, Preview
from ..contract.errors import EngineError, JobCancelled, OutOfMemoryError, ProtocolError, Sam3dError, SetupError
from ..contract.messages import (
    SILENCE_VARIABLE,
    Beat,
    Cancel,
    Export,
    Hello,
    JobDone,
    JobExported,
    JobFailed,
    JobLog,
    JobPreview,
    JobProgress,
    JobStopped,
    Prepare,
    Reconstruct,
)
from ..contract.record import Record
from ..contract.request import ExportOptions
from ..contract.scene import Scene
from ..contract.version import PROTOCOL, VERSION
from . import cache
from .channel import Channel, complain
from .history import History
from .job import Engine, Job, Planned, Preparing
from .progress import Course

BEAT = 1.0  # seconds between heartbeats; less where the client waits for less than four of them
PROGRESS_EVERY = 0.05  # seconds; steps in between are counted, not sent
ENCODE = "encode"  # the encoder's own stage, and its time as a share of the engine's where that is planned
ENCODE_SHARE = 0.3
PREVIEW = 1024  # pixels of a preview's longer side, at the most
TRACE_KEPT = 20_000  # characters of a traceback, its end

Encode = Callable[
    [Scene, Iterable[str], "ExportOptions | None", "Job | None", "np.ndarray | None"], Mapping[str, "bytes | memoryview"]
]  # the last: the photo
Ready = Callable[[Iterable[str], ExportOptions], None]
Load = Callable[[], Engine]


def serve(
    channel: Channel, engines: Mapping[str, Load], encode: Encode, ready: Ready = lambda formats, options: None, weights: str = ""
) -> None:
    """Work until the client closes its end; then the process ends, whatever it is doing.

    engines: name -> a function that imports and returns the engine (`auto` takes the last one listed). ready: raises where `encode` would lack something,
    before an engine works. weights: a digest of those that sam3d would use.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the client, which cancels
    faulthandler.enable()
    worker = _Worker(channel, engines, encode, ready)
    channel.send(Hello(PROTOCOL, VERSION, os.getpid(), platform.python_version(), tuple(engines), weights))
    for task in (worker.read, worker.guard, worker.beat):
        threading.Thread(target=task, name=f"sam3d-{task.__name__}", daemon=True).start()
    while True:
        worker.handle(worker.inbox.get())


class _Worker:
    def __init__(self, channel: Channel, engines: Mapping[str, Load], encode: Encode, ready: Ready) -> None:
        self.channel = channel
        self.engines = engines
        self.encode = encode
        self.ready = ready
        self.inbox: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self.silence = float(os.environ.get(SILENCE_VARIABLE, "120"))
        self.interval = min(BEAT, self.silence / 4)
        self.cancelled = 0  # the highest job that was cancelled; jobs are numbered upwards, one at a time
        self.history = functools.cache(open_history)

    def read(self) -> None:
        """Reader thread. The end of stdin is the end of the process: there is nobody left to work for."""
        try:
            while self._read_one():
                pass
        except (ProtocolError, MemoryError) as problem:
            complain(f"a message can't be read: {str(problem) or 'not enough memory'}")
            os._exit(3)
        except OSError:
            pass
        os._exit(0)

    def _read_one(self) -> bool:
        """A function of its own, so that no variable holds on to a request while the next message is waited for."""
        message = self.channel.receive()
        if isinstance(message, Cancel):
            self.cancelled = max(self.cancelled, message.job)
        elif message is not None:
            self.inbox.put(message)
        return message is not None

    def guard(self) -> None:
        """Re-arm the timer that ends a process whose interpreter doesn't run: it is C code, and fires even while this thread waits.

        A thread of its own: a client that doesn't read for a while blocks the heartbeat, and is no reason to end.
        """
        while True:
            faulthandler.dump_traceback_later(self.silence, exit=True)
            time.sleep(self.interval)

    def beat(self) -> None:
        """Heartbeat thread."""
        while True:
            self.channel.send(Beat())
            time.sleep(self.interval)

    def handle(self, message: Record) -> None:
        """Main thread: one job from its message to its last answer. Never raises for a failed job."""
        assert isinstance(message, (Reconstruct, Prepare, Export))
        job = _WireJob(self, message.job, _encoding(message))
        answer: Record
        try:
            job.check()
            if isinstance(message, Reconstruct):
                answer = self._reconstruct(message, job)
            else:
                answer = self._prepare(message, job) if isinstance(message, Prepare) else self._export(message, job)
            job.course.finish()
        except JobCancelled:
            answer = JobStopped(message.job)
        except BaseException as problem:  # SystemExit too: a library that calls exit() fails the job, not the process
            answer = JobFailed(message.job, _as_error(problem).to_json())
        try:
            self.channel.send(answer)
        except TypeError as problem:  # an engine returned what can't be sent; nothing of it was written
            self.channel.send(JobFailed(message.job, _as_error(problem).to_json()))

    def _reconstruct(self, message: Reconstruct, job: _WireJob) -> JobDone:
        request = message.request
        self.ready(request.outputs, request.export)
        _, engine = _load(request.engine, self.engines)
        scene = engine(request, job)
        if not isinstance(scene, Scene):
            raise TypeError(f"it returned {type(scene).__name__}, not a Scene")
        start = time.perf_counter()
        files = self.encode(scene, request.outputs, request.export, job, request.image)
        timings = {**scene.timings, **job.timings, ENCODE: time.perf_counter() - start}
        return JobDone(message.job, scene.replace(files=_as_arrays(files), timings=timings))

    def _prepare(self, message: Prepare, job: _WireJob) -> JobDone:
        """An engine without anything to prepare has done it."""
        name, engine = _load(message.request.engine, self.engines)
        if isinstance(engine, Preparing):
            engine.prepare(message.request, job)
        return JobDone(message.job, Scene(objects=(), engine=name, timings=job.timings))

    def _export(self, message: Export, job: _WireJob) -> JobExported:
        return JobExported(message.job, _as_arrays(self.encode(message.scene, message.formats, message.options, job, None)))


def open_history() -> History:
    """The machine's, beside the stage cache; where nothing may be kept, this process's."""
    try:
        kept = cache.open_cache()
    except Sam3dError:  # an engine that uses the cache says so
        return History()
    return History(kept.folder if kept.limit else None)


def _encoding(message: Reconstruct | Prepare | Export) -> Planned | None:
    """The encoder's place in the plan: nothing is encoded of a picture that is prepared."""
    if not isinstance(message, Reconstruct):
        return Planned(ENCODE, ENCODE_SHARE) if isinstance(message, Export) else None
    request = message.request
    what = f"{ENCODE} {' '.join(sorted(set(request.outputs)))}"
    return Planned(ENCODE, ENCODE_SHARE, float(len(request.masks)), what)


def _load(wanted: str, engines: Mapping[str, Load]) -> tuple[str, Engine]:
    """The engine and its name."""
    name = list(engines)[-1] if wanted == "auto" else wanted
    if name not in engines:
        raise SetupError(f"The engine {wanted!r} isn't in this version of the pack.", f"Use one of: auto, {', '.join(engines)}.")
    try:
        return name, engines[name]()
    except ImportError as problem:
        raise SetupError(f"The engine {name!r} can't be loaded: {problem}.", detail=_trace(problem)) from None


def _as_arrays(files: Mapping[str, bytes | memoryview]) -> dict[str, np.ndarray]:
    return {name: np.frombuffer(data, np.uint8) for name, data in files.items()}


def _as_error(problem: BaseException) -> Sam3dError:
    """An error of ours for whatever an engine raised."""
    if isinstance(problem, Sam3dError):
        return type(problem)(problem.message, problem.hint, detail=problem.detail or _trace(problem))
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return OutOfMemoryError("The worker ran out of memory.", detail=_trace(problem))
    try:
        text = str(problem) or "no message"
    except Exception:  # an exception's own __str__ may raise
        text = "no message"
    return EngineError(
        f"The engine failed: {type(problem).__name__}: {text}.", "This is a defect: please report it with the log.", detail=_trace(problem)
    )


def _trace(problem: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(problem))[-TRACE_KEPT:]
    except MemoryError:
        return ""


class _WireJob:
    """The Job that an engine sees: steps become Progress messages, a Cancel becomes JobCancelled at the next step."""

    def __init__(self, worker: _Worker, number: int, encoding: Planned | None = None) -> None:
        self.timings: dict[str, float] = {}
        self.course = Course(worker.history, encoding)
        self._worker = worker
        self._number = number
        self._sent = 0.0

    def check(self) -> None:
        if self._number <= self._worker.cancelled:
            raise JobCancelled("The job was cancelled.")

    def plan(self, stages: Mapping[str, float] | Iterable[Planned], where: str = "") -> None:
        self.course.plan([Planned(*item) for item in stages.items()] if isinstance(stages, Mapping) else stages, where)

    def step(self, stage: str, step: int, total: int) -> None:
        self.check()
        progress = self.course.step(stage, step, total)
        now = time.monotonic()
        if 0 < progress.step < progress.total and now - self._sent < PROGRESS_EVERY:
            return
        self._sent = now
        self._worker.channel.send(JobProgress(self._number, progress))

    def log(self, text: str, level: str = "info") -> None:
        self._worker.channel.send(JobLog(self._number, Log(text, level)))
        self.check()

    def preview(self, image: np.ndarray) -> None:
        step = -(-max(image.shape[:2]) // PREVIEW)  # whoever watches many jobs keeps many of them
        self._worker.channel.send(JobPreview(self._number, Preview(np.ascontiguousarray(image[::step, ::step]))))
        self.check()
