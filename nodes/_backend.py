"""One worker for all nodes of this process, kept between runs and closed when nobody has used it for a while.

The node's own thread does the waiting: it looks at the host's interrupt flag at least four times a second, and says something at least
every ten seconds, because clients give up on a silent host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..contract.backend import Backend, Cancelled, Done, Failed, Log, Preview, Progress, Reconstruction
from ..contract.errors import JobCancelled
from ..contract.request import ExportOptions, ReconstructRequest
from ..contract.scene import Scene
from . import _host

log = logging.getLogger("sam3d")
T = TypeVar("T")

POLL = 0.2  # seconds between two looks at the interrupt flag
SIGN_OF_LIFE = 8.0  # seconds of silence after which the node says that it still works
TEXT_EVERY = 0.5  # seconds between two lines about the same stage
IDLE = 300.0  # seconds without work after which the worker is closed


def _open() -> Backend:
    from ..client import open_backend  # here, so that loading the pack doesn't pay for it

    return open_backend(environment=_host.model_folders())


class _Voice:
    """What the node says while it waits: a stage's name when it changes, and signs of life."""

    def __init__(self, stage: str = "starting") -> None:
        self._started = self._said = time.monotonic()
        self._stage = stage
        self._worried = False

    def stage(self, name: str, detail: str = "") -> None:
        now = time.monotonic()
        if name != self._stage or (detail and now - self._said >= TEXT_EVERY):
            self._stage, self._said = name, now
            _host.say(f"{name} {detail}".strip())

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._said >= SIGN_OF_LIFE:
            self._said, self._worried = now, True
            _host.say(f"{self._stage}: still working, {now - self._started:.0f} s")

    def done(self) -> None:
        """Takes the last sign of life back."""
        if self._worried:
            _host.say(f"{self._stage}: {time.monotonic() - self._started:.0f} s")


class SharedBackend:
    """The two verbs of a Backend for nodes: they wait in the caller's thread, show progress, and let the host's interrupt through."""

    def __init__(self, open_backend: Callable[[], Backend] = _open, *, idle: float = IDLE) -> None:
        self._open_backend = open_backend
        self._idle = idle
        self._lock = threading.RLock()  # one node at a time, and the idle timer
        self._backend: Backend | None = None
        self._cancelled: Reconstruction | None = None  # a job that was told to stop and may not have done so yet
        self._uses = 0

    def reconstruct(self, request: ReconstructRequest, progress: Callable[[float, Any], None]) -> Scene:
        """request -> Scene. progress(fraction, picture or None) is called in this thread. Raises a Sam3dError or the host's interrupt."""
        with self._lock:
            try:
                backend = self._ready()
                if self._engine(backend, request.engine) != "draft":
                    _host.free_vram()  # the draft works on the CPU
                job = backend.reconstruct(request)
                try:
                    return self._watch(job, progress)
                except BaseException:  # the host's interrupt is no Exception on newer hosts
                    self._cancelled = job
                    job.cancel()
                    raise
            finally:
                self._rest()

    def export(self, scene: Scene, formats: Iterable[str], options: ExportOptions) -> dict[str, bytes]:
        """scene -> file name -> bytes. Raises a Sam3dError or the host's interrupt, which then also ends the worker."""
        with self._lock:
            try:
                backend = self._ready()
                return self._waited("encoding", lambda: backend.export(scene, formats, options))
            finally:
                self._rest()

    def close(self) -> None:
        """End the worker now. The next call starts another one."""
        with self._lock:
            backend, self._backend, self._cancelled = self._backend, None, None
        if backend is not None:
            backend.close()

    def _ready(self) -> Backend:
        self._uses += 1
        if self._backend is None:
            self._backend = self._open_backend()
        while self._cancelled is not None:  # the worker ends it at its next step, or the client ends the worker
            _host.check_interrupt()
            if isinstance(self._cancelled.poll(POLL), (Done, Failed, Cancelled)):
                self._cancelled = None
        return self._backend

    def _engine(self, backend: Backend, wanted: str) -> str:
        """The engine that `wanted` means to this worker; `auto` is the last one that it lists."""
        if wanted != "auto":
            return wanted
        engines = self._waited("starting the worker", backend.start).engines
        return engines[-1] if engines else "draft"

    def _watch(self, job: Reconstruction, progress: Callable[[float, Any], None]) -> Scene:
        voice = _Voice()
        fraction = 0.0
        while True:
            _host.check_interrupt()
            event = job.poll(POLL)
            voice.tick()
            if isinstance(event, Progress):
                fraction = event.fraction
                progress(fraction, None)
                voice.stage(event.stage, f"{event.step}/{event.total}" if event.total > 1 else "")
            elif isinstance(event, Preview):
                progress(fraction, event.image)
            elif isinstance(event, Log):
                log.log(logging.WARNING if event.level == "warning" else logging.INFO, "%s", event.text)
            elif isinstance(event, Done):
                return event.scene
            elif isinstance(event, Failed):
                if event.error.detail:
                    log.error("%s\n%s", event.error, event.error.detail)
                raise event.error
            elif isinstance(event, Cancelled):
                raise JobCancelled("The job was cancelled.", "Queue it again.")

    def _waited(self, what: str, call: Callable[[], T]) -> T:
        """`call` on a thread of its own, while this one watches the interrupt flag. An interrupt gives the worker up."""
        answer: list[T] = []
        problem: list[BaseException] = []

        def work() -> None:
            try:
                answer.append(call())
            except BaseException as raised:
                problem.append(raised)

        thread = threading.Thread(target=work, name="sam3d-node", daemon=True)
        thread.start()
        voice = _Voice(what)
        try:
            while thread.is_alive():
                thread.join(POLL)
                _host.check_interrupt()
                voice.tick()
        except BaseException:
            backend, self._backend = self._backend, None
            if backend is not None:
                threading.Thread(target=backend.close, name="sam3d-close", daemon=True).start()
            raise
        if problem:
            raise problem[0]
        voice.done()
        return answer[0]

    def _rest(self) -> None:
        """The worker's memory goes back to the system when nobody comes for a while."""
        uses = self._uses

        def close_if_unused() -> None:
            with self._lock:
                if self._uses == uses:
                    self.close()

        timer = threading.Timer(self._idle, close_if_unused)
        timer.daemon = True
        timer.start()


shared = SharedBackend()
