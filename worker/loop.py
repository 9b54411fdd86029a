"""The worker's loop: one job at a time on the main thread; a reader and a heartbeat thread beside it.

reader     takes messages off the wire, so that a cancel is seen at once; ends the process when the client closes its end
heartbeat  tells the client that the interpreter runs, and re-arms a timer that ends the process when it doesn't
main       engines and encoders, undisturbed
"""

from __future__ import annotations

import faulthandler
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ..contract.backend import Log, Preview, Progress
from ..contract.errors import EngineError, JobCancelled, OutOfMemoryError, ProtocolError, Sam3dError, SetupError
from ..contract.messages import (
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
    Reconstruct,
)
from ..contract.messages import JobCancelled as JobCancelledMessage
from ..contract.record import Record
from ..contract.request import ExportOptions
from ..contract.scene import Scene
from ..contract.version import PROTOCOL, VERSION
from .channel import Channel
from .job import Engine, Job

BEAT = 1.0  # seconds between heartbeats
PROGRESS_EVERY = 0.05  # seconds; steps in between are counted, not sent
ENCODE = "encode"  # the encoder's own stage, and its time as a share of the engine's where that is planned
ENCODE_SHARE = 0.3
SILENCE_VARIABLE = "SAM3D_WORKER_SILENCE"  # seconds without a heartbeat after which the client gives the worker up

Encode = Callable[[Scene, Iterable[str], "ExportOptions | None", "Job | None"], Mapping[str, bytes]]
Load = Callable[[], Engine]


def serve(channel: Channel, engines: Mapping[str, Load], encode: Encode) -> None:
    """Work until the client closes its end; then the process ends, whatever it is doing.

    engines: name -> a function that imports and returns the engine (`auto` picks the last one listed that is ready).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the client, which cancels
    faulthandler.enable()
    worker = _Worker(channel, engines, encode)
    threading.Thread(target=worker.read, name="sam3d-reader", daemon=True).start()
    channel.send(Hello(PROTOCOL, VERSION, os.getpid(), platform.python_version(), tuple(engines)))
    threading.Thread(target=worker.beat, name="sam3d-heartbeat", daemon=True).start()
    while True:
        worker.handle(worker.inbox.get())


class _Worker:
    def __init__(self, channel: Channel, engines: Mapping[str, Load], encode: Encode) -> None:
        self.channel = channel
        self.engines = engines
        self.encode = encode
        self.inbox: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self.cancelled: set[int] = set()

    def read(self) -> None:
        """Reader thread. The end of stdin is the end of the process: there is nobody left to work for."""
        try:
            while (message := self.channel.receive()) is not None:
                if isinstance(message, Cancel):
                    self.cancelled.add(message.job)
                else:
                    self.inbox.put(message)
        except ProtocolError as problem:
            print(f"sam3d worker: {problem}", file=sys.stderr, flush=True)
            os._exit(3)
        except OSError:
            pass
        os._exit(0)

    def beat(self) -> None:
        """Heartbeat thread. The timer is C code: it fires even while this thread waits for the interpreter lock."""
        silence = float(os.environ.get(SILENCE_VARIABLE, "120"))
        while True:
            faulthandler.dump_traceback_later(silence, exit=True)
            try:
                self.channel.send(Beat())
            except OSError:
                os._exit(0)
            time.sleep(BEAT)

    def handle(self, message: Record) -> None:
        """Main thread: one job from its message to its last answer. Never raises for a failed job."""
        assert isinstance(message, (Reconstruct, Export))
        job = _WireJob(self, message.job)
        answer: Record
        try:
            job.check()
            if isinstance(message, Reconstruct):
                answer = JobDone(message.job, self._reconstruct(message, job))
            else:
                files = self.encode(message.scene, message.formats, message.options, job)
                answer = JobExported(message.job, _as_arrays(files))
        except JobCancelled:
            answer = JobCancelledMessage(message.job)
        except BaseException as problem:  # SystemExit too: a library that calls exit() fails the job, not the process
            answer = JobFailed(message.job, _as_error(problem).to_json())
        self.cancelled.discard(message.job)
        try:
            self.channel.send(answer)
        except TypeError as problem:  # an engine returned what can't be sent; nothing of it was written
            self.channel.send(JobFailed(message.job, _as_error(problem).to_json()))

    def _reconstruct(self, message: Reconstruct, job: _WireJob) -> Scene:
        request = message.request
        name = _choose(request.engine, self.engines)
        scene = self.engines[name]()(request, job)
        start = time.perf_counter()
        files = self.encode(scene, request.outputs, request.export, job)
        timings = {**scene.timings, **job.timings, "encode": time.perf_counter() - start}
        return scene.replace(files=_as_arrays(files), timings=timings)


def _choose(wanted: str, engines: Mapping[str, Load]) -> str:
    if wanted == "auto":
        return list(engines)[-1]
    if wanted not in engines:
        raise SetupError(f"The engine {wanted!r} isn't in this version of the pack.", f"Use one of: auto, {', '.join(engines)}.")
    return wanted


def _as_arrays(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    return {name: np.frombuffer(data, np.uint8) for name, data in files.items()}


def _as_error(problem: BaseException) -> Sam3dError:
    detail = "".join(traceback.format_exception(problem))
    if isinstance(problem, Sam3dError):
        return type(problem)(problem.message, problem.hint, detail=problem.detail or detail)
    if isinstance(problem, MemoryError):
        return OutOfMemoryError("The worker ran out of memory.", detail=detail)
    text = str(problem) or "no message"
    return EngineError(
        f"The engine failed: {type(problem).__name__}: {text}.", "This is a defect: please report it with the log.", detail=detail
    )


class _WireJob:
    """The Job that an engine sees: steps become Progress messages, a Cancel becomes JobCancelled at the next step."""

    def __init__(self, worker: _Worker, number: int) -> None:
        self.timings: dict[str, float] = {}
        self._worker = worker
        self._number = number
        self._started = time.monotonic()
        self._sent = 0.0
        self._plan: dict[str, tuple[float, float]] = {}  # stage -> where it begins and ends, 0..1
        self._fraction = 0.0

    def check(self) -> None:
        if self._number in self._worker.cancelled:
            raise JobCancelled("The job was cancelled.")

    def plan(self, stages: Mapping[str, float]) -> None:
        whole, at = sum(stages.values()), 0.0
        for stage, share in {**stages, ENCODE: whole * ENCODE_SHARE}.items():
            self._plan[stage] = (at, at := at + share / (whole * (1 + ENCODE_SHARE)))

    def step(self, stage: str, step: int, total: int) -> None:
        self.check()
        if stage not in self._plan:  # an unplanned stage takes half of what is left: the bar never falls and never lies about the end
            self._plan[stage] = (self._fraction, (1 + self._fraction) / 2)
        start, end = self._plan[stage]
        share = min(max(step / total, 0.0), 1.0) if total > 0 else 0.0
        self._fraction = min(max(self._fraction, start + (end - start) * share), 1.0)
        now = time.monotonic()
        if 0 < step < total and now - self._sent < PROGRESS_EVERY:
            return
        self._sent = now
        eta = (now - self._started) * (1 - self._fraction) / self._fraction if self._fraction > 0.05 else None
        self._send(JobProgress(self._number, Progress(stage, step, total, self._fraction, eta)))

    def log(self, text: str, level: str = "info") -> None:
        self._send(JobLog(self._number, Log(text, level)))
        self.check()

    def preview(self, image: np.ndarray) -> None:
        self._send(JobPreview(self._number, Preview(image)))
        self.check()

    def _send(self, message: Record) -> None:
        try:
            self._worker.channel.send(message)
        except BrokenPipeError:
            os._exit(0)  # nobody is listening
